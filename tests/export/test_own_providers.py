from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry._logs import SeverityNumber
from opentelemetry.metrics import NoOpUpDownCounter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.metrics import (
    AlwaysOffExemplarFilter,
    AlwaysOnExemplarFilter,
    MeterProvider,
    TraceBasedExemplarFilter,
)
from opentelemetry.trace import Link, SpanContext, TraceFlags

from rocketry_otel import Delivery
from rocketry_otel._export import own_providers as own
from rocketry_otel._export.buffer import QueueLimits
from rocketry_otel._export.counters import Counters
from rocketry_otel._export.metric_push import MetricPush
from rocketry_otel._export.outage import Outage
from rocketry_otel._export.queue import ExportQueue
from rocketry_otel._runtime import forks
from rocketry_otel._telemetry.metrics import TaskMetrics
from tests.support.otlp_receiver import OTLPReceiver, attributes_of


class Made:
    """Providers of our own, which are closed when the test is over."""

    def __init__(self) -> None:
        self.counters = Counters()
        self.outage = Outage(self.counters)
        self.channels: list[own.Channel] = []

    def tracer(self) -> Any:
        return self._made(own.tracer_provider(self.counters, self.outage))

    def logger(self) -> Any:
        return self._made(own.logger_provider(self.counters, self.outage))

    def meter(self) -> Any:
        return self._made(own.meter_provider(self.outage))

    def _made(self, made: tuple[Any, list[own.Channel]]) -> Any:
        provider, channels = made
        self.channels += channels
        return provider

    def close(self, deadline: float = float("inf")) -> None:
        for channel in self.channels:
            channel.begin_closing(deadline)
            channel.finish_closing()


@pytest.fixture
def made() -> Iterator[Made]:
    """Providers of our own, which are closed when the test is over."""
    made = Made()
    yield made
    made.close(0.0)


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[OTLPReceiver]:
    """A receiver, which the environment names where that matters."""
    with OTLPReceiver(grpc=False) as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.http_endpoint)
        yield receiver


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return our own warnings."""
    return [record.getMessage() for record in caplog.records if record.name == "rocketry_otel"]


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({}, "rocketry"),
        ({"OTEL_SERVICE_NAME": "etl"}, "etl"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=etl"}, "etl"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "a=b, service.name=etl"}, "etl"),
        ({"OTEL_SERVICE_NAME": "etl", "OTEL_RESOURCE_ATTRIBUTES": "service.name=other"}, "etl"),
        ({"OTEL_SERVICE_NAME": "", "OTEL_RESOURCE_ATTRIBUTES": "my.service.name=x"}, "rocketry"),
    ],
)
def test_the_service_is_named_by_the_environment_or_rocketry(
    monkeypatch: pytest.MonkeyPatch, made: Made, variables: dict[str, str], name: str
) -> None:
    """All three signals bear the same name; without one in the environment it is ``rocketry``."""
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    assert made.tracer().resource.attributes["service.name"] == name
    assert made.logger().resource.attributes["service.name"] == name
    assert made.meter()._sdk_config.resource.attributes["service.name"] == name


def test_the_resource_has_the_attributes_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, made: Made
) -> None:
    """Attributes of the environment are on all that is sent; a bad pair costs no other."""
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test,bad,team=a%20b")
    attributes = made.tracer().resource.attributes
    assert attributes["deployment.environment"] == "test"
    assert attributes["team"] == "a b"
    assert attributes["service.name"] == "rocketry"
    assert attributes["telemetry.sdk.name"] == "opentelemetry"


def test_each_signal_arrives_through_its_own_channel(receiver: OTLPReceiver, made: Made) -> None:
    """Spans, log records and metrics of our own providers are sent, once each."""
    tracer = made.tracer().get_tracer("test")
    with tracer.start_as_current_span("parent"):
        tracer.start_span("child").end()
    made.logger().get_logger("test").emit(
        body="hello", severity_number=SeverityNumber.WARN, attributes={"a": 1}
    )
    made.meter().get_meter("test").create_counter("runs").add(3)
    assert [type(channel) for channel in made.channels] == [ExportQueue, ExportQueue, MetricPush]
    made.close()
    assert [it.span.name for it in receiver.spans] == ["child", "parent"]
    (received,) = receiver.log_records
    assert received.log_record.body.string_value == "hello"
    assert received.log_record.severity_number == SeverityNumber.WARN.value
    assert attributes_of(received.log_record.attributes) == {"a": 1}
    assert attributes_of(received.resource.attributes)["service.name"] == "rocketry"
    assert [it.metric.name for it in receiver.metrics] == ["runs"]


def test_spans_that_are_not_sampled_are_not_sent(
    monkeypatch: pytest.MonkeyPatch, receiver: OTLPReceiver, made: Made
) -> None:
    """The sampler of the environment decides."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    made.tracer().get_tracer("test").start_span("unseen").end()
    made.close()
    assert receiver.requests == []
    assert made.counters.of("traces", "delivered") == {}


def test_spans_that_are_recorded_but_not_sampled_are_not_sent(
    receiver: OTLPReceiver, made: Made
) -> None:
    """A sampler that only records keeps spans in the process."""
    from opentelemetry.sdk.trace.sampling import (  # noqa: PLC0415
        Decision,
        StaticSampler,
    )

    provider = made.tracer()
    provider.sampler = StaticSampler(Decision.RECORD_ONLY)
    provider.get_tracer("test").start_span("unseen").end()
    made.close()
    assert receiver.requests == []


@pytest.mark.parametrize(
    ("sampler", "argument", "description", "warnings"),
    [
        (None, None, "ParentBased{root:AlwaysOnSampler", 0),
        ("always_on", None, "AlwaysOnSampler", 0),
        ("traceidratio", "0.25", "TraceIdRatioBased{0.25}", 0),
        ("parentbased_traceidratio", "0.5", "ParentBased{root:TraceIdRatioBased{0.5}", 0),
        ("traceidratio", "much", "TraceIdRatioBased{1.0}", 1),
        ("traceidratio", "7", "TraceIdRatioBased{1.0}", 1),
        ("coin", None, "ParentBased{root:AlwaysOnSampler", 1),
    ],
)
def test_the_sampler_is_that_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    made: Made,
    sampler: str | None,
    argument: str | None,
    description: str,
    warnings: int,
) -> None:
    """A sampler or an argument that is not known is warned about and ignored."""
    for name, value in (("OTEL_TRACES_SAMPLER", sampler), ("OTEL_TRACES_SAMPLER_ARG", argument)):
        if value is not None:
            monkeypatch.setenv(name, value)
    assert made.tracer().sampler.get_description().startswith(description)
    assert len(caplog.records) == warnings


def queue_limits(channel: Any) -> QueueLimits:
    """Return the limits of a queue."""
    limits = channel._limits
    assert isinstance(limits, QueueLimits)
    return limits


def test_the_queues_are_as_large_and_slow_as_the_specification_says(made: Made) -> None:
    """Without variables the specification's defaults are in force."""
    made.tracer()
    made.logger()
    traces, logs = made.channels
    assert queue_limits(traces) == QueueLimits(size=2048, batch=512, delay=5.0)
    assert queue_limits(logs) == QueueLimits(size=2048, batch=512, delay=1.0)


def test_the_queues_are_as_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, made: Made
) -> None:
    """Spans and log records have variables of their own; a bad one is warned about and ignored."""
    for name, value in {
        "OTEL_BSP_SCHEDULE_DELAY": "0",
        "OTEL_BSP_MAX_QUEUE_SIZE": "10",
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "20",
        "OTEL_BLRP_SCHEDULE_DELAY": "250",
        "OTEL_BLRP_MAX_QUEUE_SIZE": "0",
        "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE": "-1",
    }.items():
        monkeypatch.setenv(name, value)
    made.tracer()
    made.logger()
    traces, logs = made.channels
    assert queue_limits(traces) == QueueLimits(size=10, batch=10, delay=0.0)
    assert queue_limits(logs) == QueueLimits(size=2048, batch=512, delay=0.25)
    assert [line.partition(" ")[0] for line in warned(caplog)] == [
        "OTEL_BLRP_MAX_QUEUE_SIZE",
        "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE",
    ]


@pytest.mark.parametrize(
    ("value", "interval", "warnings"), [(None, 60.0, 0), ("1500", 1.5, 0), ("0", 60.0, 1)]
)
def test_metrics_are_sent_as_often_as_the_environment_says(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    made: Made,
    value: str | None,
    interval: float,
    warnings: int,
) -> None:
    """Each minute without a variable, or with a bad one."""
    if value is not None:
        monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", value)
    made.meter()
    (push,) = made.channels
    assert push._interval == interval
    assert len(warned(caplog)) == warnings


def test_metrics_have_the_temporality_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, receiver: OTLPReceiver, made: Made
) -> None:
    """What the exporter prefers is how metrics are collected."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta")
    made.meter().get_meter("test").create_counter("runs").add(3)
    made.close()
    (received,) = receiver.metrics
    assert received.metric.sum.aggregation_temporality == 1


@pytest.mark.parametrize(
    ("value", "expected", "warnings"),
    [
        (None, TraceBasedExemplarFilter, 0),
        ("always_on", AlwaysOnExemplarFilter, 0),
        ("always_off", AlwaysOffExemplarFilter, 0),
        ("sometimes", TraceBasedExemplarFilter, 1),
    ],
)
def test_exemplars_are_filtered_as_the_environment_says(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    made: Made,
    value: str | None,
    expected: type,
    warnings: int,
) -> None:
    """A filter that there is not would make the SDK raise: it is warned about and ignored."""
    if value is not None:
        monkeypatch.setenv("OTEL_METRICS_EXEMPLAR_FILTER", value)
    assert type(made.meter()._sdk_config.exemplar_filter) is expected
    assert len(warned(caplog)) == warnings


def test_without_exporters_there_are_no_threads(
    monkeypatch: pytest.MonkeyPatch, made: Made
) -> None:
    """``none`` makes a provider that sends nothing and costs nothing."""
    before = set(threading.enumerate())
    for signal in ("TRACES", "LOGS", "METRICS"):
        monkeypatch.setenv(f"OTEL_{signal}_EXPORTER", "none")
    made.tracer().get_tracer("test").start_span("unseen").end()
    made.logger().get_logger("test").emit(body="unseen")
    made.meter().get_meter("test").create_counter("unseen").add(1)
    assert made.channels == []
    assert set(threading.enumerate()) <= before


# The SDK before 1.45 reads limits of log records for itself, and not all of them.
TAKES_LIMITS = "log_record_limits" in inspect.signature(LoggerProvider).parameters


def link_with(attributes: dict[str, int]) -> Link:
    """Return a link to some span."""
    context = SpanContext(1, 1, is_remote=False, trace_flags=TraceFlags(1))
    return Link(context, attributes)


@pytest.mark.filterwarnings(
    "ignore::opentelemetry.sdk._logs.LogRecordDroppedAttributesWarning",
)
@pytest.mark.parametrize(
    ("variables", "span", "event", "link", "record"),
    [
        ({}, {"a": "12345", "b": 2}, {"a": 1, "b": 2}, {"a": 1, "b": 2}, {"a": "12345", "b": 2}),
        (
            {"OTEL_ATTRIBUTE_COUNT_LIMIT": "1"},
            {"b": 2},
            {"b": 2},
            {"b": 2},
            {"b": 2},
        ),
        (
            {"OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "3"},
            {"a": "123", "b": 2},
            {"a": 1, "b": 2},
            {"a": 1, "b": 2},
            {"a": "123", "b": 2},
        ),
        (
            {
                "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "1",
                "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT": "0",
                "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT": "1",
                "OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT": "1",
            },
            {"b": 2},
            {},
            {"b": 2},
            {"b": 2},
        ),
        (
            {
                "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": "2",
                "OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT": "1",
            },
            {"a": "12", "b": 2},
            {"a": 1, "b": 2},
            {"a": 1, "b": 2},
            {"a": "1", "b": 2},
        ),
        (
            {
                "OTEL_ATTRIBUTE_COUNT_LIMIT": "few",
                "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "-3",
                "OTEL_SPAN_EVENT_COUNT_LIMIT": "",
                "OTEL_SPAN_LINK_COUNT_LIMIT": "x",
                "OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT": "y",
            },
            {"a": "12345", "b": 2},
            {"a": 1, "b": 2},
            {"a": 1, "b": 2},
            {"a": "12345", "b": 2},
        ),
    ],
    ids=["none", "count", "length", "own counts", "own lengths", "bad"],
)
def test_the_limits_of_the_environment_are_in_force(
    monkeypatch: pytest.MonkeyPatch,
    receiver: OTLPReceiver,
    made: Made,
    variables: dict[str, str],
    span: dict[str, Any],
    event: dict[str, Any],
    link: dict[str, Any],
    record: dict[str, Any],
) -> None:
    """General limits and those of one kind cut what is too much; a bad one cuts nothing."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    tracer = made.tracer().get_tracer("test")
    attributes = {"a": "12345", "b": 2}
    with tracer.start_as_current_span(
        "run", attributes=attributes, links=[link_with({"a": 1, "b": 2})]
    ) as made_span:
        made_span.add_event("exception", {"a": 1, "b": 2})
    if TAKES_LIMITS:
        made.logger().get_logger("test").emit(body="hello", attributes=attributes)
    made.close()
    ((_, _, received),) = receiver.spans
    assert attributes_of(received.attributes) == span
    assert attributes_of(received.events[0].attributes) == event
    assert attributes_of(received.links[0].attributes) == link
    records = [attributes_of(it.log_record.attributes) for it in receiver.log_records]
    assert records == ([record] if TAKES_LIMITS else [])


@pytest.mark.parametrize(("name", "field"), [("EVENT", "events"), ("LINK", "links")])
def test_the_number_of_events_and_links_is_limited(
    monkeypatch: pytest.MonkeyPatch, receiver: OTLPReceiver, made: Made, name: str, field: str
) -> None:
    """A span with more of them than allowed keeps the latest."""
    monkeypatch.setenv(f"OTEL_SPAN_{name}_COUNT_LIMIT", "1")
    span = made.tracer().get_tracer("test").start_span("run", links=[link_with({}), link_with({})])
    span.add_event("one")
    span.add_event("two")
    span.end()
    made.close()
    ((_, _, received),) = receiver.spans
    assert len(getattr(received, field)) == 1


def test_a_log_record_does_not_keep_its_context(receiver: OTLPReceiver, made: Made) -> None:
    """While a record waits in the queue it holds on to nothing of the task's."""
    import gc  # noqa: PLC0415
    import weakref  # noqa: PLC0415

    from opentelemetry.context import Context  # noqa: PLC0415

    class Large:
        pass

    held = Large()
    alive = weakref.ref(held)
    made.logger().get_logger("test").emit(body="hello", context=Context({"key": held}))
    del held
    gc.collect()
    assert alive() is None
    made.close()
    assert len(receiver.log_records) == 1


def test_the_providers_ask_nothing_of_their_processors(made: Made) -> None:
    """Flush and shutdown of an own provider are ours to do: the SDK's reach no queue."""
    provider = made.logger()
    provider.get_logger("test").emit(body="hello")
    assert provider.force_flush(1) is True
    provider.shutdown()
    assert made.counters.of("logs", "delivered") == {}


def test_a_forked_child_measures_nothing_with_our_own_provider(made: Made) -> None:
    """The SDK's locks may have been held at the fork: no measurement asks for them in the child."""
    metrics = TaskMetrics(made.meter(), made.counters, Delivery)
    measured = metrics._active
    metrics._measure_nothing()  # what happens in a child; there is no other difference
    assert metrics._active is not measured
    assert type(metrics._active) is NoOpUpDownCounter


def test_a_borrowed_meter_provider_measures_in_a_child_too() -> None:
    """What an application's provider does in a child is the application's affair."""
    provider = MeterProvider(shutdown_on_exit=False)
    before = len(forks._methods)
    metrics = TaskMetrics(provider, Counters(), Delivery)
    assert len(forks._methods) == before + 1  # that of the counts
    assert type(metrics._active) is not NoOpUpDownCounter


def test_older_sdks_are_given_no_limits_that_they_do_not_know(
    monkeypatch: pytest.MonkeyPatch, made: Made
) -> None:
    """Before 1.45 the provider takes no limits of log records, and reads them itself."""

    class Older(LoggerProvider):
        def __init__(self, resource: Any = None, *, shutdown_on_exit: bool = True) -> None:
            super().__init__(resource, shutdown_on_exit=shutdown_on_exit)

    monkeypatch.setattr(own, "LoggerProvider", Older)
    assert type(made.logger()) is Older


def test_each_channel_has_a_name_of_its_own(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """By which it is known in other processes, though two exporters send to the same place."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp,otlp_proto_http,otlp_proto_grpc")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318")
    _, channels = own.tracer_provider(made.counters, made.outage)
    made.channels += channels
    assert [channel.name for channel in channels if isinstance(channel, ExportQueue)] == [
        "traces http://localhost:4318/v1/traces",
        "traces http://localhost:4318/v1/traces (2)",
        "traces http://localhost:4318",
    ]


def test_spans_and_log_records_do_not_bear_what_differs_from_process_to_process(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sent again by another process they are the same to the byte; what the user says stays."""
    monkeypatch.setenv("OTEL_EXPERIMENTAL_RESOURCE_DETECTORS", "otel,process")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "team=data")
    assert own._lasting_resource().attributes.keys() == {
        "service.name",
        "team",
        "telemetry.sdk.language",
        "telemetry.sdk.name",
        "telemetry.sdk.version",
    }
    assert "process.pid" in own._resource().attributes
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.instance.id=one,process.pid=7")
    attributes = own._lasting_resource().attributes
    assert (attributes["service.instance.id"], str(attributes["process.pid"])) == ("one", "7")

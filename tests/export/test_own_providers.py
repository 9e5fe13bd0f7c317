from __future__ import annotations

import inspect
import os
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
from rocketry_otel._export.channel import Channel
from rocketry_otel._export.counters import Counters
from rocketry_otel._export.metric_push import MetricPush
from rocketry_otel._export.outage import Outage
from rocketry_otel._export.queue import ExportQueue
from rocketry_otel._telemetry.metrics import TaskMetrics
from tests.support.otlp_receiver import OTLPReceiver, attributes_of


class Made:
    """Providers of our own that are closed after the test."""

    def __init__(self) -> None:
        self.counters = Counters()
        self.outage = Outage(self.counters)
        self.channels: list[Channel] = []

    def tracer(self) -> Any:
        return self._made(own.tracer_provider(self.counters, self.outage))

    def logger(self) -> Any:
        return self._made(own.logger_provider(self.counters, self.outage))

    def meter(self) -> Any:
        return self._made(own.meter_provider(self.outage))

    def _made(self, made: tuple[Any, list[Channel]]) -> Any:
        provider, channels = made
        self.channels += channels
        return provider

    def close(self, deadline: float = float("inf")) -> None:
        for channel in self.channels:
            channel.begin_closing(deadline)
            channel.finish_closing()


@pytest.fixture
def made() -> Iterator[Made]:
    """Providers of our own that are closed after the test."""
    made = Made()
    yield made
    made.close(0.0)


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[OTLPReceiver]:
    """A receiver, named by the environment."""
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
def test_service_name_comes_from_environment(
    monkeypatch: pytest.MonkeyPatch, made: Made, variables: dict[str, str], name: str
) -> None:
    """All three signals have the same name; the default is ``rocketry``."""
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    assert made.tracer().resource.attributes["service.name"] == name
    assert made.logger().resource.attributes["service.name"] == name
    assert made.meter()._sdk_config.resource.attributes["service.name"] == name


def test_resource_has_environment_attributes(monkeypatch: pytest.MonkeyPatch, made: Made) -> None:
    """Each signal has them; a bad pair costs no other pair."""
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test,bad,team=a%20b")
    attributes = made.tracer().resource.attributes
    assert attributes["deployment.environment"] == "test"
    assert attributes["team"] == "a b"
    assert attributes["service.name"] == "rocketry"
    assert attributes["telemetry.sdk.name"] == "opentelemetry"


def test_each_signal_arrives_once(receiver: OTLPReceiver, made: Made) -> None:
    """Spans, records of runs, log lines and metrics leave by their own channels."""
    tracer = made.tracer().get_tracer("test")
    with tracer.start_as_current_span("parent"):
        tracer.start_span("child").end()
    made.logger().get_logger("test").emit(
        body="hello", severity_number=SeverityNumber.WARN, attributes={"a": 1}
    )
    made.meter().get_meter("test").create_counter("runs").add(3)
    traces, logs, lines, push = made.channels
    assert [type(one) for one in (traces, logs, lines, push)] == [ExportQueue] * 3 + [MetricPush]
    assert [isinstance(one, ExportQueue) and one.for_lines for one in made.channels] == [
        *(False, False, True, False)
    ]
    made.close()
    assert [it.span.name for it in receiver.spans] == ["child", "parent"]
    (received,) = receiver.log_records
    assert received.log_record.body.string_value == "hello"
    assert received.log_record.severity_number == SeverityNumber.WARN.value
    assert attributes_of(received.log_record.attributes) == {"a": 1}
    assert attributes_of(received.resource.attributes)["service.name"] == "rocketry"
    assert [it.metric.name for it in receiver.metrics] == ["runs"]


def test_unsampled_spans_are_not_sent(
    monkeypatch: pytest.MonkeyPatch, receiver: OTLPReceiver, made: Made
) -> None:
    """The sampler of the environment decides."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    made.tracer().get_tracer("test").start_span("unseen").end()
    made.close()
    assert receiver.requests == []
    assert made.counters.of("traces", "delivered") == {}


def test_record_only_spans_are_not_sent(receiver: OTLPReceiver, made: Made) -> None:
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
def test_unknown_sampler_is_ignored(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    made: Made,
    sampler: str | None,
    argument: str | None,
    description: str,
    warnings: int,
) -> None:
    """A bad sampler or argument gives one warning, and the default."""
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


def test_queue_defaults_are_the_specification_s(made: Made) -> None:
    """They are used without variables."""
    made.tracer()
    made.logger()
    traces, logs, lines = made.channels
    assert queue_limits(traces) == QueueLimits(size=2048, batch=512, delay=5.0)
    assert queue_limits(logs) == QueueLimits(size=2048, batch=512, delay=1.0)
    assert queue_limits(lines) == queue_limits(logs)


def test_queue_limits_come_from_environment(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, made: Made
) -> None:
    """Spans and log records have separate variables; a bad one is ignored with a warning."""
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
    traces, logs, lines = made.channels
    assert queue_limits(lines) == queue_limits(logs)
    assert queue_limits(traces) == QueueLimits(size=10, batch=10, delay=0.0)
    assert queue_limits(logs) == QueueLimits(size=2048, batch=512, delay=0.25)
    assert [line.partition(" ")[0] for line in warned(caplog)] == [
        "OTEL_BLRP_MAX_QUEUE_SIZE",
        "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE",
    ]


@pytest.mark.parametrize(
    ("value", "interval", "warnings"), [(None, 60.0, 0), ("1500", 1.5, 0), ("0", 60.0, 1)]
)
def test_metric_interval_comes_from_environment(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    made: Made,
    value: str | None,
    interval: float,
    warnings: int,
) -> None:
    """The default is a minute, also for a bad value."""
    if value is not None:
        monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", value)
    made.meter()
    (push,) = made.channels
    assert push._interval == interval
    assert len(warned(caplog)) == warnings


def test_temporality_comes_from_environment(
    monkeypatch: pytest.MonkeyPatch, receiver: OTLPReceiver, made: Made
) -> None:
    """The preference of the exporter decides how metrics are collected."""
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
def test_exemplar_filter_comes_from_environment(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    made: Made,
    value: str | None,
    expected: type,
    warnings: int,
) -> None:
    """The SDK would raise at an unknown filter; here it is ignored with a warning."""
    if value is not None:
        monkeypatch.setenv("OTEL_METRICS_EXEMPLAR_FILTER", value)
    assert type(made.meter()._sdk_config.exemplar_filter) is expected
    assert len(warned(caplog)) == warnings


def test_no_exporter_means_no_thread(monkeypatch: pytest.MonkeyPatch, made: Made) -> None:
    """With ``none``, a provider sends nothing and costs nothing."""
    before = set(threading.enumerate())
    for signal in ("TRACES", "LOGS", "METRICS"):
        monkeypatch.setenv(f"OTEL_{signal}_EXPORTER", "none")
    made.tracer().get_tracer("test").start_span("unseen").end()
    made.logger().get_logger("test").emit(body="unseen")
    made.meter().get_meter("test").create_counter("unseen").add(1)
    assert made.channels == []
    assert set(threading.enumerate()) <= before


# The SDK before 1.45 reads the limits of log records itself, and only some of them.
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
def test_limits_come_from_environment(
    monkeypatch: pytest.MonkeyPatch,
    receiver: OTLPReceiver,
    made: Made,
    variables: dict[str, str],
    span: dict[str, Any],
    event: dict[str, Any],
    link: dict[str, Any],
    record: dict[str, Any],
) -> None:
    """General and special limits apply; a bad value sets no limit."""
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
def test_events_and_links_are_limited(
    monkeypatch: pytest.MonkeyPatch, receiver: OTLPReceiver, made: Made, name: str, field: str
) -> None:
    """A span keeps the latest ones."""
    monkeypatch.setenv(f"OTEL_SPAN_{name}_COUNT_LIMIT", "1")
    span = made.tracer().get_tracer("test").start_span("run", links=[link_with({}), link_with({})])
    span.add_event("one")
    span.add_event("two")
    span.end()
    made.close()
    ((_, _, received),) = receiver.spans
    assert len(getattr(received, field)) == 1


def test_queued_log_record_drops_its_context(receiver: OTLPReceiver, made: Made) -> None:
    """A record in the queue keeps no object of the task alive."""
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


def test_sdk_flush_does_not_reach_the_queues(made: Made) -> None:
    """We flush and shut down our own providers; the SDK's calls do nothing."""
    provider = made.logger()
    provider.get_logger("test").emit(body="hello")
    assert provider.force_flush(1) is True
    provider.shutdown()
    assert made.counters.of("logs", "delivered") == {}


def test_forked_child_measures_nothing(made: Made) -> None:
    """The SDK's locks may be held at the fork, so no measurement takes them in the child."""
    metrics = TaskMetrics(made.meter(), made.counters, Delivery)
    measured = metrics._active
    metrics._start_in_child()  # the same call as in a child, without a fork
    assert metrics._active is not measured
    assert type(metrics._active) is NoOpUpDownCounter


def test_borrowed_provider_measures_in_a_child() -> None:
    """An application decides itself about its provider in a child."""
    provider = MeterProvider(shutdown_on_exit=False)
    metrics = TaskMetrics(provider, Counters(), Delivery)
    metrics._start_in_child()  # the same call as in a child, without a fork
    assert type(metrics._active) is not NoOpUpDownCounter


def test_older_sdk_gets_no_log_limits(monkeypatch: pytest.MonkeyPatch, made: Made) -> None:
    """Before 1.45 the SDK reads the limits of log records itself."""

    class Older(LoggerProvider):
        def __init__(self, resource: Any = None, *, shutdown_on_exit: bool = True) -> None:
            super().__init__(resource, shutdown_on_exit=shutdown_on_exit)

    monkeypatch.setattr(own, "LoggerProvider", Older)
    # It would raise at a bad one, for each record.
    monkeypatch.setenv("OTEL_ATTRIBUTE_COUNT_LIMIT", "x")
    monkeypatch.setenv("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "7")
    assert type(made.logger()) is Older
    assert "OTEL_ATTRIBUTE_COUNT_LIMIT" not in os.environ
    assert os.environ["OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT"] == "7"


def test_each_channel_has_its_own_name(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other processes know it by the name, also if two exporters share an address."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp,otlp_proto_http,otlp_proto_grpc")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318")
    _, channels = own.tracer_provider(made.counters, made.outage)
    made.channels += channels
    assert [channel.name for channel in channels if isinstance(channel, ExportQueue)] == [
        "traces http://localhost:4318/v1/traces",
        "traces http://localhost:4318/v1/traces (2)",
        "traces http://localhost:4318",
    ]


def test_resource_is_equal_in_all_processes(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """An item sent again is the same to the byte; the user's attributes stay."""
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


def test_runs_are_deferred_to_our_own_queues(made: Made) -> None:
    """A processor of the application sees each item at once; a strange provider has no queues."""
    for provider, add in (
        (made.tracer(), "add_span_processor"),
        (made.logger(), "add_log_record_processor"),
    ):
        queues = own.QueuesOfRuns(provider).find()
        assert queues is not None
        assert [queue.name.partition(" ")[2] for queue in queues] == [
            "http://localhost:4318/v1/traces"
            if add == "add_span_processor"
            else "http://localhost:4318/v1/logs"
        ]
        getattr(provider, add)(own._made[provider][1])
        assert own.QueuesOfRuns(provider).find() is None
    assert own.QueuesOfRuns(MeterProvider(shutdown_on_exit=False)).find() is None
    assert own.QueuesOfRuns(made.meter()).find() is None
    # One without a hash or weak references.
    assert own.QueuesOfRuns([]).find() is None
    assert own.scope_of([], None) is None

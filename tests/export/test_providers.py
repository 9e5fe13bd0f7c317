from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry import metrics, trace
from opentelemetry._logs import NoOpLoggerProvider
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.util._once import Once

from rocketry_otel._export.counters import Counters
from rocketry_otel._export.outage import Outage
from rocketry_otel._export.own_providers import OwnMeterProvider
from rocketry_otel._export.providers import Providers, resolve
from rocketry_otel._export.record_ref import RecordRef, enter
from tests.support.otlp_receiver import Hang, OTLPReceiver, Status

LONG = 20.0
# The channels that our own providers have: log lines have one for themselves.
CHANNELS = {"traces": 1, "logs": 2, "metrics": 1}

Resolve = Callable[..., Providers]


@pytest.fixture
def make() -> Iterator[Resolve]:
    """Resolve, with providers that are closed after the test."""
    made: list[Providers] = []

    def make(tracer: Any = None, logger: Any = None, meter: Any = None) -> Providers:
        counters = Counters()
        made.append(resolve(tracer, logger, meter, counters, Outage(counters)))
        return made[-1]

    yield make
    for providers in made:
        providers.close(time.monotonic())


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[OTLPReceiver]:
    """A receiver, named by the environment."""
    with OTLPReceiver(grpc=False) as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.http_endpoint)
        yield receiver


class Unflushable:
    """A provider without ``force_flush``."""

    def get_tracer(self, *_: Any) -> None:
        """Return a tracer that no test uses."""

    get_logger = get_meter = get_tracer


class Borrowed(Unflushable):
    """A provider of the application."""

    def __init__(self, answer: Any = True) -> None:  # noqa: FBT002
        self.answer = answer
        self.asked: list[int] = []
        self.opened = threading.Event()
        self.opened.set()

    def force_flush(self, timeout_millis: int) -> Any:
        self.asked.append(timeout_millis)
        assert self.opened.wait(LONG)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def set_globally(monkeypatch: pytest.MonkeyPatch, **providers: Any) -> None:
    """Let the API's getters return providers of an application."""
    for name, getter in {
        "tracer": "trace.get_tracer_provider",
        "logger": "get_logger_provider",
        "meter": "metrics.get_meter_provider",
    }.items():
        if name in providers:
            monkeypatch.setattr(
                f"rocketry_otel._export.providers.{getter}",
                lambda provider=providers[name]: provider,
            )


def test_given_provider_wins(monkeypatch: pytest.MonkeyPatch, make: Resolve) -> None:
    """An argument wins over the global providers, of any type."""
    set_globally(monkeypatch, tracer=Borrowed(), logger=Borrowed(), meter=Borrowed())
    given = (trace.ProxyTracerProvider(), Borrowed(), Unflushable())
    providers = make(*given)
    assert (providers.tracer, providers.logger, providers.meter) == given
    assert providers.borrowed == list(given)
    assert providers.channels == []


def test_global_provider_comes_second(monkeypatch: pytest.MonkeyPatch, make: Resolve) -> None:
    """Each signal is resolved by itself."""
    tracer, meter = TracerProvider(shutdown_on_exit=False), Unflushable()
    set_globally(monkeypatch, tracer=tracer, meter=meter)
    monkeypatch.setenv("OTEL_LOGS_EXPORTER", "none")
    providers = make()
    assert providers.tracer is tracer
    assert providers.meter is meter
    assert isinstance(providers.logger, LoggerProvider)
    assert providers.borrowed == [tracer, meter]


def test_own_provider_comes_last(make: Resolve) -> None:
    """It is not made global, so the application can still set its own."""
    before = trace.get_tracer_provider()
    providers = make()
    assert type(providers.tracer) is TracerProvider
    assert type(providers.logger) is LoggerProvider
    assert type(providers.meter) is OwnMeterProvider
    assert isinstance(providers.meter, MeterProvider)
    assert providers.borrowed == []
    assert len(providers.channels) == sum(CHANNELS.values())
    assert trace.get_tracer_provider() is before


def test_disabled_sdk_makes_nothing(monkeypatch: pytest.MonkeyPatch, make: Resolve) -> None:
    """With ``OTEL_SDK_DISABLED`` there is no thread and no exporter."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    before = set(threading.enumerate())
    providers = make()
    assert type(providers.tracer) is trace.NoOpTracerProvider
    assert type(providers.logger) is NoOpLoggerProvider
    assert type(providers.meter) is metrics.NoOpMeterProvider
    assert providers.channels == []
    assert set(threading.enumerate()) <= before
    assert providers.flush(time.monotonic()) is True


def fail(*_: object, **__: object) -> Any:
    """Raise an error."""
    raise RuntimeError("no")


@pytest.mark.parametrize(
    ("signal", "broken"),
    [
        ("traces", "providers.trace.get_tracer_provider"),
        ("traces", "own_providers.TracerProvider"),
        ("logs", "own_providers.LoggerProvider"),
        ("metrics", "own_providers.OwnMeterProvider"),
        ("metrics", "own_providers.InMemoryMetricReader"),
        ("metrics", "own_providers.OwnMeterProvider.get_meter"),
    ],
)
def test_failed_signal_costs_no_other(
    signal: str,
    broken: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    make: Resolve,
) -> None:
    """The others work; the failed one leaves nothing behind, and one line names it."""
    monkeypatch.setattr(f"rocketry_otel._export.{broken}", fail)
    before = set(threading.enumerate())
    for _ in range(3):
        providers = make()
        assert providers.failed == {signal}
        assert len(providers.channels) == sum(CHANNELS.values()) - CHANNELS[signal]
        providers.close(time.monotonic() + LONG)
        for thread in set(threading.enumerate()) - before:
            thread.join(LONG)
    assert set(threading.enumerate()) <= before
    (record,) = caplog.records
    assert record.getMessage() == (
        f"The provider of {signal} cannot be used: RuntimeError: no. They are dropped, and it is "
        "tried again."
    )


def forget_global_providers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the API begin without providers: another test may have set some for good."""
    for place in ("trace._TRACER", "_logs._internal._LOGGER", "metrics._internal._METER"):
        monkeypatch.setattr(f"opentelemetry.{place}_PROVIDER", None)
        monkeypatch.setattr(f"opentelemetry.{place}_PROVIDER_SET_ONCE", Once())


@pytest.mark.parametrize("signal", ["tracer", "logger", "meter"])
def test_named_provider_is_used(
    signal: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, make: Resolve
) -> None:
    """A variable may name a provider that an installed package has."""
    forget_global_providers(monkeypatch)
    monkeypatch.setenv(f"OTEL_PYTHON_{signal.upper()}_PROVIDER", f"sdk_{signal}_provider")
    providers = make()
    assert providers.failed == set()
    named_signal = {"tracer": "traces", "logger": "logs", "meter": "metrics"}[signal]
    assert len(providers.channels) == sum(CHANNELS.values()) - CHANNELS[named_signal]
    named = getattr(providers, signal)
    assert type(named).__module__.startswith("opentelemetry.sdk.")
    assert caplog.records == []


@pytest.mark.parametrize("signal", ["TRACER", "LOGGER", "METER"])
def test_unknown_provider_variable_is_ignored(
    signal: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, make: Resolve
) -> None:
    """OpenTelemetry raises at it, with a traceback each time. Here our own provider is used."""
    forget_global_providers(monkeypatch)
    monkeypatch.setenv(f"OTEL_PYTHON_{signal}_PROVIDER", "nope")
    for _ in range(2):
        providers = make()
        assert providers.failed == set()
        assert len(providers.channels) == sum(CHANNELS.values())
    (record,) = caplog.records
    assert record.getMessage() == (
        f"OTEL_PYTHON_{signal}_PROVIDER is 'nope', and no provider of this name can be loaded: it "
        "is ignored. Unset it, or install the package that has the provider."
    )


def test_flush_reaches_all_providers(receiver: OTLPReceiver, make: Resolve) -> None:
    """Our channels and the application's providers share one time limit."""
    borrowed = Borrowed(answer=None)
    providers = make(logger=borrowed, meter=Unflushable())
    providers.tracer.get_tracer("test").start_span("run").end()
    assert providers.flush(time.monotonic() + LONG) is True
    assert [it.span.name for it in receiver.spans] == ["run"]
    assert len(borrowed.asked) == 1
    assert 0 < borrowed.asked[0] <= LONG * 1000
    assert providers.flush(float("inf")) is True


@pytest.mark.parametrize("answer", [False, RuntimeError("no")])
def test_flush_is_false_if_a_provider_fails(make: Resolve, answer: object) -> None:
    """A provider of the application that fails or raises has not sent everything."""
    providers = make(Borrowed(answer), Unflushable(), Unflushable())
    assert providers.flush(time.monotonic() + LONG) is False


def test_hanging_provider_is_left_behind(make: Resolve) -> None:
    """The SDK's flush keeps no time limit, and ours does."""
    hanging = Borrowed()
    hanging.opened.clear()
    providers = make(hanging, Borrowed(), Borrowed())
    assert providers.flush(time.monotonic() + 0.05) is False
    hanging.opened.set()


def test_flush_is_false_after_a_refusal(receiver: OTLPReceiver, make: Resolve) -> None:
    """Our refused items have not arrived, though the application's providers succeed."""
    receiver.behave(Status(400))
    borrowed = Borrowed()
    providers = make(logger=borrowed, meter=Unflushable())
    providers.tracer.get_tracer("test").start_span("run").end()
    assert providers.flush(time.monotonic() + 1.0) is False
    assert len(borrowed.asked) == 1


def test_flush_waits_less_for_lines(receiver: OTLPReceiver, make: Resolve) -> None:
    """Spans are sent all the same; a flush without lines does not end early."""
    providers = make()
    providers.tracer.get_tracer("test").start_span("run").end()
    assert providers.flush(time.monotonic() + LONG, time.monotonic()) is True
    assert [it.span.name for it in receiver.spans] == ["run"]
    receiver.behave(Hang())
    providers.logger.get_logger("shop").emit(body="a line")
    assert providers.flush(time.monotonic() + LONG, time.monotonic()) is False


def test_lines_and_records_of_runs_have_their_own_queues(make: Resolve) -> None:
    """The scope of a log record decides: our own is that of runs."""
    providers = make()
    before = enter(RecordRef(1, "etl", "run"))
    try:
        for name in ("rocketry_otel", "shop"):
            providers.logger.get_logger(name).emit(body=name)
    finally:
        enter(before)
    _, logs = providers.queues
    (lines,) = providers.line_queues
    entries = [
        (entry.item.log_record.body, entry.record_ref is None)
        for queue in (logs, lines)
        for entry in queue.ask(lambda held: list(held._entries()))
    ]
    assert entries == [("rocketry_otel", False), ("shop", True)]
    assert providers.sends_logs is True


def test_flush_without_threads_is_false(monkeypatch: pytest.MonkeyPatch, make: Resolve) -> None:
    """At the interpreter's end the application's providers cannot be flushed."""
    borrowed = Borrowed()
    providers = make(borrowed, Unflushable(), Unflushable())
    monkeypatch.setattr(threading.Thread, "start", fail)
    assert providers.flush(time.monotonic() + LONG) is False
    assert borrowed.asked == []


def test_closing_ends_our_channels_together(receiver: OTLPReceiver, make: Resolve) -> None:
    """A hanging collector costs one time limit; borrowed providers stay open."""
    receiver.behave(Hang())
    providers = make()
    providers.tracer.get_tracer("test").start_span("run").end()
    providers.logger.get_logger("test").emit(body="hello")
    providers.meter.get_meter("test").create_counter("runs").add(1)
    began = time.monotonic()
    providers.close(began + 2.0)
    # One after another they would take six seconds.
    assert 2.0 <= time.monotonic() - began < 4.0
    assert {it.signal for it in receiver.requests} == {"traces", "logs", "metrics"}
    assert providers.flush(time.monotonic()) is False


def test_flush_after_closing_reports_earlier_items(receiver: OTLPReceiver, make: Resolve) -> None:
    """A flush after the end reports the items handed over before it."""
    providers = make()
    providers.tracer.get_tracer("test").start_span("run").end()
    providers.close(time.monotonic() + LONG)
    providers.close(time.monotonic() + LONG)
    assert [it.span.name for it in receiver.spans] == ["run"]
    assert providers.flush(time.monotonic()) is True


def resource_of(version: Any) -> Resource:
    """Return a resource with a version of the application."""
    return Resource({"service.name": "shop", "service.version": version})


def test_version_is_that_of_the_resource(make: Resolve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the spans, else of the log records; a value that is no text, or none, is none."""
    traced = TracerProvider(resource=resource_of("1"), shutdown_on_exit=False)
    logged = LoggerProvider(resource=resource_of("2"), shutdown_on_exit=False)
    assert make(traced, logged).service_version == "1"
    assert make(Unflushable(), logged).service_version == "2"
    numbered = TracerProvider(resource=resource_of(3), shutdown_on_exit=False)
    assert make(numbered, Unflushable()).service_version is None
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.version=4")
    assert make().service_version == "4"

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
from opentelemetry.sdk.trace import TracerProvider

from rocketry_otel._export.counters import Counters
from rocketry_otel._export.outage import Outage
from rocketry_otel._export.own_providers import OwnMeterProvider
from rocketry_otel._export.providers import Providers, resolve
from tests.support.otlp_receiver import Hang, OTLPReceiver, Status

LONG = 20.0
Resolve = Callable[..., Providers]


@pytest.fixture
def make() -> Iterator[Resolve]:
    """Resolve, with providers that are closed when the test is over."""
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
    """A receiver, which the environment names where that matters."""
    with OTLPReceiver(grpc=False) as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.http_endpoint)
        yield receiver


class Unflushable:
    """A provider that keeps nothing back."""

    def get_tracer(self, *_: Any) -> None:
        """Nobody uses what it makes."""

    get_logger = get_meter = get_tracer


class Borrowed(Unflushable):
    """A provider of the application's."""

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
    """Have the getters of the API answer as when an application has set its providers."""
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


def test_a_given_provider_wins(monkeypatch: pytest.MonkeyPatch, make: Resolve) -> None:
    """What was given as an argument is used, whatever it is and the application has set."""
    set_globally(monkeypatch, tracer=Borrowed(), logger=Borrowed(), meter=Borrowed())
    given = (trace.ProxyTracerProvider(), Borrowed(), Unflushable())
    providers = make(*given)
    assert (providers.tracer, providers.logger, providers.meter) == given
    assert providers.borrowed == list(given)
    assert providers.channels == []


def test_what_the_application_has_set_globally_comes_next(
    monkeypatch: pytest.MonkeyPatch, make: Resolve
) -> None:
    """Each signal is looked at by itself."""
    tracer, meter = TracerProvider(shutdown_on_exit=False), Unflushable()
    set_globally(monkeypatch, tracer=tracer, meter=meter)
    monkeypatch.setenv("OTEL_LOGS_EXPORTER", "none")
    providers = make()
    assert providers.tracer is tracer
    assert providers.meter is meter
    assert isinstance(providers.logger, LoggerProvider)
    assert providers.borrowed == [tracer, meter]


def test_without_any_our_own_are_made_and_not_set_globally(make: Resolve) -> None:
    """The application can still set its own for itself."""
    before = trace.get_tracer_provider()
    providers = make()
    assert type(providers.tracer) is TracerProvider
    assert type(providers.logger) is LoggerProvider
    assert type(providers.meter) is OwnMeterProvider
    assert isinstance(providers.meter, MeterProvider)
    assert providers.borrowed == []
    assert len(providers.channels) == 3
    assert trace.get_tracer_provider() is before


def test_a_disabled_sdk_makes_nothing(monkeypatch: pytest.MonkeyPatch, make: Resolve) -> None:
    """With ``OTEL_SDK_DISABLED`` there is no thread, no exporter and nothing to wait for."""
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
def test_a_signal_without_a_provider_costs_no_other(
    signal: str,
    broken: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    make: Resolve,
) -> None:
    """The others work. Of the one nothing is left; one line names it, however often it fails."""
    monkeypatch.setattr(f"rocketry_otel._export.{broken}", fail)
    before = set(threading.enumerate())
    for _ in range(3):
        providers = make()
        assert providers.failed == {signal}
        assert len(providers.channels) == 2
        providers.close(time.monotonic() + LONG)
        for thread in set(threading.enumerate()) - before:
            thread.join(LONG)
    assert set(threading.enumerate()) <= before
    (record,) = caplog.records
    assert record.getMessage() == (
        f"The provider of {signal} cannot be used: RuntimeError: no. They are dropped, and it is "
        "tried again."
    )


@pytest.mark.parametrize("signal", ["TRACER", "LOGGER", "METER"])
def test_a_variable_that_names_no_provider_is_ignored(
    signal: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, make: Resolve
) -> None:
    """OpenTelemetry raises at it, with a traceback each time. Here our own provider is used."""
    for place in ("trace._TRACER", "_logs._internal._LOGGER", "metrics._internal._METER"):
        # Another test may have set one for good.
        monkeypatch.setattr(f"opentelemetry.{place}_PROVIDER", None)
    monkeypatch.setenv(f"OTEL_PYTHON_{signal}_PROVIDER", "nope")
    for _ in range(2):
        providers = make()
        assert providers.failed == set()
        assert len(providers.channels) == 3
    (record,) = caplog.records
    assert record.getMessage() == (
        f"OTEL_PYTHON_{signal}_PROVIDER is 'nope', and no provider of this name can be loaded: it "
        "is ignored. Unset it, or install the package that has the provider."
    )


def test_a_flush_asks_all_and_is_true_if_all_are_done(
    receiver: OTLPReceiver, make: Resolve
) -> None:
    """Our own channels and the application's providers are flushed within one time limit."""
    borrowed = Borrowed(answer=None)
    providers = make(logger=borrowed, meter=Unflushable())
    providers.tracer.get_tracer("test").start_span("run").end()
    assert providers.flush(time.monotonic() + LONG) is True
    assert [it.span.name for it in receiver.spans] == ["run"]
    assert len(borrowed.asked) == 1
    assert 0 < borrowed.asked[0] <= LONG * 1000
    assert providers.flush(float("inf")) is True


@pytest.mark.parametrize("answer", [False, RuntimeError("no")])
def test_a_flush_is_false_if_a_provider_of_the_applications_says_so(
    make: Resolve, answer: object
) -> None:
    """A provider that fails, or raises, has not sent all."""
    providers = make(Borrowed(answer), Unflushable(), Unflushable())
    assert providers.flush(time.monotonic() + LONG) is False


def test_a_provider_of_the_applications_that_hangs_is_left_behind(make: Resolve) -> None:
    """The SDK's own flush keeps no time limit: ours does."""
    hanging = Borrowed()
    hanging.opened.clear()
    providers = make(hanging, Borrowed(), Borrowed())
    assert providers.flush(time.monotonic() + 0.05) is False
    hanging.opened.set()


def test_a_flush_is_false_if_a_channel_of_ours_fails(receiver: OTLPReceiver, make: Resolve) -> None:
    """What a collector refuses has not arrived, though the application's providers are done."""
    receiver.behave(Status(400))
    borrowed = Borrowed()
    providers = make(logger=borrowed, meter=Unflushable())
    providers.tracer.get_tracer("test").start_span("run").end()
    assert providers.flush(time.monotonic() + LONG) is False
    assert len(borrowed.asked) == 1


def test_a_flush_without_threads_is_false(monkeypatch: pytest.MonkeyPatch, make: Resolve) -> None:
    """When the interpreter is on its way out the application's providers cannot be asked."""
    borrowed = Borrowed()
    providers = make(borrowed, Unflushable(), Unflushable())
    monkeypatch.setattr(threading.Thread, "start", fail)
    assert providers.flush(time.monotonic() + LONG) is False
    assert borrowed.asked == []


def test_closing_ends_our_own_channels_together_and_no_borrowed_provider(
    receiver: OTLPReceiver, make: Resolve
) -> None:
    """With a collector that hangs, closing all three signals takes the time limit once."""
    receiver.behave(Hang())
    providers = make()
    providers.tracer.get_tracer("test").start_span("run").end()
    providers.logger.get_logger("test").emit(body="hello")
    providers.meter.get_meter("test").create_counter("runs").add(1)
    began = time.monotonic()
    providers.close(began + 0.5)
    assert 0.5 <= time.monotonic() - began < 1.0
    assert {it.signal for it in receiver.requests} == {"traces", "logs", "metrics"}
    assert providers.flush(time.monotonic()) is False


def test_what_was_delivered_stays_delivered_after_closing(
    receiver: OTLPReceiver, make: Resolve
) -> None:
    """A flush after the end tells of what was handed over before it."""
    providers = make()
    providers.tracer.get_tracer("test").start_span("run").end()
    providers.close(time.monotonic() + LONG)
    providers.close(time.monotonic() + LONG)
    assert [it.span.name for it in receiver.spans] == ["run"]
    assert providers.flush(time.monotonic()) is True

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry._logs import NoOpLoggerProvider, SeverityNumber
from opentelemetry._logs._internal import ProxyLoggerProvider
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.metrics._internal import _ProxyMeterProvider
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import NoOpTracerProvider, ProxyTracerProvider

from rocketry_otel._export import global_providers
from rocketry_otel._export import providers as providers_module
from rocketry_otel._export.counters import Counters
from rocketry_otel._export.global_providers import make_global
from rocketry_otel._export.outage import Outage
from rocketry_otel._export.providers import Providers, resolve
from tests.support.otlp_receiver import OTLPReceiver

SIGNALS = ("tracer", "logger", "meter")


class Globals:
    """Stands in for OpenTelemetry's three global providers, which can be set only once."""

    def __init__(self) -> None:
        self.in_force: dict[str, Any] = {
            "tracer": ProxyTracerProvider(),
            "logger": ProxyLoggerProvider(),
            "meter": _ProxyMeterProvider(),
        }
        self.set: list[str] = []

    def of(self, signal: str) -> Any:
        def set_provider(provider: Any) -> None:
            self.set.append(signal)
            self.in_force[signal] = provider

        return SimpleNamespace(
            **{
                f"get_{signal}_provider": lambda: self.in_force[signal],
                f"set_{signal}_provider": set_provider,
            }
        )


@pytest.fixture
def in_force(monkeypatch: pytest.MonkeyPatch) -> Globals:
    """Global providers that each test can set anew."""
    stand_in = Globals()
    for module, signal in (("trace", "tracer"), ("_logs", "logger"), ("metrics", "meter")):
        monkeypatch.setattr(global_providers, module, stand_in.of(signal))
    monkeypatch.setattr(providers_module, "trace", stand_in.of("tracer"))
    monkeypatch.setattr(providers_module, "metrics", stand_in.of("meter"))
    getter = stand_in.of("logger").get_logger_provider
    monkeypatch.setattr(providers_module, "get_logger_provider", getter)
    return stand_in


def providers(borrowed: tuple[str, ...] = ()) -> Providers:
    """Return real providers; some belong to the application."""
    three = Providers(
        TracerProvider(shutdown_on_exit=False),
        LoggerProvider(shutdown_on_exit=False),
        MeterProvider(shutdown_on_exit=False),
    )
    three.borrowed.extend(getattr(three, signal) for signal in borrowed)
    return three


def test_our_providers_become_global(in_force: Globals) -> None:
    """Each of the three is set once, if no other one is set."""
    ours = providers()
    make_global(ours)
    assert in_force.set == ["tracer", "logger", "meter"]
    assert in_force.in_force == {"tracer": ours.tracer, "logger": ours.logger, "meter": ours.meter}
    make_global(providers())
    assert len(in_force.set) == 3


@pytest.mark.parametrize("signal", SIGNALS)
def test_provider_of_the_application_stays(signal: str, in_force: Globals) -> None:
    """Its own provider wins, and the two others become ours."""
    its_own = getattr(providers(), signal)
    in_force.in_force[signal] = its_own
    make_global(providers())
    assert in_force.in_force[signal] is its_own
    assert in_force.set == [other for other in SIGNALS if other != signal]


@pytest.mark.parametrize("signal", SIGNALS)
def test_given_provider_is_not_made_global(signal: str, in_force: Globals) -> None:
    """A provider given to ``instrument`` is only for that application."""
    make_global(providers(borrowed=(signal,)))
    assert in_force.set == [other for other in SIGNALS if other != signal]


def test_noop_provider_is_not_made_global(in_force: Globals) -> None:
    """With the SDK disabled, or after an error, the global place stays free."""
    make_global(Providers(NoOpTracerProvider(), NoOpLoggerProvider(), NoOpMeterProvider()))
    assert in_force.set == []


def test_global_provider_follows_the_next_handler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It cannot be replaced, so after ``uninstrument`` its items leave by the new channels."""
    with OTLPReceiver(grpc=False) as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.http_endpoint)
        counters = Counters()
        before, after = (resolve(None, None, None, counters, Outage(counters)) for _ in range(2))
        in_force = {
            "trace.get_tracer_provider": before.tracer,
            "get_logger_provider": before.logger,
            "metrics.get_meter_provider": before.meter,
        }
        for name, provider in in_force.items():
            monkeypatch.setattr(f"rocketry_otel._export.providers.{name}", lambda its=provider: its)
        make_global(after)
        before.tracer.get_tracer("body").start_span("while in use").end()
        before.close(time.monotonic() + 5)
        make_global(after)
        before.tracer.get_tracer("body").start_span("after").end()
        before.logger.get_logger("body").emit(body="after", severity_number=SeverityNumber.INFO)
        after.close(time.monotonic() + 5)
        assert [it.span.name for it in receiver.spans] == ["while in use", "after"]
        assert [it.log_record.body.string_value for it in receiver.log_records] == ["after"]

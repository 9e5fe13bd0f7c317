"""The providers of a handler: found at the first record, again after a failure, and flushed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from opentelemetry._logs import NoOpLoggerProvider
from opentelemetry.sdk._logs import LoggerProvider

from rocketry_otel import OTelRepoHandler, Settings, open_repository
from rocketry_otel._delivery import pipeline
from rocketry_otel._export.providers import resolve
from rocketry_otel._history.run_lookup import RunLookup
from rocketry_otel._model.log_lines import line_signal
from rocketry_otel.testing import TelemetryCapture
from tests.support.otlp_receiver import Ok, OTLPReceiver, PartialSuccess
from tests.support.records import task_record

LONG = 20.0


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[OTLPReceiver]:
    """A receiver that the environment names, and pauses that a test can wait for."""
    with OTLPReceiver(grpc=False) as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.http_endpoint)
        monkeypatch.setattr(pipeline, "pause_after", lambda _: 0.05)
        yield receiver


@pytest.fixture(params=["memory://", "sqlite"])
def handler(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OTelRepoHandler]:
    """A handler that is closed when the test is over."""
    url = request.param if request.param == "memory://" else f"sqlite:///{tmp_path}/tasks.db"
    handler = OTelRepoHandler(open_repository(url), settings=Settings(shutdown_timeout=5.0))
    yield handler
    handler.close()


def run(handler: OTelRepoHandler, run_id: str) -> None:
    """Log a run of a task, as Rocketry does."""
    for action in ("run", "success"):
        handler.handle(task_record(action, run_id=run_id))


def run_until(handler: OTelRepoHandler, done: Any) -> None:
    """Log runs until a thread of ours has made a condition true."""
    deadline = time.monotonic() + LONG
    number = 0
    while not done():
        assert time.monotonic() < deadline
        number += 1
        run(handler, f"r{number}")
        threading.Event().wait(0.02)


def test_failed_signal_is_found_later(
    receiver: OTLPReceiver, handler: OTelRepoHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others arrive meanwhile; dropped items are counted and make one flush false."""

    def fail(**_: object) -> LoggerProvider:
        raise ValueError("a bad limit")

    with monkeypatch.context() as patch:
        patch.setattr("rocketry_otel._export.own_providers.LoggerProvider", fail)
        run(handler, "a")
        assert handler.flush(LONG) is False
        assert len(receiver.spans) == 1
        dropped = handler._pipeline.counters.of
        run_until(
            handler,
            lambda: (
                handler._pipeline._failures >= 3 and dropped("logs", "dropped")["no_provider"] >= 4
            ),
        )
        assert not receiver.log_records
        threads = {thread.name for thread in threading.enumerate()}
        assert len([name for name in threads if name.startswith("rocketry-otel")]) < 6
    run_until(handler, lambda: receiver.log_records)
    handler.flush(LONG)
    run(handler, "last")
    assert handler.flush(LONG) is True
    assert "last" in str(receiver.log_records[-1])


def test_failed_start_is_undone_and_tried_again(
    receiver: OTLPReceiver, handler: OTelRepoHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No thread of it is left, and there is one try in each pause."""
    before = set(threading.enumerate())
    tries: list[float] = []

    def fail(*_: object) -> None:
        tries.append(time.monotonic())
        raise RuntimeError("no")

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "make_global", fail)
        handler._pipeline.allow_global()
        for number in range(50):
            run(handler, str(number))
        assert handler.flush(LONG) is False
        run_until(handler, lambda: len(tries) >= 3)
        assert min(later - sooner for sooner, later in pairwise(tries)) >= 0.05
        for thread in set(threading.enumerate()) - before:
            thread.join(LONG)
        assert set(threading.enumerate()) <= before
    handler._pipeline._may_be_global = False
    run_until(handler, lambda: receiver.spans)
    handler.flush(LONG)
    run(handler, "last")
    assert handler.flush(LONG) is True


def test_flush_reports_losses_since_the_last_flush(
    receiver: OTLPReceiver, handler: OTelRepoHandler
) -> None:
    """A refused record makes one flush false, not all that follow."""
    assert handler.flush(LONG) is True
    run(handler, "good")
    assert handler.flush(LONG) is True
    receiver.behave(PartialSuccess(1, "too old"))
    run(handler, "bad")
    assert handler.flush(LONG) is False
    receiver.behave(Ok())
    assert handler.flush(LONG) is True
    run(handler, "good again")
    assert handler.flush(LONG) is True


def test_unused_pipeline_closes_at_once() -> None:
    """Closing does not look for providers."""
    lost: list[Any] = []
    repo = open_repository("memory://")
    unused = pipeline.Pipeline(
        Settings(), repo, RunLookup(repo), pipeline.GivenProviders(), lambda *it: lost.append(it)
    )
    assert not unused.flush_borrowed(time.monotonic())()
    unused.begin_closing(time.monotonic())
    assert unused.is_closed
    assert unused.flush(0.0) is True
    unused.close(0.0)
    assert unused.providers is None
    assert lost == []


def test_providers_of_the_application_are_flushed(telemetry: TelemetryCapture) -> None:
    """A thread that ends the process waits for them too."""
    handler = OTelRepoHandler(open_repository("memory://"), **telemetry.providers)
    run(handler, "r1")
    assert handler._pipeline.flush_borrowed(time.monotonic() + LONG)() is True


def test_metrics_without_a_provider_cost_no_other_signal(
    receiver: OTLPReceiver, handler: OTelRepoHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spans and log records arrive, and none of them is counted as dropped."""

    def broken(*_: Any) -> Any:
        raise ValueError("no meter provider")

    monkeypatch.setattr("rocketry_otel._export.own_providers.meter_provider", broken)
    run(handler, "r1")
    assert handler.flush(LONG) is False
    assert (len(receiver.spans), len(receiver.log_records)) == (1, 2)
    assert handler._pipeline.counters.of("logs", "dropped") == {}
    assert handler._pipeline.counters.of("traces", "dropped") == {}


LINE = line_signal({"created": 1.0, "levelno": 30, "levelname": "WARNING"}, "a line", "full")


def test_line_goes_to_the_provider(telemetry: TelemetryCapture) -> None:
    """Its scope is the name of its logger; without a context it belongs to no trace."""
    handler = OTelRepoHandler(open_repository("memory://"), **telemetry.providers)
    for _ in range(2):
        handler._pipeline.send_line("shop", LINE, None)
    assert [(line.body, line.trace_id) for line in telemetry.log_records] == [("a line", 0)] * 2
    assert handler.sends_log_lines is True


def test_line_of_a_closed_pipeline_is_counted(telemetry: TelemetryCapture) -> None:
    """It is in no repository."""
    handler = OTelRepoHandler(open_repository("memory://"), **telemetry.providers)
    handler._pipeline.close(LONG)
    handler._pipeline.send_line("shop", LINE, None)
    assert telemetry.log_records == []
    assert handler._pipeline.counters.of("logs", "dropped") == {"closed": 1}
    assert handler.sends_log_lines is False


def test_line_without_a_provider_is_counted(
    receiver: OTLPReceiver, handler: OTelRepoHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flush after it is false, once."""
    monkeypatch.setattr(pipeline, "pause_after", lambda _: LONG)
    monkeypatch.setattr("rocketry_otel._export.own_providers.LoggerProvider", None)
    handler._pipeline.send_line("shop", LINE, None)
    assert handler._pipeline.counters.of("logs", "dropped") == {"no_provider": 1}
    assert handler.sends_log_lines is False
    assert handler.flush(LONG) is False


@pytest.mark.parametrize("way", ["no exporter", "no provider", "off"])
def test_line_that_nobody_wants_is_not_made(
    way: str, telemetry: TelemetryCapture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is dropped then, and the handler shows that lines are not sent."""
    providers = telemetry.providers
    if way == "no exporter":
        monkeypatch.setenv("OTEL_LOGS_EXPORTER", "none")
        providers["logger_provider"] = None
    elif way == "no provider":
        providers["logger_provider"] = NoOpLoggerProvider()
    settings = Settings(log_lines=way != "off")
    handler = OTelRepoHandler(open_repository("memory://"), settings=settings, **providers)
    assert handler.sends_log_lines is False
    if way != "off":
        handler._pipeline.send_line("shop", LINE, None)
    assert handler._pipeline.counters.of("logs", "dropped") == {}
    handler.close()


def test_error_of_the_provider_is_counted(telemetry: TelemetryCapture) -> None:
    """A processor of the application may raise anything."""

    class Broken(LoggerProvider):
        def get_logger(self, name: str, *args: Any, **kwargs: Any) -> Any:
            if name == "shop":
                raise RuntimeError("broken")
            return super().get_logger(name, *args, **kwargs)

    provider = Broken(shutdown_on_exit=False)
    providers = {**telemetry.providers, "logger_provider": provider}
    handler = OTelRepoHandler(open_repository("memory://"), **providers)
    handler._pipeline.send_line("shop", LINE, None)
    assert handler._pipeline.counters.of("logs", "dropped") == {"error": 1}


def test_logs_are_not_sent_if_no_provider_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """The question itself never raises."""

    def fail(*_: object) -> None:
        raise RuntimeError("broken")

    handler = OTelRepoHandler(open_repository("memory://"))
    monkeypatch.setattr(pipeline, "resolve", fail)
    assert handler._pipeline.sends_logs is False
    monkeypatch.setattr(pipeline, "resolve", resolve)


@pytest.mark.parametrize(("count", "counted"), [(3, {"line_queue_full": 3}), (0, {}), ("3", {})])
def test_dropped_lines_of_a_child_are_counted(
    count: object, counted: dict[str, int], telemetry: TelemetryCapture
) -> None:
    """A stranger's value under our name is not counted."""
    handler = OTelRepoHandler(open_repository("memory://"), **telemetry.providers)
    handler.handle(task_record("success", run_id="r1", _rocketry_otel={"dropped_lines": count}))
    assert handler._pipeline.counters.of("logs", "dropped") == counted
    assert handler.flush(LONG) is not bool(counted)


def test_measurement_without_providers_is_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It costs the scheduler nothing."""
    handler = OTelRepoHandler(open_repository("memory://"))
    its_pipeline = handler._bridge.pipeline

    def fail(*_: object) -> None:
        raise RuntimeError("no provider")

    monkeypatch.setattr(its_pipeline, "wake", fail)
    for _ in range(2):
        its_pipeline.measure(lambda metrics: metrics.missed("etl", "blocked"))
    assert its_pipeline.counters.of("metrics", "dropped") == {"error": 2}
    assert [record.getMessage() for record in caplog.records] == [
        "Something could not be handed over (metrics); further ones are not reported"
    ]

"""The attributes of a launch: their sources, their record, and their span."""

from __future__ import annotations

import json

import pytest

from rocketry_otel import Settings, instrument, replay
from rocketry_otel._instrumentation import launch_attributes as module
from rocketry_otel._instrumentation.launch_attributes import launch_attributes
from rocketry_otel._instrumentation.launching import Launching
from rocketry_otel.testing import TelemetryCapture
from tests.support import apps
from tests.support.apps import MODES, make_app, run_tasks, start_method
from tests.support.histories import named_by_the_environment
from tests.support.otlp_receiver import attributes_of

LAUNCHING = Launching(None, None, is_requested=False)  # type: ignore[arg-type]  # not read


def fail(launching: Launching) -> dict[str, object]:
    """Fail, as a source may that meets an odd task."""
    raise ValueError(launching)


def test_attributes_are_plain_and_sorted() -> None:
    """A later source wins, and a text that no repository keeps is cleaned."""
    sources = (lambda _: {"b": 1, "a": "x\x00"}, lambda _: {"b": (1, 2.5)})
    assert launch_attributes(LAUNCHING, sources) == (("a", "x\\x00"), ("b", (1.0, 2.5)))
    assert launch_attributes(LAUNCHING, ()) == ()


def test_error_of_a_source_costs_its_own_attributes(caplog: pytest.LogCaptureFixture) -> None:
    """The others are known, and the task does not notice."""
    caplog.set_level("DEBUG", "rocketry_otel")
    sources = (lambda _: {"a": 1}, fail, lambda _: {"c": 3})
    assert launch_attributes(LAUNCHING, sources) == (("a", 1), ("c", 3))
    assert [record.message for record in caplog.records] == ["a part of a launch is not known"]


EXPECTED = {
    "rocketry.test.requested": True,
    "rocketry.test.runs_before": 0,
    "rocketry.test.time": 1_700_000_000.0,
}


def now() -> float:
    """Return the time of the application."""
    return 1_700_000_000.0


def launched(launching: Launching) -> dict[str, object]:
    """Return what only the parent of a process knows."""
    task = launching.task
    return {
        "rocketry.test.time": launching.time,
        "rocketry.test.requested": launching.is_requested,
        "rocketry.test.runs_before": 0 if task.last_run is None else 1,
    }


@pytest.fixture
def _launched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SOURCES", (launched,))


@pytest.mark.usefixtures("_launched")
@pytest.mark.parametrize(("execution", "method"), MODES)
def test_run_record_span_and_replay_have_them(
    execution: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In each mode of execution the beginning is stored with them, and a replay sends the same."""
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    with named_by_the_environment(monkeypatch) as receiver, start_method(method):
        app = make_app(time_func=now)
        handler = instrument(app, repo="memory://")
        app.session.create_task(func=apps.succeed, name="etl", execution=execution)
        run_tasks(app, "etl")
        assert handler.flush(20.0)
        began, ended = handler.repo.filter_by().all()
        stored = json.loads(began.attributes)
        assert {key: stored.get(key) for key in EXPECTED} == EXPECTED
        assert list(stored) == sorted(stored)
        assert ended.attributes is None
        (sent,) = (one.span for one in receiver.spans)
        attributes = attributes_of(sent.attributes)
        assert {key: attributes.get(key) for key in EXPECTED} == EXPECTED
        assert replay(handler.repo).complete
        assert receiver.spans[1].span.SerializeToString() == sent.SerializeToString()


@pytest.mark.usefixtures("_launched")
def test_request_is_noticed_without_links(telemetry: TelemetryCapture) -> None:
    """The setting turns the links off, not the attribute."""
    app = make_app()
    instrument(app, settings=Settings(links=False), **telemetry.providers)
    app.session.create_task(func=apps.succeed, name="etl")
    with telemetry.providers["tracer_provider"].get_tracer("x").start_as_current_span("request"):
        app.session["etl"].run()
    run_tasks(app)
    span = telemetry.span("etl")
    assert span.attributes["rocketry.test.requested"] is True
    assert span.links == ()

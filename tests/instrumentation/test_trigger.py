"""The trigger of a run, in real applications."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from rocketry import Rocketry
from rocketry.conditions import SchedulerCycles
from rocketry.conditions.api import failed
from rocketry.conds import after_success, every, false, retry, true

from rocketry_otel import instrument, replay
from rocketry_otel.testing import TelemetryCapture
from tests.support import apps
from tests.support.apps import make_app, run_tasks, start_method
from tests.support.histories import named_by_the_environment
from tests.support.otlp_receiver import attributes_of

TRIGGER, CONDITION = "rocketry.trigger", "rocketry.trigger.condition"


def why(attributes: Any) -> tuple[str | None, str | None]:
    """Return the trigger among attributes, and its words."""
    return attributes.get(TRIGGER), attributes.get(CONDITION)


def add(app: Rocketry, name: str, condition: Any = false, **options: Any) -> Any:
    """Add a task that succeeds."""
    return app.session.create_task(func=apps.succeed, name=name, start_cond=condition, **options)


@pytest.mark.parametrize(("execution", "method"), apps.MODES)
def test_trigger_is_stored_sent_and_replayed(
    execution: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In each mode: the record, the span and a replay of it have the same."""
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    with named_by_the_environment(monkeypatch) as receiver, start_method(method):
        app = make_app()
        handler = instrument(app, repo="memory://")
        add(app, "load", priority=1)
        add(app, "report", after_success("load") | every("1 h"), execution=execution)
        run_tasks(app, "load")
        assert handler.flush(20.0)
        began = handler.repo.filter_by(task_name="report", action="run").last()
        expected = ("dependency", "after success of load and every 1 h")
        assert why(json.loads(began.attributes)) == expected
        spans = {one.span.name: one.span for one in receiver.spans}
        assert why(attributes_of(spans["run report"].attributes)) == expected
        assert why(attributes_of(spans["run load"].attributes)) == ("request", None)
        before = sorted(span.SerializeToString() for span in spans.values())
        assert replay(handler.repo).complete
        again = sorted(one.span.SerializeToString() for one in receiver.spans[2:])
        assert again == before


def test_start_and_end_of_the_scheduler_are_triggers(telemetry: TelemetryCapture) -> None:
    """Rocketry asks for these runs itself; the application's own request comes first."""
    app = make_app()
    instrument(app, **telemetry.providers)
    add(app, "starts", on_startup=True)
    add(app, "starts if", true, on_startup=True)
    add(app, "is asked for", on_startup=True)
    add(app, "ends", on_shutdown=True)
    add(app, "starts another", on_startup=True).start_cond = every("1 h")
    run_tasks(app, "is asked for")
    found = {name: why(telemetry.span(name).attributes) for name in ("starts", "starts if", "ends")}
    assert found == {
        "starts": ("startup", None),
        "starts if": ("startup", "always"),
        "ends": ("shutdown", None),
    }
    assert why(telemetry.span("starts another").attributes) == ("startup", "every 1 h")
    assert why(telemetry.span("is asked for").attributes) == ("request", None)


def test_function_is_named_and_called_by_rocketry_alone(telemetry: TelemetryCapture) -> None:
    """It is called as often as without us."""
    calls = {True: 0, False: 0}

    def run(*, is_instrumented: bool) -> None:
        logging.getLogger("rocketry.task").handlers = []
        app = make_app()
        if is_instrumented:
            instrument(app, **telemetry.providers)

        @app.cond()
        def is_ready() -> bool:
            calls[is_instrumented] += 1
            return True

        add(app, "report", every("1 h") & is_ready)
        add(app, "other", is_ready)
        app.session.config.shut_cond = SchedulerCycles() >= 3
        app.run()

    run(is_instrumented=False)
    run(is_instrumented=True)
    assert calls == {False: 4, True: 4}
    assert why(telemetry.span("report").attributes) == (
        "schedule",
        "every 1 h and is_ready (not evaluated)",
    )
    found = [span for span in telemetry.spans if span.name == "run other"]
    assert [why(span.attributes) for span in found] == [
        ("condition", "is_ready (not evaluated)")
    ] * 3


def test_task_that_the_application_starts_is_a_request(telemetry: TelemetryCapture) -> None:
    """Nothing else has let it begin."""
    app = make_app()
    instrument(app, **telemetry.providers)
    add(app, "report").start()
    assert why(telemetry.span("report").attributes) == ("request", None)


def test_launch_reads_nothing(telemetry: TelemetryCapture, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a condition depends on is read once, at the start of the scheduler."""
    app = make_app()
    handler = instrument(app, **telemetry.providers)
    app.session.create_task(
        func=apps.fail, name="report", start_cond=retry(5) | (failed.this_hour.get_cond() == 1)
    )
    read: list[str] = []
    times_of = handler._bridge._run_lookup.times_of

    def noted(task_name: str, actions: tuple[str, ...], since: float) -> list[float]:
        read.append(f"{task_name} {actions}")
        return times_of(task_name, actions, since)

    monkeypatch.setattr(handler._bridge._run_lookup, "times_of", noted)
    run_tasks(app, "report", cycles=4)
    assert read == ["report ('fail',)"]
    found = [why(span.attributes) for span in telemetry.spans]
    words = "retry, at most 5 times"
    assert found == [
        ("request", None),
        ("retry", f"{words} and this task has failed exactly 1 times this hour"),
        ("retry", words),
        ("retry", words),
    ]

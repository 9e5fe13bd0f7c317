"""Why a task does not start, in real applications."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from rocketry import Rocketry
from rocketry.conds import after_success, daily, false, true

from rocketry_otel import RocketryOTelError, explain, instrument, uninstrument
from rocketry_otel.testing import TelemetryCapture
from tests.schedule.programs import STEPS, trees, world
from tests.support import apps
from tests.support.apps import make_app, run_tasks


def add(app: Rocketry, name: str, condition: Any = false, **options: Any) -> Any:
    """Add a task that succeeds."""
    return app.session.create_task(func=apps.succeed, name=name, start_cond=condition, **options)


def test_explanation_shows_what_is_missing(telemetry: TelemetryCapture) -> None:
    """Its text is for people, its data for programs; a function is not called."""
    app = make_app()
    instrument(app, **telemetry.providers)
    add(app, "load")
    seen: list[Any] = []

    @app.cond()
    def is_ready() -> bool:
        raise AssertionError

    add(app, "report", after_success("load") & is_ready)

    def look() -> None:
        seen.append(explain(app, "report"))

    app.session.create_task(func=look, name="look")
    run_tasks(app, "look")
    (found,) = seen
    assert (found.task_name, found.verdict, found.is_requested) == ("report", False, False)
    assert str(found) == found.text
    assert found.text.splitlines() == [
        "report does not start at the next look of the scheduler.",
        "no      after success of load and is_ready",
        "  no      after success of load",
        "  unknown is_ready (not evaluated)",
        "missing: after success of load",
        "missing: is_ready (not evaluated)",
    ]
    data = json.loads(json.dumps(found.to_dict()))
    assert data["task_name"] == "report"
    assert data["verdict"] is False
    assert data["is_requested"] is False
    assert data["held_back"] == []
    assert data["missing"] == list(found.missing)
    assert data["condition"] == found.condition.to_dict()
    assert data["time"].endswith("Z")


def test_task_is_held_back_whatever_its_condition_is(telemetry: TelemetryCapture) -> None:
    """Each reason is named while it holds; another thread may ask."""
    app = make_app(max_process_count=1)
    instrument(app, **telemetry.providers)
    held: dict[str, tuple[str, ...]] = {}
    add(app, "disabled", true, disabled=True)
    add(app, "starts", true, on_startup=True)
    add(app, "ends", true, on_shutdown=True)
    add(app, "free")
    add(app, "second", true, execution="process", priority=-1)
    event = threading.Event()
    app.session.create_task(func=apps.sleep, name="long", execution="process", priority=2)
    app.session.create_task(func=event.wait, name="thread", execution="thread", priority=2)

    def look() -> None:
        app.session.scheduler.on_hold = True
        held["on hold"] = explain(app, "free").held_back
        app.session.scheduler.on_hold = False
        app.session["free"].run()
        assert explain(app, "free").is_requested
        assert explain(app, "free").verdict is True
        assert "requested: task.run() has asked for a run" in str(explain(app, "free"))
        for name in ("disabled", "starts", "ends", "second", "thread", "free"):
            held[name] = explain(app, name).held_back
        app.session["disabled"].run()
        held["disabled and requested"] = explain(app, "disabled").held_back
        app.session["long"].terminate()
        event.set()

    def look_from_a_thread() -> None:
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()

    app.session.create_task(func=look_from_a_thread, name="look")
    run_tasks(app, "long", "thread", "look")
    assert held == {
        "on hold": ("the scheduler is on hold",),
        "disabled": ("it is disabled",),
        "disabled and requested": (),
        "starts": ("it runs only at the start of the scheduler",),
        "ends": ("it runs only at the end of the scheduler",),
        "second": ("all 1 processes are in use",),
        "thread": ("it is still running",),
        "free": (),
    }
    stopped = explain(app, "free")
    assert stopped.held_back == ("the scheduler does not run",)
    assert "held back: the scheduler does not run" in stopped.text
    assert explain(app, "free").verdict is False


def test_task_is_named_in_each_way(telemetry: TelemetryCapture) -> None:
    """By its name, its function or itself; what is none of them is refused."""
    app = make_app()
    with pytest.raises(RocketryOTelError, match=r"call rocketry_otel\.instrument\(app\) first"):
        explain(app, "report")
    instrument(app, **telemetry.providers)

    @app.task(daily, name="report")
    def report() -> None:
        """Do nothing."""

    for task in ("report", report, app.session["report"]):
        assert explain(app, task).task_name == "report"
    with pytest.raises(RocketryOTelError, match="The application has no task 'other'"):
        explain(app, "other")
    with pytest.raises(TypeError, match="task must be a task, its name or its function, not 5"):
        explain(app, 5)
    with pytest.raises(TypeError):
        explain("app", "report")  # type: ignore[arg-type]  # refused


@settings(max_examples=15)
@given(tree=trees(), steps=STEPS)
def test_verdict_is_rocketrys(tree: Any, steps: list[tuple[str, Any]]) -> None:
    """For generated conditions and histories, ``explain`` and Rocketry agree on a start."""
    with world() as it:
        it.use(tree)
        for step in steps:
            it.step(*step)
        handler = instrument(it.app)
        try:
            it.session.scheduler.is_alive = True
            runs = [task._run_stack for task in it.tasks.values()]
            found = explain(it.app, "report")
            assert found.verdict is it.session.scheduler.is_task_runnable(it.task)
            assert (found.missing == ()) is found.verdict
            assert [task._run_stack for task in it.tasks.values()] == runs
        finally:
            uninstrument(it.app)
            handler.close()

"""How long tasks wait, in a real application with a clock of the tests."""

from __future__ import annotations

import functools
import gc
import threading
import weakref
from typing import Any

import pytest
from rocketry import Rocketry, Session
from rocketry.conditions import SchedulerCycles
from rocketry.conds import every, false, true

from rocketry_otel import instrument, uninstrument
from rocketry_otel._instrumentation.waiting import Waiting
from rocketry_otel._runtime.by_identity import ByIdentity
from rocketry_otel.testing import ManualClock, TelemetryCapture
from tests.support import apps
from tests.support.apps import make_app

CHECKS = {"is_task_runnable", "check_task_cond", "has_free_processors"}


class Parts:
    """An application on a clock that a task of its own moves, one step a cycle."""

    def __init__(self, telemetry: TelemetryCapture, *steps: Any, **options: Any) -> None:
        self.clock = ManualClock()
        self.app = make_app(time_func=self.clock, **options)
        self.telemetry = telemetry
        instrument(self.app, **telemetry.providers)
        self._steps = list(steps)
        self.app.session.hooks.scheduler_cycle.append(self._step)

    def _step(self) -> None:
        if self._steps:
            self._steps.pop(0)()

    def task(self, name: str, condition: Any, function: Any = apps.succeed, **options: Any) -> Any:
        """Add a task."""
        return self.app.session.create_task(
            func=function, name=name, start_cond=condition, **options
        )

    def run(self) -> dict[tuple[str, str], float]:
        """Run one cycle more than there are steps; return the seconds by task and reason."""
        self.app.session.config.shut_cond = SchedulerCycles() >= len(self._steps) + 1
        self.app.run()
        return self.seconds()

    def seconds(self) -> dict[tuple[str, str], float]:
        """Return the seconds by task and reason."""
        return {
            (point.attributes["task_name"], point.attributes["rocketry.wait.reason"]): round(
                point.value, 3
            )
            for point in self.telemetry.metric_points("rocketry.task.waiting")
        }


def test_blocked_task_waits_from_its_due_time(telemetry: TelemetryCapture) -> None:
    """A main-mode body of 100 s blocks a task that is due after 60 s of it for 40 s."""

    def run_block() -> None:
        parts.app.session["block"].run()

    parts = Parts(telemetry, lambda: None, run_block)
    parts.task("due", every("60 s"), priority=-1)
    parts.task("often", every("200 s"), priority=-1)
    parts.task("block", false, lambda: parts.clock.advance(100.0))
    assert parts.run() == {("due", "blocked"): 40.0}


def test_task_waits_while_the_scheduler_is_on_hold(telemetry: TelemetryCapture) -> None:
    """From the moment that it is due, until now and until the end of the hold."""
    seen: list[Any] = []

    def hold() -> None:
        parts.app.session.scheduler.on_hold = True

    def look() -> None:
        parts.clock.advance(30.0)
        seen.append(parts.seconds())

    def release() -> None:
        parts.app.session.scheduler.on_hold = False
        parts.clock.advance(5.0)

    parts = Parts(telemetry, lambda: None, hold, lambda: parts.clock.advance(60.0), look, release)
    parts.task("due", every("60 s"))
    assert parts.run() == {("due", "on_hold"): 35.0}
    assert seen == [{("due", "on_hold"): 30.0}]


def test_task_waits_for_its_own_run_and_for_a_process(telemetry: TelemetryCapture) -> None:
    """A task that still runs is not launched again, and a limit of processes holds others back."""
    event = threading.Event()

    def advance() -> None:
        parts.clock.advance(90.0)

    def release() -> None:
        event.set()
        parts.app.session["long"].terminate()

    parts = Parts(telemetry, lambda: None, advance, advance, release, max_process_count=1)
    parts.task("long", every("10 days"), apps.sleep, execution="process", priority=2)
    parts.task("thread", every("60 s"), event.wait, execution="thread", priority=1)
    parts.task("second", every("60 s"), execution="process")
    user = parts.task("users", true, execution="process")

    @parts.app.cond()
    def is_ready() -> bool:
        return True

    user.start_cond = is_ready
    # The first look that finds it running is at 90 s.
    assert parts.run() == {("thread", "running"): 90.0, ("second", "limit"): 180.0}


def test_results_of_the_checks_stay_as_they_are(telemetry: TelemetryCapture) -> None:
    """They are wrapped for one scheduler alone, until the application is not instrumented."""
    app, other = make_app(), Rocketry()
    task = app.session.create_task(func=apps.succeed, name="etl", start_cond=true)
    scheduler = app.session.scheduler
    instrument(app, **telemetry.providers)
    assert set(vars(scheduler)) >= CHECKS
    assert not CHECKS & set(vars(other.session.scheduler))
    marker = object()
    task.__dict__["disabled"] = False
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(task), "is_runnable", lambda _: marker)
        assert scheduler.is_task_runnable(task) is marker
    mine = scheduler.check_task_cond
    scheduler.check_task_cond = functools.partial(mine)
    uninstrument(app)
    assert CHECKS & set(vars(scheduler)) == {"check_task_cond"}
    assert scheduler.is_task_runnable(task) is True


def test_task_that_is_gone_is_forgotten(telemetry: TelemetryCapture) -> None:
    """Nothing of it stays, and nothing keeps it alive."""
    app = make_app()
    handler = instrument(app, **telemetry.providers)
    task = app.session.create_task(func=apps.succeed, name="etl", start_cond=false)
    app.session.config.shut_cond = SchedulerCycles() >= 1
    app.run()
    (waiting,) = handler._bridge.pipeline.waiting.sources
    waiting._wait_of(task)
    weak = weakref.ref(task)
    del task
    app.session.tasks.clear()
    gc.collect()
    assert weak() is None
    assert not waiting._waits


def test_clock_that_raises_does_not_reach_the_scheduler(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its own checks still decide; what is not known is not counted."""
    caplog.set_level("DEBUG", "rocketry_otel")
    clock = ManualClock()
    is_broken = False

    def time_func() -> float:
        if is_broken:
            raise OSError("no clock")
        return clock()

    app = make_app(time_func=time_func, max_process_count=0)
    starts = app.session.create_task(func=apps.succeed, name="starts", start_cond=true)
    waits = app.session.create_task(
        func=apps.succeed, name="waits", start_cond=true, execution="process"
    )
    waiting = Waiting(app.session, lambda: None)
    scheduler = app.session.scheduler
    assert scheduler.is_task_runnable(starts) is True
    assert waiting._blocks.reason == "blocked"
    is_broken = True
    # The end of a body, the beginning of a wait, a launch, and the beginning of a hold.
    assert scheduler.is_task_runnable(waits) is False
    assert scheduler.is_task_runnable(starts) is True
    scheduler.on_hold = True
    waiting.cycle()
    raised = [one for one in caplog.records if one.message == "the time of waiting is not known"]
    assert len(raised) == 6
    assert {type(one.exc_info[1]) for one in raised if one.exc_info} == {OSError}
    is_broken = False
    waiting.cycle()
    assert (waiting._blocks.reason, waiting._holds.reason) == (None, "on_hold")
    assert waiting.is_launching(starts)


def test_task_that_cannot_be_observed_is_not_counted(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its class may have slots alone: the look at it is Rocketry's all the same."""
    caplog.set_level("DEBUG", "rocketry_otel")
    app = make_app(max_process_count=0)
    task = app.session.create_task(
        func=apps.succeed, name="etl", start_cond=true, execution="process"
    )
    waiting = Waiting(app.session, lambda: None)

    def refuse(*_: Any) -> None:
        raise TypeError("cannot create weak reference")

    monkeypatch.setattr(ByIdentity, "__setitem__", refuse)
    assert app.session.scheduler.is_task_runnable(task) is False
    assert "the time of waiting is not known" in caplog.text
    assert waiting.is_launching(task) is False


def test_session_that_is_gone_is_left_alone() -> None:
    """A thread that collects metrics, and the end of the program, may come after it."""
    session = Session()
    waiting = Waiting(session, lambda: None)
    weak = weakref.ref(session)
    del session
    gc.collect()
    assert weak() is None
    waiting.begin()
    waiting.cycle()
    waiting.settle()
    waiting.remove()
    assert not waiting._waits

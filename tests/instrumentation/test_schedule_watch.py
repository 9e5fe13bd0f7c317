"""The watch on the slots of tasks, where a session, its bridge or its clock is not there."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
from rocketry import Session
from rocketry.conds import cron, minutely

from rocketry_otel import instrument
from rocketry_otel._delivery.settled_slots import Settled, SettledSlots
from rocketry_otel._instrumentation import schedule_watch as module
from rocketry_otel._instrumentation.schedule_watch import ScheduleWatch
from rocketry_otel._schedule.conditions import Conditions
from rocketry_otel._schedule.missed import RunTime, Why
from rocketry_otel.testing import ManualClock, TelemetryCapture
from tests.support import apps
from tests.support.apps import make_app

LONGEST = 60.0
# A multiple of a minute.
START = 1_700_000_040.0


def wait_for(condition: Any) -> None:
    """Wait until a condition is true."""
    deadline = time.monotonic() + LONGEST
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_session_that_is_gone_is_left_alone() -> None:
    """Nothing is watched, stored or due."""
    session = Session()
    watch = ScheduleWatch(session, lambda: None, "key", Conditions())
    weak = weakref.ref(session)
    watch.start()
    assert watch._started is not None
    del session
    gc.collect()
    assert weak() is None
    watch.start()
    watch.look()
    assert watch.next_runs() == []
    watch._watch(watch._generation)
    watch.stop()
    assert watch._watched.items() == []


def test_watch_without_a_bridge_ends_with_the_scheduler() -> None:
    """It may end while slots are stored; a launch meanwhile still counts its missed slots."""
    clock = ManualClock(START)
    app = make_app(time_func=clock)
    task = app.session.create_task(func=apps.succeed, name="etl", start_cond=minutely)
    task._last_run = START + 1
    asked: list[int] = []

    def find_bridge() -> None:
        asked.append(1)
        if len(asked) == 4:
            watch.stop()

    watch = ScheduleWatch(app.session, find_bridge, "key", Conditions())
    assert watch.next_runs() == []
    watch.start()
    watch.look()
    assert watch.next_runs() == [("etl", START + 60)]
    clock.advance(200.0)
    launching: Any = SimpleNamespace(task=task, time=clock(), is_requested=True)
    # Minutes two and three went by; neither the look for a reason nor the report finds a bridge.
    assert watch.attributes_of(launching) == {
        "rocketry.schedule.missed": 2,
        "rocketry.missed.reason": "blocked",
    }
    assert len(asked) == 3
    watch._watch(watch._generation)
    assert watch._started is None
    assert watch.attributes_of(launching) == {}


def test_look_wakes_the_thread_when_a_slot_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """An own clock may have run on while the thread sleeps."""
    monkeypatch.setattr(module, "_LONGEST_SLEEP_WITH_OWN_CLOCK", 10 * LONGEST)
    clock = ManualClock(START)
    app = make_app(time_func=clock)
    app.session.create_task(func=apps.succeed, name="etl", start_cond=minutely)
    watch = ScheduleWatch(app.session, lambda: None, "key", Conditions())
    watch.start()
    watch.follow()
    wait_for(lambda: watch._wakes_at == START + 60.5)
    clock.advance(121.0)

    def has_woken() -> bool:
        watch.look()
        return watch._wakes_at == START + 180.5

    wait_for(has_woken)
    watch.stop()


def test_clock_that_raises_in_the_thread_ends_nothing(
    telemetry: TelemetryCapture, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried again, and the missed slot is found then."""
    caplog.set_level("DEBUG", "rocketry_otel")
    monkeypatch.setattr(module, "_SECONDS_AFTER_AN_ERROR", 0.01)
    clock = ManualClock(START)
    raised: list[int] = []

    def time_func() -> float:
        is_thread = threading.current_thread().name == "rocketry-otel-schedule"
        if is_thread and len(raised) < 2:
            raised.append(1)
            raise OSError("no clock")
        return clock()

    def missed() -> list[Any]:
        names = [one.event_name for one in telemetry.log_records]
        return [name for name in names if name == "rocketry.task.missed"]

    def block() -> None:
        clock.advance(130.0)
        wait_for(missed)
        app.session.shut_down()

    app = make_app(time_func=time_func)
    app.session.create_task(func=apps.succeed, name="etl", start_cond=cron("* * * * *"), priority=1)
    app.session.create_task(func=block, name="block", start_cond=cron("* * * * *"))
    instrument(app, **telemetry.providers)
    app.run()
    assert len(raised) == 2
    assert missed()
    assert caplog.text.count("missed runs could not be found") == 2


class Kept:
    """The settled slots that an application keeps in memory."""

    def __init__(self) -> None:
        self.slots = SettledSlots(None)
        self.schedule = self
        self.settled_slots, self.keep_settled_slots = self.slots.all, self.slots.put


def test_slots_that_went_by_are_counted_once_over_restarts() -> None:
    """A second start finds none that the first has counted; a disabled task misses none."""
    clock, kept = ManualClock(START + 200.0), Kept()
    app = make_app(time_func=clock)
    for name in ("etl", "idle"):
        task = app.session.create_task(
            func=apps.succeed, name=name, start_cond=minutely, disabled=name == "idle"
        )
        task._last_run = START + 1
    found = []
    for _ in range(2):
        bridge: Any = kept
        watch = ScheduleWatch(app.session, lambda bridge=bridge: bridge, "key", Conditions())
        watch.start()
        watch.look()
        found.append([(one.name, one.slot.begin, one.number) for one in watch._taken_gone()])
        watch.stop()
        clock.advance(1.0)
    assert found == [[("etl", START + 60, 2)], []]
    assert kept.slots.all() == {
        "etl": Settled(START + 200.5, 2, "scheduler_down"),
        "idle": Settled(START + 200.5),
    }


def test_each_missed_slot_has_its_own_reason() -> None:
    """A run counts for the slots in which it went on, also if several are found at once."""
    clock, kept = ManualClock(START), Kept()
    app = make_app(time_func=clock)
    task = app.session.create_task(func=apps.succeed, name="etl", start_cond=minutely)
    task._last_run = START + 1
    runs = [RunTime("before", "main", START, START + 59)]
    for minute in (2, 3, 4):
        began = START + 60 * minute
        runs.append(RunTime(f"run of minute {minute}", "main", began, began + 50))
    bridge: Any = kept
    bridge.run_times = lambda _: runs
    watch = ScheduleWatch(app.session, lambda: bridge, "key", Conditions())
    watch.start()
    watch.look()
    clock.advance(260.0)
    watched = watch._of(task, clock())
    found = watch._judged(task, watched, watched.slots.settle(clock()))
    assert [(one.slot.begin, one.why) for one in found] == [
        (START + 60, Why("blocked")),
        (START + 120, Why("blocked", "run of minute 2")),
        (START + 180, Why("blocked", "run of minute 3")),
    ]
    assert (watched.missed, watched.why) == (3, Why("blocked", "run of minute 3"))

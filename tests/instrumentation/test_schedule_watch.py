"""The watch on the slots of tasks, where a session, its bridge or its clock is not there."""

from __future__ import annotations

import gc
import time
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
from rocketry import Session
from rocketry.conds import minutely

from rocketry_otel._instrumentation import schedule_watch as module
from rocketry_otel._instrumentation.schedule_watch import ScheduleWatch
from rocketry_otel.testing import ManualClock
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
    watch = ScheduleWatch(session, lambda: None, "key")
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
        if len(asked) == 5:
            watch.stop()

    watch = ScheduleWatch(app.session, find_bridge, "key")
    assert watch.next_runs() == []
    watch.start()
    watch.look()
    assert watch.next_runs() == [("etl", START + 60)]
    clock.advance(200.0)
    launching: Any = SimpleNamespace(task=task, time=clock(), is_requested=True)
    # Minutes two and three went by; the report of each finds no bridge.
    assert watch.attributes_of(launching) == {
        "rocketry.schedule.missed": 2,
        "rocketry.missed.reason": "blocked",
    }
    assert len(asked) == 4
    watch._watch(watch._generation)
    assert watch._started is None
    assert watch.attributes_of(launching) == {}


def test_look_wakes_the_thread_when_a_slot_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """An own clock may have run on while the thread sleeps."""
    monkeypatch.setattr(module, "_LONGEST_SLEEP_WITH_OWN_CLOCK", 10 * LONGEST)
    clock = ManualClock(START)
    app = make_app(time_func=clock)
    app.session.create_task(func=apps.succeed, name="etl", start_cond=minutely)
    watch = ScheduleWatch(app.session, lambda: None, "key")
    watch.start()
    watch.follow()
    wait_for(lambda: watch._wakes_at == START + 60.5)
    clock.advance(121.0)

    def has_woken() -> bool:
        watch.look()
        return watch._wakes_at == START + 180.5

    wait_for(has_woken)
    watch.stop()

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from rocketry.conds import after_success, cron, daily, every, time_of_day

from rocketry_otel._schedule.conditions import parse
from rocketry_otel._schedule.plan import alternatives_of
from rocketry_otel._schedule.slots import Calendar
from rocketry_otel._schedule.task_slots import MOST_MISSED, TaskSlots

CALENDAR = Calendar(dt.timezone.utc)


def utc(*date: int) -> float:
    """Return a time in UTC in seconds since the epoch."""
    return dt.datetime(*date, tzinfo=dt.timezone.utc).timestamp()  # type: ignore[misc,arg-type]


def slots_of(condition: Any, now: float, last_run: float | None = None) -> TaskSlots:
    """Return the slots of a task with a start condition."""
    return TaskSlots(alternatives_of(parse(condition), CALENDAR), now, last_run)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (cron("0 2 * * *"), utc(2026, 1, 6, 2)),
        (daily.between("10:00", "15:00"), utc(2026, 1, 5, 10)),
        (cron("0 2 * * *") | cron("30 1 * * *"), utc(2026, 1, 6, 1, 30)),
        (every("10 min"), utc(2026, 1, 5, 11, 10)),
        (every("10 min") & time_of_day.between("08:00", "11:05"), utc(2026, 1, 6, 8)),
        (every("10 min") & time_of_day.between("08:00", "12:00"), utc(2026, 1, 5, 11, 10)),
        (daily & after_success("etl"), None),
        (every("10 min", based="success"), None),
    ],
)
def test_next_run_is_known_where_time_alone_decides(condition: Any, expected: Any) -> None:
    """An open slot without a run is due since its begin."""
    slots = slots_of(condition, utc(2026, 1, 5, 12))
    last = {"run": utc(2026, 1, 5, 11)}
    newest = lambda actions: max((last[one] for one in actions if one in last), default=None)  # noqa: E731
    assert slots.next_run(newest) == expected


def test_used_slot_is_not_due_again() -> None:
    """After a launch in it, the next one counts."""
    now = utc(2026, 1, 5, 12)
    slots = slots_of(daily, now)
    assert slots.serve(now) == []
    assert slots.next_run(lambda _: None) == utc(2026, 1, 6)


def test_launch_at_the_edge_of_a_slot_is_for_the_slot_that_is_open() -> None:
    """A moment after the end, it is for the one before if no other has begun."""
    slots = slots_of(cron("0 2 * * *"), utc(2026, 1, 5, 1))
    assert slots.serve(utc(2026, 1, 5, 2, 1) + 0.2) == []
    assert slots.settle(utc(2026, 1, 5, 3)) == []
    each_minute = slots_of(cron("* * * * *"), utc(2026, 1, 5, 2))
    (missed,) = each_minute.serve(utc(2026, 1, 5, 2, 1) + 0.2)
    assert missed.begin == utc(2026, 1, 5, 2)
    assert each_minute.settle(utc(2026, 1, 5, 2, 2, 1)) == []


def test_slots_that_went_by_begin_after_the_last_run_or_what_was_settled() -> None:
    """They are counted up to a limit."""
    start = utc(2026, 1, 9, 12)
    slots = slots_of(cron("0 2 * * *"), start)
    last_run = utc(2026, 1, 5, 2, 0, 1)
    gone = slots.gone(last_run, last_run, start)
    assert gone is not None
    assert (gone.number, gone.first.begin) == (4, utc(2026, 1, 6, 2))
    gone = slots.gone(last_run, utc(2026, 1, 8, 1), start)
    assert gone is not None
    assert (gone.number, gone.first.begin) == (2, utc(2026, 1, 8, 2))
    assert slots.gone(last_run, start, start) is None
    each_minute = slots_of(cron("* * * * *"), start)
    gone = each_minute.gone(last_run, last_run, start)
    assert gone is not None
    assert gone.number == MOST_MISSED

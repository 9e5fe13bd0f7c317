from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from rocketry.conds import after_success, cron, daily, every, hourly, time_of_day

from rocketry_otel._schedule.conditions import parse
from rocketry_otel._schedule.plan import alternatives_of
from rocketry_otel._schedule.slots import PeriodSlots
from rocketry_otel._schedule.task_slots import MOST_MISSED, TaskSlots


def utc(*date: int) -> float:
    """Return a time in UTC in seconds since the epoch."""
    return dt.datetime(*date, tzinfo=dt.timezone.utc).timestamp()  # type: ignore[misc,arg-type]


def slots_of(condition: Any, now: float, last_run: float | None = None) -> TaskSlots:
    """Return the slots of a task with a start condition."""
    return TaskSlots(alternatives_of(parse(condition), PeriodSlots(dt.timezone.utc)), now, last_run)


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
        (every("10 min", based="finish"), None),
        (every("1 h", based="run") | every("10 min", based="finish"), utc(2026, 1, 5, 12)),
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


def test_launch_after_a_used_slot_misses_nothing() -> None:
    """The slot before had its run, and the next one has begun."""
    each_minute = slots_of(cron("* * * * *"), utc(2026, 1, 5, 2))
    assert each_minute.serve(utc(2026, 1, 5, 2, 0, 10)) == []
    assert each_minute.serve(utc(2026, 1, 5, 2, 1) + 0.2) == []
    assert each_minute.settle(utc(2026, 1, 5, 2, 2, 1)) == []


def test_clock_that_jumps_ahead_costs_a_bounded_number_of_slots() -> None:
    """A clock that begins in 1970 and is then set leaves 29 million minutes behind."""
    slots = slots_of(cron("* * * * *") | hourly, 0.0)
    missed = slots.settle(utc(2026, 1, 5, 12, 0, 10))
    begins = [one.begin for one in missed]
    assert len(missed) == MOST_MISSED
    assert begins == sorted(begins)
    assert begins[:3] == [0.0, 60.0, 120.0]
    assert slots.next_run(lambda _: None) == utc(2026, 1, 5, 12)
    assert slots.serve(utc(2026, 1, 5, 12, 0, 20)) == []
    assert slots.next_run(lambda _: None) == utc(2026, 1, 5, 12, 1)
    (second, first) = slots.settle(utc(2026, 1, 5, 12, 3, 1))
    assert (second.begin, first.begin) == (utc(2026, 1, 5, 12, 1), utc(2026, 1, 5, 12, 2))


def test_clock_that_jumps_back_begins_with_the_slots_of_its_time() -> None:
    """A slot that was judged before the jump is not judged again; the next ones are."""
    slots = slots_of(cron("* * * * *"), utc(2026, 1, 5, 12))
    assert slots.serve(utc(2056, 1, 5, 12))[0].begin == utc(2026, 1, 5, 12)
    assert slots.settle(utc(2026, 1, 5, 12, 0, 30)) == []
    assert slots.next_run(lambda _: None) == utc(2026, 1, 5, 12, 1)
    (missed,) = slots.settle(utc(2026, 1, 5, 12, 2, 1))
    assert missed.begin == utc(2026, 1, 5, 12, 1)


def test_clock_that_steps_back_a_little_changes_no_slot() -> None:
    """Neither the open slot nor the one that comes next is judged anew."""
    each_minute = slots_of(cron("* * * * *"), utc(2026, 1, 5, 12, 0, 10))
    assert each_minute.serve(utc(2026, 1, 5, 12, 0, 20)) == []
    assert each_minute.settle(utc(2026, 1, 5, 12, 0, 19)) == []
    assert each_minute.settle(utc(2026, 1, 5, 12, 1, 1)) == []
    nightly = slots_of(cron("0 2 * * *"), utc(2026, 1, 5, 12))
    assert nightly.serve(utc(2026, 1, 5, 11, 59)) == []
    (missed,) = nightly.settle(utc(2026, 1, 6, 3))
    assert missed.begin == utc(2026, 1, 6, 2)


def test_interval_counts_from_the_last_ending() -> None:
    """Whatever the ending was; the newest one counts."""
    slots = slots_of(every("10 min", based="finish"), utc(2026, 1, 5, 12))
    last = {"run": utc(2026, 1, 5, 12), "success": utc(2026, 1, 5, 9), "fail": utc(2026, 1, 5, 11)}
    newest = lambda actions: max((last[one] for one in actions if one in last), default=None)  # noqa: E731
    assert slots.next_run(newest) == utc(2026, 1, 5, 11, 10)


def test_slot_of_each_alternative_is_its_own() -> None:
    """One without a period has none."""
    now = utc(2026, 1, 5, 2, 0, 10)
    slots = slots_of(cron("0 2 * * *") | cron("* * * * *") | after_success("etl"), now)
    daily_one, each_minute, dependent = slots.alternatives
    found = [one.slot_at(now) for one in (daily_one, each_minute)]
    assert [one.begin for one in found if one is not None] == [utc(2026, 1, 5, 2)] * 2
    later = now + 60
    assert daily_one.slot_at(later) is None
    found = [each_minute.slot_at(later)]
    assert [one.begin for one in found if one is not None] == [utc(2026, 1, 5, 2, 1)]
    assert dependent.slot_at(now) is None


def test_period_that_never_comes_has_no_slots() -> None:
    """The 30th of February is neither missed nor due."""
    now = utc(2026, 1, 5, 12)
    slots = slots_of(cron("0 0 30 2 *"), now)
    assert slots
    assert slots.serve(now) == slots.settle(utc(2027, 1, 5)) == []
    assert slots.next_end is None
    assert slots.next_run(lambda _: None) is None
    assert slots.gone(utc(2025, 1, 1), utc(2025, 1, 1), now) is None


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

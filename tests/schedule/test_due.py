from __future__ import annotations

import datetime as dt
from typing import Any

from rocketry.conds import daily, every, time_of_day

from rocketry_otel._schedule.conditions import parse
from rocketry_otel._schedule.due import Due, Times, due_of
from rocketry_otel._schedule.plan import alternatives_of
from rocketry_otel._schedule.slots import PeriodSlots

NOON = dt.datetime(2026, 1, 5, 12, tzinfo=dt.timezone.utc).timestamp()
HOUR = 3_600.0


def due(condition: Any, **last: float) -> Due:
    """Return since when a run at noon was due; the last actions of the task are given."""
    alternatives = alternatives_of(parse(condition), PeriodSlots(dt.timezone.utc))
    return due_of(alternatives, Times(NOON, last.get, lambda _: None))


def test_alternative_whose_slot_is_over_does_not_count() -> None:
    """The run was for the other one, or for none."""
    window, interval = daily.between("09:00", "10:00"), every("1 h")
    over = NOON - 0.5 * HOUR
    assert due(window | interval, run=NOON - 1.5 * HOUR) == Due(over, over)
    assert due(window, run=NOON - 1.5 * HOUR) == Due(None, None)


def test_run_in_an_open_slot_is_due_since_its_begin() -> None:
    """A run after a failure in the same slot is due since the failure."""
    window, begin = daily.between("11:00", "13:00"), NOON - HOUR
    assert due(window) == due(window, run=begin - HOUR) == Due(begin, begin)
    failed = NOON - 0.25 * HOUR
    assert due(window, run=NOON - 0.5 * HOUR, fail=failed) == Due(begin, failed)


def test_run_in_a_time_that_it_may_use_often_has_no_slot() -> None:
    """It is due since that time began."""
    assert due(time_of_day.between("11:00", "13:00")) == Due(None, NOON - HOUR)

"""Periods in words, and their spans."""

from __future__ import annotations

import datetime as dt

import pytest
from rocketry import time as times

from rocketry_otel._schedule import periods

NOW = dt.datetime(2026, 1, 2, 12, 0)  # noqa: DTZ001  # Rocketry's own times have no zone


class OfTheUser(times.TimeDelta):  # type: ignore[misc]
    """A period class of an application."""


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (0.25, "250 ms"),
        (1.5, "1.5 s"),
        (60, "1 min"),
        (3_661, "1 h 1 min 1 s"),
        (86_400, "1 day"),
        (180_000, "2 days 2 h"),
    ],
)
def test_duration_has_words(seconds: float, words: str) -> None:
    """The units are those that people read."""
    assert periods.duration_words(seconds) == words


def test_period_of_an_application_is_named() -> None:
    """Nothing of it is called."""
    mine = OfTheUser("1 min")
    assert periods.class_name(mine) == ""
    assert periods.once_in(mine) == "a period of the class OfTheUser"
    assert periods.length_of(mine) is None
    assert not periods.is_delta(mine)


def test_length_is_that_of_the_past() -> None:
    """A period that reaches into the future is no interval."""
    assert periods.length_of(times.TimeDelta("1 min")) == 60.0
    assert periods.length_of(times.TimeDelta("1 min", "1 min")) is None
    assert periods.length_of(times.TimeOfDay()) is None
    assert periods.is_delta(times.TimeSpanDelta("1 min"))


def test_time_of_day_has_all_digits_that_it_needs() -> None:
    """A period that was made from a time has no text of its own."""
    period = times.TimeOfDay({"hour": 10, "minute": 5, "second": 7, "microsecond": 9}, 12)
    assert periods.once_in(period) == "daily between 10:05:07.000009 and 13:00"
    week = times.TimeOfWeek({"day": 1, "hour": 10}, "Fri")
    assert periods.once_in(week) == "weekly between Tuesday 10:00 and Fri"


def test_span_is_rocketrys() -> None:
    """It is the one that goes on, else the last."""
    period = times.TimeOfDay("10:00", "15:00")
    ten = NOW.replace(hour=10)
    assert periods.span_of(period, NOW) == (ten, NOW)
    assert periods.span_of(period, NOW.replace(hour=20)) == (ten, NOW.replace(hour=15))

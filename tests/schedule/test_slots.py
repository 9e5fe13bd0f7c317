from __future__ import annotations

import datetime as dt
import random
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from rocketry.time import Cron, TimeOfDay, TimeOfHour, TimeOfMonth, TimeOfWeek

from rocketry_otel._schedule.slots import Calendar, PeriodSlots, Slot, Slots
from rocketry_otel._schedule.verdicts import Moment

BERLIN = ZoneInfo("Europe/Berlin")
SPRING = dt.datetime(2026, 3, 29)  # noqa: DTZ001  # 02:00 becomes 03:00
AUTUMN = dt.datetime(2026, 10, 25)  # noqa: DTZ001  # 03:00 becomes 02:00


@pytest.fixture(params=[True, False], ids=["machine", "configured"])
def calendar(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Calendar]:
    """The clock in Berlin, as the zone of the machine or of the application."""
    if not request.param:
        yield Calendar(BERLIN)
        return
    with monkeypatch.context() as changed:
        changed.setenv("TZ", "Europe/Berlin")
        time.tzset()
        yield Calendar()
    time.tzset()


def cron(expression: str) -> Any:
    """Return the period of a cron expression."""
    return Cron(*expression.split())


def walls(period: Any, since: dt.datetime, number: int, calendar: Calendar) -> list[str]:
    """Return when the next slots begin, end, and how long they are."""
    slots, found = Slots(period, calendar), []
    for _ in range(number):
        slot = slots.after(since)
        assert slot is not None
        found.append(f"{slot.left:%m-%d %H:%M} {slot.right:%m-%d %H:%M} {slot.end - slot.begin:g}")
        since = slot.right
    return found


def utc(*date: int) -> float:
    """Return a time in UTC in seconds since the epoch."""
    return dt.datetime(*date, tzinfo=dt.timezone.utc).timestamp()  # type: ignore[misc,arg-type]


def test_slot_that_the_clock_jumps_over_does_not_exist(calendar: Calendar) -> None:
    """On the day in spring, 02:30 never comes; a day has 23 hours."""
    assert walls(cron("30 2 * * *"), SPRING, 1, calendar) == ["03-30 02:30 03-30 02:31 60"]
    assert walls(TimeOfHour(), SPRING + dt.timedelta(hours=1), 2, calendar) == [
        "03-29 01:00 03-29 02:00 3600",
        "03-29 03:00 03-29 04:00 3600",
    ]
    assert walls(TimeOfDay(), SPRING, 1, calendar) == ["03-29 00:00 03-30 00:00 82800"]


def test_hour_that_comes_twice_has_slots_once(calendar: Calendar) -> None:
    """In autumn, 02:30 is a slot at its first time; a day has 25 hours."""
    slots = Slots(cron("30 2 * * *"), calendar)
    slot = slots.after(AUTUMN)
    assert slot is not None
    assert (slot.begin, slot.end) == (utc(2026, 10, 25, 0, 30), utc(2026, 10, 25, 0, 31))
    assert slots.around(utc(2026, 10, 25, 0, 30)) == slot
    # The second time is the same slot, as for Rocketry.
    assert slots.around(utc(2026, 10, 25, 1, 30)) == slot
    assert walls(TimeOfHour(), AUTUMN + dt.timedelta(hours=1), 3, calendar) == [
        "10-25 01:00 10-25 02:00 3600",
        "10-25 02:00 10-25 03:00 7200",
        "10-25 03:00 10-25 04:00 3600",
    ]
    assert walls(TimeOfDay(), AUTUMN, 1, calendar) == ["10-25 00:00 10-26 00:00 90000"]


@pytest.mark.parametrize(
    ("period", "expected"),
    [
        (TimeOfDay("10:00", "15:00"), ["01-31 10:00 01-31 15:00 18000"]),
        (TimeOfDay("22:00", "03:00"), ["01-31 22:00 02-01 03:00 18000"]),
        (TimeOfDay.starting("10:00"), ["01-31 10:00 02-01 10:00 86400"]),
        (TimeOfWeek.at("Monday"), ["02-02 00:00 02-03 00:00 86400"]),
        (TimeOfMonth(), ["02-01 00:00 03-01 00:00 2.4192e+06"]),
        (
            TimeOfMonth.at(31),
            ["01-31 00:00 02-01 00:00 86400", "03-31 00:00 04-01 00:00 86400"],
        ),
        (TimeOfDay("08:00", "18:00") & TimeOfDay(), ["01-31 08:00 01-31 18:00 36000"]),
        (
            cron("*/30 * * * *") & TimeOfDay("08:00", "09:00"),
            [
                "01-31 08:00 01-31 08:01 60",
                "01-31 08:30 01-31 08:31 60",
                "02-01 08:00 02-01 08:01 60",
            ],
        ),
    ],
)
def test_slots_have_the_edges_of_the_period(period: Any, expected: list[str]) -> None:
    """Months have their own lengths, though all have 31 days for Rocketry."""
    since = dt.datetime(2026, 1, 31)  # noqa: DTZ001
    calendar = Calendar(dt.timezone.utc)
    assert walls(period, since, len(expected), calendar) == expected


@pytest.mark.parametrize("expression", ["*/25 3-5 * * *", "15 */6 1,15 * *", "0 0 * * 1"])
def test_slots_are_the_minutes_in_which_rocketry_runs_a_task(expression: str) -> None:
    """Each minute of a day that is in the period is a slot, and no other."""
    period, calendar = cron(expression), Calendar(dt.timezone.utc)
    day = dt.datetime(2026, 6, 15)  # noqa: DTZ001
    minutes = [day + dt.timedelta(minutes=number) for number in range(0, 24 * 60, 5)]
    slots, found, since = Slots(period, calendar), [], day
    while (slot := slots.after(since)) is not None and slot.left < minutes[-1]:
        assert slot.right - slot.left == dt.timedelta(minutes=1)
        found.append(slot.left)
        since = slot.right
    assert found == [minute for minute in minutes if minute in period]
    assert found


def test_slot_is_found_from_any_time_in_it() -> None:
    """Its begin belongs to it, and its end does not."""
    slots = Slots(TimeOfDay("10:00", "15:00"), Calendar(dt.timezone.utc))
    begin, end = utc(2026, 1, 5, 10), utc(2026, 1, 5, 15)
    slot = slots.around(begin)
    assert isinstance(slot, Slot)
    assert (slot.begin, slot.end) == (begin, end)
    assert slots.around(end - 0.001) == slots.next_after(begin) == slot
    assert slots.around(begin - 0.001) is None
    assert slots.around(end) is None


def test_day_that_never_comes_has_no_slots() -> None:
    """Rocketry looks for the 30th of February until Python stops it; we ask once."""
    slots = Slots(cron("0 2 30 2 *"), Calendar(dt.timezone.utc))
    assert slots.next_after(0.0) is None
    assert slots.around(0.0) is None


class _Nowhere:
    """A period of the user's that has no next interval within reach."""

    def __contains__(self, _: object) -> bool:
        return False

    def rollforward(self, wall: dt.datetime) -> Any:
        raise ValueError(wall)


def test_search_for_a_slot_ends() -> None:
    """A hundred tries are enough for every period of Rocketry."""
    assert Slots(_Nowhere(), Calendar(dt.timezone.utc)).next_after(0.0) is None


class _Counted:
    """A period that counts how often it is asked."""

    def __init__(self, period: Any) -> None:
        self._period = period
        self.calls = 0

    def __contains__(self, wall: dt.datetime) -> bool:
        self.calls += 1
        return wall in self._period

    def rollforward(self, wall: dt.datetime) -> Any:
        self.calls += 1
        return self._period.rollforward(wall)

    def rollback(self, wall: dt.datetime) -> Any:
        self.calls += 1
        return self._period.rollback(wall)


def test_period_is_asked_once_for_a_slot() -> None:
    """The slot, the time after it and the next slot are known until the next one has ended."""
    period = _Counted(cron("*/10 * * * *"))
    slots = Slots(period, Calendar(dt.timezone.utc))
    begin = utc(2026, 1, 5, 10)
    slot = slots.around(begin)
    assert slot is not None
    following = slots.after(slot.right)
    assert following is not None
    assert following.begin == begin + 600
    calls = period.calls
    for second in range(0, 660, 7):
        found = slots.around(begin + second)
        assert found is (slot if second < 60 else following if second >= 600 else None)
    assert slots.after(slot.left) is slot
    assert slots.next_after(begin + 59) is slots.next_after(begin + 300) is following
    assert slots.covers(following.left) is True
    assert slots.covers(slot.right) is False
    assert slots.covers(following.right) is None
    assert period.calls == calls


@pytest.mark.parametrize(
    "period",
    [
        TimeOfDay(),
        TimeOfDay("22:00", "03:00"),
        TimeOfHour("15:00", "45:00"),
        TimeOfWeek("Mon", "Wed"),
        TimeOfMonth(),
        TimeOfMonth("3rd", "30th"),
        cron("*/20 * * * *"),
        cron("* 1-3 * * *"),
        cron("0 0 1,15 * 1"),
        TimeOfDay("01:00", "05:00") & TimeOfHour("10:00", "50:00"),
        TimeOfDay("01:00", "05:00") | TimeOfDay("04:00", "08:00"),
    ],
    ids=str,
)
def test_known_slot_gives_the_verdict_and_the_span_of_rocketry(
    period: Any, calendar: Calendar
) -> None:
    """At each time of a month in which the clocks change, also when the clock goes back."""
    zone, slots = calendar.zone, PeriodSlots(calendar.zone)
    session = SimpleNamespace(_format_timestamp=lambda at: dt.datetime.fromtimestamp(at, zone))
    draws = random.Random(7)  # noqa: S311  # the same times in each run
    at, hits = utc(2026, 10, 23), 0
    for _ in range(200):
        at += draws.choice([1, 30, 59, 60, 600, 3_600, 3_601, 7_200, -1_800, 40_000])
        moment: Any = Moment(SimpleNamespace(session=session), None, slots, at)  # type: ignore[arg-type]
        hits += slots.of(period).covers(moment.now.replace(tzinfo=None, fold=0)) is not None
        is_in = moment.now in period
        assert moment.is_in(period) is is_in
        slots.of(period).next_after(at)
        if is_in:
            interval = period.rollback(moment.now)
            assert moment.span(period) == (interval.left.timestamp(), interval.right.timestamp())
    assert hits > 40


def test_begin_of_a_forgotten_slot_is_not_outside() -> None:
    """The time before a slot is known to be outside of it, up to its begin."""
    slots = Slots(TimeOfHour("10:00", "20:00"), Calendar())
    following = slots.after(dt.datetime(2026, 3, 2, 8, 30))  # noqa: DTZ001  # on the wall
    assert following is not None
    for hours in (5, 6):
        assert slots.at(following.left + dt.timedelta(hours=hours)) is not None
    assert slots.covers(following.left - dt.timedelta(seconds=1)) is False
    assert slots.covers(following.left) is None

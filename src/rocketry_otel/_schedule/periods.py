"""Rocketry's periods in words, and the span of time that a period means at a moment.

In: a period of Rocketry, found by the name of its class. Out: words, and times.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_MICROSECONDS = 1_000_000
_DAY = 86_400 * _MICROSECONDS
_UNITS = (("days", 86_400.0), ("h", 3_600.0), ("min", 60.0))
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_ENDINGS = {1: "st", 2: "nd", 3: "rd", 21: "st", 22: "nd", 23: "rd", 31: "st"}
_CRON = ("minute", "hour", "day_of_month", "month", "day_of_week")


def class_name(rockets: object) -> str:
    """Return the class name of an object of Rocketry's own; empty for one of the user's."""
    class_ = type(rockets)
    return class_.__name__ if class_.__module__.startswith("rocketry.") else ""


def is_delta(period: object) -> bool:
    """Return whether a period has a length alone, and no place in time."""
    return class_name(period) in {"TimeDelta", "TimeSpanDelta"}


def length_of(period: Any) -> float | None:
    """Return the seconds of a period that reaches from now into the past, else ``None``."""
    if class_name(period) != "TimeDelta" or period.future:
        return None
    return float(period.past.total_seconds())


def span_of(period: Any, now: dt.datetime) -> tuple[dt.datetime, dt.datetime]:
    """Return the span that a period means at a moment, as Rocketry finds it.

    Raises:
        Exception: The error that Rocketry would meet as well.
    """
    interval = period.rollback(now)
    return interval.left, interval.right


def duration_words(seconds: float) -> str:
    """Return a length of time in words, such as ``1 h 5 min``."""
    words = []
    for unit, size in _UNITS:
        count = int(seconds // size)
        if count:
            words.append(f"{count} {'day' if (unit, count) == ('days', 1) else unit}")
            seconds -= count * size
    seconds = round(seconds, 6)
    if seconds or not words:
        words.append(f"{seconds:g} s" if seconds >= 1 or not seconds else f"{seconds * 1000:g} ms")
    return " ".join(words)


class PeriodWords:
    """The words for the periods of one kind.

    Args:
        adjective: The word for a task that runs once in it, such as ``daily``.
        noun: The word for the time in it, such as ``time of day``.
        this: The word for the one that goes on, such as ``today``.
        point: Returns the words for a distance from its beginning in microseconds.
        preposition: The word before a single unit.
    """

    def __init__(
        self,
        adjective: str,
        noun: str,
        this: str,
        point: Callable[[int, bool], str],
        preposition: str = "at",
    ) -> None:
        self.adjective, self.noun, self.this = adjective, noun, this
        self._point, self._preposition = point, preposition

    def range_of(self, period: Any) -> str:
        """Return the words for the part of it that a period covers; empty for the whole."""
        start, end, most = period._start, period._end, period._scope_max  # noqa: SLF001  # no public way
        if start == 0 and end == most:
            return ""
        begins = self._edge(period, "_start_orig", int(start), is_end=False)
        ends = self._edge(period, "_end_orig", int(end), is_end=True)
        if start == end:
            return f" starting at {begins}"
        if start == 0 and getattr(period, "_start_orig", None) is None:
            return f" before {ends}"
        if getattr(period, "_end_orig", None) is not None:
            return f" between {begins} and {ends}"
        return f" after {begins}" if end == most else f" {self._preposition} {begins}"

    def _edge(self, period: Any, name: str, at: int, *, is_end: bool) -> str:
        given = getattr(period, name, None)
        if isinstance(given, str) and not given.isdecimal():
            return given
        return self._point(at, is_end)


def _time_point(at: int, _is_end: bool = False) -> str:  # noqa: FBT001, FBT002  # a callback
    seconds, microseconds = divmod(at, _MICROSECONDS)
    minutes, seconds = divmod(seconds, 60)
    text = f"{minutes // 60:02d}:{minutes % 60:02d}"
    if seconds or microseconds:
        text += f":{seconds:02d}"
    return f"{text}.{microseconds:06d}" if microseconds else text


def _hour_point(at: int, _is_end: bool) -> str:  # noqa: FBT001
    seconds = at // _MICROSECONDS
    return f"{seconds // 60:02d}:{seconds % 60:02d}"


def _minute_point(at: int, _is_end: bool) -> str:  # noqa: FBT001
    return f"{at / _MICROSECONDS:g} s"


def _second_point(at: int, _is_end: bool) -> str:  # noqa: FBT001
    return f"{at / 1000:g} ms"


def _day_point(at: int, is_end: bool, name: Callable[[int], str]) -> str:  # noqa: FBT001
    day, rest = divmod(at, _DAY)
    if rest:
        return f"{name(day)} {_time_point(rest)}"
    # A whole day that is the last one.
    return name(day - 1) if is_end else name(day)


def _week_point(at: int, is_end: bool) -> str:  # noqa: FBT001
    return _day_point(at, is_end, lambda day: _WEEKDAYS[day % 7])


def _ordinal(day: int) -> str:
    return f"{day + 1}{_ENDINGS.get(day + 1, 'th')}"


def _month_point(at: int, is_end: bool) -> str:  # noqa: FBT001
    return _day_point(at, is_end, _ordinal)


def _year_point(at: int, _is_end: bool) -> str:  # noqa: FBT001
    # Rocketry's years have 366 days, and it ends a month just before the next one.
    first = dt.datetime(2024, 1, 1)  # noqa: DTZ001  # a day without a place
    return f"{first + dt.timedelta(days=at // _DAY):%B}"


ANCHORED = {
    "TimeOfSecond": PeriodWords("every second", "time of second", "this second", _second_point),
    "TimeOfMinute": PeriodWords("minutely", "time of minute", "this minute", _minute_point),
    "TimeOfHour": PeriodWords("hourly", "time of hour", "this hour", _hour_point),
    "TimeOfDay": PeriodWords("daily", "time of day", "today", _time_point),
    "TimeOfWeek": PeriodWords("weekly", "time of week", "this week", _week_point, "on"),
    "TimeOfMonth": PeriodWords("monthly", "time of month", "this month", _month_point, "on"),
    "TimeOfYear": PeriodWords("yearly", "time of year", "this year", _year_point, "in"),
}


def once_in(period: Any) -> str:
    """Return words for a task that runs once in a period, such as ``daily after 10:00``."""
    words = ANCHORED.get(class_name(period))
    if words is not None:
        return words.adjective + words.range_of(period)
    return _other(period)


def time_in(period: Any) -> str:
    """Return words for a moment in a period, such as ``time of day after 10:00``."""
    words = ANCHORED.get(class_name(period))
    if words is not None:
        return words.noun + words.range_of(period)
    return f"time in {_other(period)}"


def within(period: Any) -> str:
    """Return words for what happened in a period, such as ``today``; empty for any time."""
    if period is None:
        return ""
    name = class_name(period)
    if name in ANCHORED:
        words = ANCHORED[name]
        return f" {words.this}{words.range_of(period)}"
    length = length_of(period)
    if length is not None:
        return f" in the past {duration_words(length)}"
    return f" in {_other(period)}"


def for_longer(period: Any) -> str:
    """Return words for what goes on since a beginning in a period."""
    if period is None:
        return ""
    length = length_of(period)
    if length is not None:
        return f" for less than {duration_words(length)}"
    if class_name(period) != "TimeSpanDelta":
        return f", since a beginning{within(period)}"
    near, far = _seconds(period.near), None if period.far is None else _seconds(period.far)
    if far is None:
        return f" for more than {duration_words(near)}" if near else ""
    if not near:
        return f" for less than {duration_words(far)}"
    return f" for {duration_words(near)} to {duration_words(far)}"


def _seconds(length: dt.timedelta) -> float:
    return length.total_seconds()


def _other(period: Any) -> str:
    """Return words for a period that is bound to no cycle of the clock."""
    words = _OTHERS.get(class_name(period))
    length = length_of(period)
    if length is not None:
        return f"every {duration_words(length)}"
    return words(period) if words else f"a period of the class {type(period).__name__}"


def _joined(period: Any, word: str) -> str:
    # Rocketry keeps the parts in a set, which has no order.
    return "(" + word.join(sorted(once_in(part) for part in period.periods)) + ")"


def _static(period: Any) -> str:
    if period.is_max_interval:
        return "any time"
    if period.start == period.max:
        return "no time"
    return f"{period.start.isoformat(' ')} to {period.end.isoformat(' ')}"


_OTHERS: dict[str, Callable[[Any], str]] = {
    "Cron": lambda period: "cron " + " ".join(str(getattr(period, field)) for field in _CRON),
    "All": lambda period: _joined(period, " and "),
    "Any": lambda period: _joined(period, " or "),
    "StaticInterval": _static,
    "RelativeDay": lambda period: str(period.day).replace("_", " "),
}

"""The slots of a period: the spans of time in each of which a task runs once.

In: a period of Rocketry, and a time. Out: slots, by the clock on the wall and in seconds since the
epoch. Rocketry computes with the clock on the wall. So a slot may have no length, or be an hour
longer, on a day when the clocks change.
"""

from __future__ import annotations

import datetime as dt
import logging
from typing import TYPE_CHECKING, Any, NamedTuple

from rocketry_otel._runtime.scope import NAME

from .periods import class_name

if TYPE_CHECKING:
    from collections.abc import Callable

_logger = logging.getLogger(NAME)

_MOST_TRIES = 100
_RESOLUTION = dt.timedelta(microseconds=1)
_DAY = dt.timedelta(days=1)


class Slot(NamedTuple):
    """A span of time in which a task runs once.

    Attributes:
        left: When it begins, by the clock on the wall.
        right: When it has ended, by the clock on the wall.
        begin: When it begins, in seconds since the epoch: the first time, if the clock shows it
            twice.
        end: When it has ended, in the same way. So slots never overlap. An hour that comes twice
            has no slots the second time: for Rocketry, they have run.
    """

    left: dt.datetime
    right: dt.datetime
    begin: float
    end: float


class Calendar:
    """The clock on the wall in a time zone.

    Args:
        zone: The time zone; ``None`` for that of the machine.
    """

    def __init__(self, zone: dt.tzinfo | None = None) -> None:
        self.zone = zone

    def wall(self, at: float) -> dt.datetime:
        """Return what the clock shows at a time, in seconds since the epoch."""
        return dt.datetime.fromtimestamp(at, self.zone).replace(tzinfo=None, fold=0)

    def first(self, wall: dt.datetime) -> float:
        """Return when the clock first shows a time or a later one."""
        early, late = self._instant(wall, 0), self._instant(wall, 1)
        return early if early <= late else self._change(wall, late, early)

    def _instant(self, wall: dt.datetime, fold: int) -> float:
        return wall.replace(tzinfo=self.zone, fold=fold).timestamp()

    def _change(self, wall: dt.datetime, before: float, after: float) -> float:
        """Return when the clock jumps over a time that it never shows: at a whole second."""
        low, high = int(before), int(after) + 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.wall(middle) >= wall else (middle, high)
        return float(high)


class _Gap(NamedTuple):
    """A time without a slot, and the slot that begins at its end."""

    start: dt.datetime
    slot: Slot


class Slots:
    """The slots of a period.

    The newest two that were found are known, mostly that of now and the next one, and the time
    between them. So the period is asked once for each slot. Any thread may ask.

    Args:
        period: The period of Rocketry.
        calendar: The clock on the wall.
    """

    def __init__(self, period: Any, calendar: Calendar) -> None:
        # Rocketry makes the periods of a cron expression anew at each look.
        self._period = period.get_subperiod() if class_name(period) == "Cron" else period
        # To find whether a time is in one of these, Rocketry looks for the interval.
        self._is_composed = class_name(self._period) in {"All", "Any"}
        self._calendar = calendar
        self._has_failed = False
        self._newest: tuple[Slot, ...] = ()
        self._gap: _Gap | None = None

    def around(self, at: float) -> Slot | None:
        """Return the slot in which a time is, in seconds since the epoch; ``None`` outside."""
        return self.at(self._calendar.wall(at))

    def at(self, wall: dt.datetime) -> Slot | None:
        """Return the slot in which a time on the wall is; ``None`` outside."""
        found = self.known_at(wall)
        if self.covers(wall) is None:
            found = self._try(self._around, wall)
            if found is not None:
                self._newest = (found, *self._newest[:1])
        return found

    def known_at(self, wall: dt.datetime) -> Slot | None:
        """Return the slot at a time on the wall, if it was found before."""
        for slot in self._newest:
            if slot.left <= wall < slot.right:
                return slot
        return None

    def covers(self, wall: dt.datetime) -> bool | None:
        """Return whether a time on the wall is in a slot; ``None`` if neither was found before."""
        if self.known_at(wall) is not None:
            return True
        gap = self._gap
        return False if gap is not None and gap.start <= wall < gap.slot.left else None

    def after(self, wall: dt.datetime) -> Slot | None:
        """Return the first slot that begins at a time on the wall, or later."""
        here = self.at(wall)
        if here is not None:
            if here.left == wall and here.end > here.begin:
                return here
            wall = here.right
        gap = self._gap
        if gap is not None and gap.start <= wall <= gap.slot.left:
            return gap.slot
        found = self._try(self._search, wall)
        if found is not None:
            self._gap = _Gap(wall, found)
        return found

    def _try(self, find: Callable[[dt.datetime], Slot | None], wall: dt.datetime) -> Slot | None:
        if self._has_failed:
            return None
        try:
            return find(wall)
        except Exception:  # a period of the user's; or Rocketry seeks the 30th of February forever
            self._has_failed = True
            _logger.debug("a slot could not be found", exc_info=True)
            return None

    def next_after(self, at: float) -> Slot | None:
        """Return the first slot that begins at a time or later, in seconds since the epoch."""
        return self.after(self._calendar.wall(at))

    def _around(self, wall: dt.datetime) -> Slot | None:
        period = self._period
        if not self._is_composed and wall not in period:
            return None
        interval = period.rollforward(wall)
        if wall not in interval:
            return None
        # At its edge, Rocketry finds the one before.
        left, right = period.rollback(wall + _RESOLUTION).left, interval.right
        if right - left > _DAY:
            # All months have 31 days for Rocketry: the next one has begun before that.
            following = period.rollback(right + _RESOLUTION).left
            if left < following < right:
                right = following
        return self._slot(left, right) if left <= wall < right else None

    def _search(self, start: dt.datetime) -> Slot | None:
        since = start
        for _ in range(_MOST_TRIES):
            try:
                interval = self._period.rollforward(start)
            except ValueError:  # on the 1st of February, Rocketry cannot find the next 31st
                start += _DAY
                continue
            found = self.at(interval.left)
            # One without a length is jumped over by the clock: Rocketry never runs it.
            if found is not None and found.left >= since and found.end > found.begin:
                return found
            start = max(interval.right, start + _RESOLUTION)
        return None

    def _slot(self, left: dt.datetime, right: dt.datetime) -> Slot:
        return Slot(left, right, self._calendar.first(left), self._calendar.first(right))


class PeriodSlots:
    """The slots of each period in the start condition of a task.

    Args:
        zone: The time zone of the application; ``None`` for that of the machine.
    """

    def __init__(self, zone: dt.tzinfo | None = None) -> None:
        self._calendar = Calendar(zone)
        # With the period, so that its identity is not used again.
        self._known: dict[int, tuple[Any, Slots]] = {}

    def of(self, period: Any) -> Slots:
        """Return the slots of a period."""
        known = self._known.get(id(period))
        if known is None:
            known = self._known[id(period)] = period, Slots(period, self._calendar)
        return known[1]

"""What a start condition promises: slots in which the task runs, and intervals between its runs.

In: the tree of a start condition. Out: its alternatives, each with the times that it waits for.
"""

from __future__ import annotations

import operator
from functools import reduce
from typing import TYPE_CHECKING, NamedTuple

from .conditions import After, AllOf, AnyOf, Constant, During, Happened, Node, Once
from .periods import is_delta, length_of

if TYPE_CHECKING:
    from .slots import PeriodSlots, Slot, Slots

# In seconds. A launch is noted a moment after Rocketry has found that its condition is true.
GRACE = 0.5


class Interval(NamedTuple):
    """A length of time since the newest of some actions of the task itself."""

    seconds: float
    actions: tuple[str, ...]


class Alternative(NamedTuple):
    """A part of a start condition that lets the task run by itself.

    Attributes:
        slots: The slots of its periods together; ``None`` without a period.
        is_once: Whether the task runs once in each slot, and not at any time in it.
        intervals: The intervals that must be over.
        after: The endings of other tasks that must have come.
        is_timed: Whether nothing else is needed: time alone decides.
    """

    slots: Slots | None
    is_once: bool
    intervals: tuple[Interval, ...]
    after: tuple[After, ...]
    is_timed: bool

    @property
    def is_promise(self) -> bool:
        """Whether a slot that goes by without a run was missed."""
        return self.is_once and self.is_timed and not self.intervals

    def slot_at(self, now: float) -> Slot | None:
        """Return the slot for which a run is launched now, in seconds since the epoch."""
        if self.slots is None:
            return None
        return self.slots.around(now) or self.slots.around(now - GRACE)


def alternatives_of(tree: Node, slots: PeriodSlots) -> tuple[Alternative, ...]:
    """Return the alternatives of a start condition."""
    parts = tree.parts if isinstance(tree, AnyOf) else (tree,)
    return tuple(_alternative(part, slots) for part in parts)


def _alternative(tree: Node, slots: PeriodSlots) -> Alternative:
    parts = tree.parts if isinstance(tree, AllOf) else (tree,)
    once, during, intervals, after, is_timed = [], [], [], [], True
    for part in parts:
        interval = _interval_of(part)
        if interval is not None:
            intervals.append(interval)
        elif isinstance(part, Once) and part.task is None:
            once.append(part.period)
        elif isinstance(part, During):
            during.append(part.period)
        elif isinstance(part, After) and part.task is None:
            after.append(part)
            is_timed = False
        elif part != Constant(value=True):
            is_timed = False
    periods = once + during
    its = slots.of(reduce(operator.and_, periods)) if periods else None
    return Alternative(its, bool(once), tuple(intervals), tuple(after), is_timed)


def _interval_of(part: Node) -> Interval | None:
    if isinstance(part, Happened) and part.interval is not None:
        return Interval(part.interval, part.actions)
    if isinstance(part, Once) and part.task is None and is_delta(part.period):
        seconds = length_of(part.period)
        return None if seconds is None else Interval(seconds, part.done)
    return None

"""The slots of one task: the one that is open or comes next, and those that went by.

In: launches, and the time. Out: slots that were missed, and when the next one begins. A slot is
looked for once, when the one before has ended: a launch only compares.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .plan import GRACE

if TYPE_CHECKING:
    from collections.abc import Callable

    from .plan import Alternative
    from .slots import Slot, Slots

# A task of each minute has missed this many after 16 hours: more are not counted.
MOST_MISSED = 1_000


class Gone(NamedTuple):
    """Slots that went by while no scheduler ran.

    Attributes:
        number: How many, up to ``MOST_MISSED``.
        first: The oldest.
    """

    number: int
    first: Slot


class _Cursor:
    """The place in the slots of one alternative."""

    def __init__(self, slots: Slots, now: float, last_run: float | None) -> None:
        self.slots = slots
        self.slot = slots.around(now) or slots.next_after(now)
        self.is_served = (
            self.slot is not None and last_run is not None and last_run >= self.slot.begin
        )

    @property
    def following(self) -> Slot | None:
        return None if self.slot is None else self.slots.after(self.slot.right)

    def move(self) -> None:
        self.slot, self.is_served = self.following, False

    def move_to(self, now: float) -> None:
        """Skip all slots up to a time; one that was judged before is not judged again."""
        found = self.slots.around(now) or self.slots.next_after(now)
        if found != self.slot:
            is_back = self.slot is not None and found is not None and found.begin < self.slot.begin
            self.slot, self.is_served = found, is_back


class TaskSlots:
    """The slots of a task.

    Args:
        alternatives: The alternatives of its start condition.
        now: The time, in seconds since the epoch.
        last_run: When it last began; ``None`` if it never did.
    """

    def __init__(
        self,
        alternatives: tuple[Alternative, ...],
        now: float,
        last_run: float | None,
    ) -> None:
        self.alternatives = alternatives
        self._seen = now
        self._cursors = {
            index: _Cursor(one.slots, now, last_run)
            for index, one in enumerate(alternatives)
            if one.is_promise and one.slots is not None
        }

    def __bool__(self) -> bool:
        return bool(self._cursors)

    def settle(self, now: float, *, grace: float = GRACE) -> list[Slot]:
        """Return the slots that have ended without a run since the last call, the oldest first.

        A clock that was set, or a computer that slept, leaves any number of them behind. The
        oldest ``MOST_MISSED`` are returned, and the others are skipped.
        """
        is_back, self._seen = now < self._seen, now
        missed: dict[float, Slot] = {}
        for cursor in self._cursors.values():
            if is_back and cursor.slot is not None and now < cursor.slot.begin:
                cursor.move_to(now)
            for _ in range(MOST_MISSED):
                if cursor.slot is None or cursor.slot.end + grace > now:
                    break
                if not cursor.is_served:
                    missed[cursor.slot.begin] = cursor.slot
                cursor.move()
            else:
                cursor.move_to(now)
        return [missed[begin] for begin in sorted(missed)][:MOST_MISSED]

    def serve(self, now: float) -> list[Slot]:
        """Note a launch; return the slots that were missed before it."""
        missed = self.settle(now)
        for cursor in self._cursors.values():
            if cursor.slot is None:
                continue
            if cursor.slot.end <= now:
                following = cursor.following
                if following is not None and following.begin <= now:
                    # The next slot has begun: the launch is for that one.
                    if not cursor.is_served:
                        missed.append(cursor.slot)
                    cursor.slot, cursor.is_served = following, True
                    continue
            if cursor.slot.begin <= now:
                cursor.is_served = True
        return missed

    def prepare(self) -> None:
        """Find the slots that follow, before a launch needs them."""
        for cursor in self._cursors.values():
            _ = cursor.following

    @property
    def next_end(self) -> float | None:
        """When the next slot has ended."""
        ends = [cursor.slot.end for cursor in self._cursors.values() if cursor.slot is not None]
        return min(ends, default=None)

    def next_run(self, last_of_actions: Callable[[tuple[str, ...]], float | None]) -> float | None:
        """Return when the next run is due, as far as time alone decides.

        Args:
            last_of_actions: Returns when the task last did one of some actions.
        """
        times = []
        for index, one in enumerate(self.alternatives):
            cursor = self._cursors.get(index)
            if cursor is not None:
                slot = cursor.following if cursor.is_served else cursor.slot
                if slot is not None:
                    times.append(slot.begin)
            elif one.is_timed and one.intervals:
                ends = [
                    base + interval.seconds
                    for interval in one.intervals
                    if (base := last_of_actions(interval.actions)) is not None
                ]
                at = _in_slots(one.slots, max(ends)) if ends else None
                if at is not None:
                    times.append(at)
        return min(times, default=None)

    def gone(self, last_run: float, settled: float, start: float) -> Gone | None:
        """Return the slots without a run that ended before the scheduler started.

        Args:
            last_run: When the task last began.
            settled: Slots that had ended by then were counted by an earlier scheduler.
            start: When the scheduler started.
        """
        found: dict[float, Slot] = {}
        for cursor in self._cursors.values():
            slot = cursor.slots.around(last_run)
            slot = cursor.slots.after(slot.right) if slot else cursor.slots.next_after(last_run)
            if settled > last_run and slot is not None and slot.end <= settled:
                around = cursor.slots.around(settled)
                slot = around or cursor.slots.next_after(settled)
            while slot is not None and slot.end <= start and len(found) < MOST_MISSED:
                found[slot.begin] = slot
                slot = cursor.slots.after(slot.right)
        return Gone(len(found), found[min(found)]) if found else None


def _in_slots(slots: Slots | None, at: float) -> float | None:
    """Return a time, or the begin of the first slot after it."""
    if slots is None or slots.around(at) is not None:
        return at
    following = slots.next_after(at)
    return None if following is None else following.begin

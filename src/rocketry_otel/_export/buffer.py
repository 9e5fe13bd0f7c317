"""What a queue holds, and what it has left to the repository."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .batch import Entry
    from .record_ref import RecordRef


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """How much waits, and for how long.

    Attributes:
        size: How many items wait at most.
        batch: How many items go in one request at most.
        delay: How many seconds an item waits at most for others to go with it.
    """

    size: int = 2048
    batch: int = 512
    delay: float = 5.0


class Overflow(NamedTuple):
    """What there was no room for, and is to be read from the repository again.

    Attributes:
        since: When the oldest of it was created, in nanoseconds since the epoch.
        items: How many items it is.
        until: When the newest was created.
    """

    since: int
    items: int
    until: int


class Buffer:
    """Entries that wait or are under way, in bounded memory; whoever owns it has a lock.

    What comes from a stored record is never lost here: where there is no room for it, it is
    left to be read from the repository again, and all that follows with it.

    Args:
        size: How many entries wait at most.

    Attributes:
        waiting: What waits.
        in_flight: What is being sent.
        left: What was left, if anything was.
        handed_over: What was left and somebody sees to, until that is noted.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self.waiting: deque[Entry] = deque()
        self.in_flight: list[Entry] = []
        self.overflow: Overflow | None = None
        self.handed_over: Overflow | None = None

    def add(self, entry: Entry) -> bool:
        """Add an entry; return whether it was taken in, and not left."""
        record_ref = entry.record_ref
        # Once some are left all are, so that they can be read again in one go.
        is_full = self.overflow is not None or len(self.waiting) >= self._size
        if record_ref is not None and record_ref.is_live and is_full:
            self.leave(record_ref)
            return False
        self.waiting.append(entry)
        return True

    def leave(self, record_ref: RecordRef) -> None:
        """Leave what comes from a stored record to be read from the repository again."""
        created = record_ref.created
        self.overflow = _together(self.overflow, Overflow(created, 1, created))

    def trim(self) -> int:
        """Drop the oldest of what no repository has, if there is too much; return how many."""
        dropped = 0
        while len(self.waiting) > self._size:
            if self.waiting[0].record_ref is None:
                self.waiting.popleft()
            elif self.waiting[-1].record_ref is None:
                self.waiting.pop()
            else:
                break
            dropped += 1
        return dropped

    def take(self, count: int) -> list[Entry]:
        """Take the oldest entries, which are under way from now on."""
        count = min(count, len(self.waiting))
        self.in_flight = [self.waiting.popleft() for _ in range(count)]
        return self.in_flight

    def settle(self, part: list[Entry]) -> None:
        """Let go of a part of what is under way, which has come to its end."""
        if len(part) == len(self.in_flight):
            self.in_flight = []
        else:
            settled = {id(entry) for entry in part}
            self.in_flight = [entry for entry in self.in_flight if id(entry) not in settled]

    def put_back(self, entries: list[Entry], behind: Sequence[Entry] = ()) -> None:
        """End what is under way; let some of it wait again, before or behind all that waits."""
        self.in_flight = []
        self.waiting.extendleft(reversed(entries))
        self.waiting.extend(behind)

    def give_up(self) -> int:
        """Let go of everything; return how many entries no repository has."""
        lost = 0
        for _, record_ref in self._entries():
            if record_ref is None:
                lost += 1
            elif record_ref.is_live:
                self.leave(record_ref)
        self.waiting.clear()
        self.in_flight = []
        return lost

    def hand_over(self) -> Overflow | None:
        """Return what was left, for somebody who sees to it; what comes now is taken in again.

        It is owed from now on, with what is owed already.
        """
        if self.overflow is not None:
            self.handed_over, self.overflow = _together(self.handed_over, self.overflow), None
        return self.handed_over

    def confirm_handed_over(self, handed_over: Overflow | None) -> bool:
        """Let go of what is owed, unless there is more of it by now; return whether it is so."""
        if self.handed_over == handed_over:
            self.handed_over = None
        return self.handed_over is None

    def count(self) -> int:
        """Return how many entries there are, with those that were left and nobody sees to."""
        return (
            len(self.in_flight) + len(self.waiting) + (self.overflow.items if self.overflow else 0)
        )

    def oldest(self) -> int | None:
        """Return when the oldest stored record was created that is here, was left or is owed.

        Returns:
            Nanoseconds since the epoch. Records that are sent again do not count.
        """
        created = [record_ref.created for record_ref in self._record_refs() if record_ref.is_live]
        created += [left.since for left in (self.overflow, self.handed_over) if left is not None]
        return min(created, default=None)

    def first_position(self, channel: str) -> int | None:
        """Return the first position, on this channel, of what is sent again and still here."""
        positions = (one.positions[channel] for one in self._record_refs() if one.positions)
        return min(positions, default=None)

    def _record_refs(self) -> Iterator[RecordRef]:
        return (record_ref for _, record_ref in self._entries() if record_ref is not None)

    def _entries(self) -> Iterator[Entry]:
        yield from self.in_flight
        yield from self.waiting


def _together(one: Overflow | None, other: Overflow) -> Overflow:
    if one is None:
        return other
    return Overflow(
        min(one.since, other.since), one.items + other.items, max(one.until, other.until)
    )

"""The entries that a queue holds in memory, and the overflow left to the repository.

In: entries, live or from the repository. Out: batches, and what to read from the repository again.
"""

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
    """The limits of a queue.

    Attributes:
        size: The most items that wait.
        batch: The most items in one request.
        delay: The most seconds that an item waits for others to join its batch.
    """

    size: int = 2048
    batch: int = 512
    delay: float = 5.0


class Overflow(NamedTuple):
    """Items that found no room; their records are read from the repository again.

    Attributes:
        since: The time of the oldest record, in nanoseconds since the epoch.
        items: The number of items.
        until: The time of the newest record, in nanoseconds since the epoch.
    """

    since: int
    items: int
    until: int


class Buffer:
    """Entries that wait or are in flight, in bounded memory.

    The buffer has no lock: its queue holds the queue's lock at each call. An item of a stored
    record is never lost. If the buffer is full, that item and all later ones are left to the
    repository.

    Args:
        size: The most entries that wait.

    Attributes:
        waiting: The entries that wait.
        in_flight: The entries that are being sent.
        overflow: The items left to the repository; ``None`` if there are no such items.
        handed_over: The overflow that catch-up has taken, until a checkpoint covers it.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self.waiting: deque[Entry] = deque()
        self.in_flight: list[Entry] = []
        self.overflow: Overflow | None = None
        self.handed_over: Overflow | None = None

    def add(self, entry: Entry) -> bool:
        """Add an entry; return whether the buffer took it, and did not leave it."""
        record_ref = entry.record_ref
        # Once one item is left, all later ones are: one reading of the repository finds them all.
        is_full = self.overflow is not None or len(self.waiting) >= self._size
        if record_ref is not None and record_ref.is_live and is_full:
            self.leave(record_ref)
            return False
        self.waiting.append(entry)
        return True

    def leave(self, record_ref: RecordRef) -> None:
        """Leave an item of a stored record to the repository."""
        created = record_ref.created
        self.overflow = _together(self.overflow, Overflow(created, 1, created))

    def trim(self) -> int:
        """Drop the oldest entries that no repository has, down to the size; return how many."""
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
        """Return the oldest entries, which are in flight from now on."""
        count = min(count, len(self.waiting))
        self.in_flight = [self.waiting.popleft() for _ in range(count)]
        return self.in_flight

    def replace_in_flight(self, entries: list[Entry]) -> None:
        """Take other entries for those in flight: their items have been made meanwhile."""
        self.in_flight = entries

    def settle(self, part: list[Entry]) -> None:
        """Remove entries in flight that were accepted, or refused for good."""
        if len(part) == len(self.in_flight):
            self.in_flight = []
        else:
            settled = {id(entry) for entry in part}
            self.in_flight = [entry for entry in self.in_flight if id(entry) not in settled]

    def put_back(self, entries: list[Entry], behind: Sequence[Entry] = ()) -> None:
        """Empty the flight; ``entries`` wait again before all others, ``behind`` after them."""
        self.in_flight = []
        self.waiting.extendleft(reversed(entries))
        self.waiting.extend(behind)

    def give_up(self) -> int:
        """Remove all entries; return how many of them no repository has."""
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
        """Hand the overflow over to catch-up; the buffer takes new items again.

        Returns:
            All that is handed over and not confirmed; ``None`` if nothing is.
        """
        if self.overflow is not None:
            self.handed_over, self.overflow = _together(self.handed_over, self.overflow), None
        return self.handed_over

    def confirm_handed_over(self, handed_over: Overflow | None) -> bool:
        """Forget the overflow handed over, unless it has grown; return whether it is gone."""
        if self.handed_over == handed_over:
            self.handed_over = None
        return self.handed_over is None

    def count(self) -> int:
        """Return the number of entries, and of items in the overflow that is not handed over."""
        return (
            len(self.in_flight) + len(self.waiting) + (self.overflow.items if self.overflow else 0)
        )

    def oldest(self) -> int | None:
        """Return the time of the oldest live record: in the buffer, left over or handed over.

        Returns:
            Nanoseconds since the epoch. Records that are sent again do not count.
        """
        created = [record_ref.created for record_ref in self._record_refs() if record_ref.is_live]
        created += [left.since for left in (self.overflow, self.handed_over) if left is not None]
        return min(created, default=None)

    def first_position(self, channel: str) -> int | None:
        """Return a channel's first position of the records that are sent again and still here."""
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

"""The records of a repository in memory."""

from __future__ import annotations

from operator import is_
from typing import TYPE_CHECKING, Any

from rocketry_otel._repositories.memory_repo import BoundedMemoryRepo

from .base import IndexedStream, Place, RecordStream, Window, fields_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redbird.repos import MemoryRepo

    from .base import Fields, Unwanted


def stream_of(repo: MemoryRepo) -> RecordStream:
    """Return the records of a repository in memory, of ours or of Red Bird."""
    return BoundedMemoryStream(repo) if isinstance(repo, BoundedMemoryRepo) else MemoryStream(repo)


class _Memory(RecordStream):
    """Reads from a snapshot: one step of the interpreter makes a list."""

    can_go_on = True

    def read(self, window: Window, place: Place | None = None) -> Iterator[Fields]:
        """Give the fields of each record that is there at this moment."""
        place = place or Place()
        seen, records = place.last or [], list(self.repo.collection)
        new = records[_end_of(seen, records) :]
        # Records that the repository drops meanwhile are of no use for a comparison.
        place.last = [*seen, *new][-len(records) :]
        for data in new:
            fields = self.fields(data)
            if fields is not None and window.holds(fields):
                yield fields

    def is_whole(self, window: Window, place: Place, rest: Callable[[], bool]) -> bool:
        """Return whether the records are still the same, but for the oldest."""
        del window, rest
        records = list(self.repo.collection)
        end = _end_of(place.last, records)
        begin = len(place.last) - end
        is_known = begin >= 0 and (end > 0 or not place.last)
        return is_known and all(map(is_, place.last[begin:], records))


def _end_of(seen: list[Any], records: list[Any]) -> int:
    """Return how many records there are up to the last one that was seen."""
    if not seen:
        return 0
    backwards = range(len(records), 0, -1)
    return next((end for end in backwards if records[end - 1] is seen[-1]), 0)


class BoundedMemoryStream(_Memory, IndexedStream):
    """The records of a repository of ours."""


class MemoryStream(_Memory):
    """The records of a repository of Red Bird's."""

    def remove(self, window: Window, is_unwanted: Unwanted) -> int:
        """Remove the records that are unwanted, and return how many these were.

        As in Red Bird, a new list replaces the old one, so that readers of the old one can go on.
        Records that another thread adds to the old one meanwhile are moved.
        """
        before: list[Any] = self.repo.collection
        seen = list(before)
        kept = [data for data in seen if not _is_meant(data, window, is_unwanted)]
        removed = len(seen) - len(kept)
        if removed:
            self.repo.collection = kept
            kept.extend(before[len(seen) :])
        return removed


def _is_meant(data: Any, window: Window, is_unwanted: Unwanted) -> bool:
    fields = fields_of(data)
    return window.holds(fields) and is_unwanted(fields)

"""The records of a repository in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rocketry_otel._history.run_lookup import fields_of
from rocketry_otel._repositories.memory_repo import BoundedMemoryRepo

from .base import IndexedStream, RecordStream, Window

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redbird.repos import MemoryRepo

    from .base import Fields, Unwanted


def stream_of(repo: MemoryRepo) -> RecordStream:
    """Return the records of a repository in memory, of ours or of Red Bird."""
    is_ours = isinstance(repo, BoundedMemoryRepo)
    return IndexedStream(repo) if is_ours else MemoryStore(repo)


class MemoryStore(RecordStream):
    """The records of a repository of Red Bird's."""

    def read(self, window: Window) -> Iterator[Fields]:
        """Give the fields of each record, as they are at this moment."""
        # A list is made of a list in one step of the interpreter.
        for data in list(self.repo.collection):
            fields = self.fields(data)
            if fields is not None and window.holds(fields):
                yield fields

    def remove(self, window: Window, is_unwanted: Unwanted) -> int:
        """Remove the records that are unwanted, and return how many these were.

        As in Red Bird another list takes the place of the one that is there: whoever reads
        this reads it to its end. What another thread adds to it meanwhile is moved.
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

"""A repository in memory, of bounded size."""

from __future__ import annotations

from collections import deque
from threading import RLock
from typing import TYPE_CHECKING, Any

from pydantic.v1 import PrivateAttr
from redbird.repos import MemoryRepo

from rocketry_otel._model.record import TaskEventRecord, share_field_names
from rocketry_otel._runtime.forks import after_fork_in_child

from .urls import refusal, split_options
from .values import NewestRecords, change_record, matches
from .weak_references import Referable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_MAX_RECORDS = 100_000


def open_url(url: str) -> BoundedMemoryRepo:
    """Open the repository of a ``memory://`` URL.

    Raises:
        RepositoryURLError: The URL has another option than ``max_records``, or that is no number
            above zero.
    """
    base, options = split_options(url, {"max_records": "how many records are kept"})
    if base.partition("://")[2]:
        raise refusal(url, "a repository in memory has no name; write memory://")
    wanted = options.get("max_records", str(_MAX_RECORDS))
    if not (wanted.isascii() and wanted.isdigit() and 0 < int(wanted[:20]) < 2**31):
        raise refusal(url, "max_records is a whole number from 1 to 2147483647")
    return BoundedMemoryRepo(model=TaskEventRecord, max_records=int(wanted))


class BoundedMemoryRepo(MemoryRepo, Referable):  # type: ignore[misc]
    """Red Bird's ``MemoryRepo``, with only the newest records.

    Attributes:
        max_records: How many records it keeps.
    """

    max_records: int = _MAX_RECORDS
    collection: Any = None

    _newest: NewestRecords = PrivateAttr()
    _added: int = PrivateAttr()
    _lock: Any = PrivateAttr()

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        self._renew_lock()
        self._keep(self.collection or ())
        after_fork_in_child(self._renew_lock)

    def _renew_lock(self) -> None:
        # For writers. A reader takes a snapshot without it: one step of the interpreter makes a
        # list from a deque.
        self._lock = RLock()

    def _keep(self, records: Iterable[TaskEventRecord]) -> None:
        kept, newest = deque(records, self.max_records), NewestRecords()
        for order, record in enumerate(kept):
            newest.add(record.task_name, record.action, order, record)
        self.collection, self._newest, self._added = kept, newest, len(kept)

    def insert(self, item: TaskEventRecord) -> None:
        """Add a record; if there are too many, the oldest goes."""
        share_field_names(item)
        with self._lock:
            if len(self.collection) == self.max_records:
                oldest = self.collection[0]
                self._newest.forget(oldest.task_name, oldest.action, self._added - self.max_records)
            self.collection.append(item)
            self._newest.add(item.task_name, item.action, self._added, item)
            self._added += 1

    def query_data(self, query: dict[str, Any]) -> Iterator[TaskEventRecord]:
        """Yield the records that match at this moment, oldest first."""
        return (record for record in list(self.collection) if matches(record, query))

    def query_read_last(self, query: dict[str, Any]) -> TaskEventRecord | None:
        """Return the newest record that matches."""
        if NewestRecords.can_answer(query):
            newest: TaskEventRecord | None = self._newest.find(query)
            return newest
        newest_first = reversed(list(self.collection))
        return next((record for record in newest_first if matches(record, query)), None)

    def query_update(self, query: dict[str, Any], values: dict[str, Any]) -> None:
        """Change the records that match, in place."""
        with self._lock:
            for record in self.query_data(query):
                change_record(record, values)
            self._keep(self.collection)

    def query_delete(self, query: dict[str, Any]) -> None:
        """Remove the records that match."""
        self.remove(query, lambda _: True)

    def remove(self, query: dict[str, Any], is_unwanted: Callable[[TaskEventRecord], bool]) -> int:
        """Remove the matching records that are unwanted; return their number."""
        with self._lock:
            before = len(self.collection)
            self._keep(
                [one for one in self.collection if not (matches(one, query) and is_unwanted(one))]
            )
            return before - len(self.collection)

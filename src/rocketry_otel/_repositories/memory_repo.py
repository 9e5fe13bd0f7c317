"""A repository in memory that does not grow without bound."""

from __future__ import annotations

from collections import deque
from threading import RLock
from typing import TYPE_CHECKING, Any

from pydantic.v1 import PrivateAttr
from redbird.repos import MemoryRepo

from rocketry_otel._model.record import TaskEventRecord
from rocketry_otel._runtime.forks import after_fork_in_child

from .urls import refusal, split_options
from .values import Newest, change_record, matches
from .weak_references import Referable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_MAX_RECORDS = 100_000


def open_url(url: str) -> BoundedMemoryRepo:
    """Open the repository of a ``memory://`` URL.

    Raises:
        RepositoryURLError: The URL has more than the option ``max_records``, or this is not a
            number above zero.
    """
    base, options = split_options(url, {"max_records": "how many records are kept"})
    if base.partition("://")[2]:
        raise refusal(url, "a repository in memory has no name; write memory://")
    wanted = options.get("max_records", str(_MAX_RECORDS))
    if not (wanted.isascii() and wanted.isdigit() and 0 < int(wanted[:20]) < 2**31):
        raise refusal(url, "max_records is a whole number from 1 to 2147483647")
    return BoundedMemoryRepo(model=TaskEventRecord, max_records=int(wanted))


class BoundedMemoryRepo(MemoryRepo, Referable):  # type: ignore[misc]
    """Red Bird's ``MemoryRepo``, with the newest records alone.

    Attributes:
        max_records: How many.
    """

    max_records: int = _MAX_RECORDS
    collection: Any = None

    _newest: Newest = PrivateAttr()
    _added: int = PrivateAttr()
    _lock: Any = PrivateAttr()

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        self._renew_lock()
        self._keep(self.collection or ())
        after_fork_in_child(self._renew_lock)

    def _renew_lock(self) -> None:
        # It is for those who write. Who reads takes a snapshot, which needs none: a list is
        # made of a deque in one step of the interpreter.
        self._lock = RLock()

    def _keep(self, records: Iterable[TaskEventRecord]) -> None:
        kept, newest = deque(records, self.max_records), Newest()
        for order, record in enumerate(kept):
            newest.add(record.task_name, record.action, order, record)
        self.collection, self._newest, self._added = kept, newest, len(kept)

    def insert(self, item: TaskEventRecord) -> None:
        """Add a record, at the cost of the oldest if there are too many."""
        with self._lock:
            if len(self.collection) == self.max_records:
                oldest = self.collection[0]
                self._newest.forget(oldest.task_name, oldest.action, self._added - self.max_records)
            self.collection.append(item)
            self._newest.add(item.task_name, item.action, self._added, item)
            self._added += 1

    def query_data(self, query: dict[str, Any]) -> Iterator[TaskEventRecord]:
        """Give the records that match, oldest first, as they are at this moment."""
        return (record for record in list(self.collection) if matches(record, query))

    def query_read_last(self, query: dict[str, Any]) -> TaskEventRecord | None:
        """Return the newest record that matches."""
        if Newest.can_answer(query):
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
        """Remove those of the records that match which are unwanted; return how many they were."""
        with self._lock:
            before = len(self.collection)
            self._keep(
                [one for one in self.collection if not (matches(one, query) and is_unwanted(one))]
            )
            return before - len(self.collection)

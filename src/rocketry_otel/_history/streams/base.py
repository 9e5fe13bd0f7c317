"""What can be done with the records of a repository, whatever its kind."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from redbird.oper import between

from rocketry_otel._errors import RepositoryError
from rocketry_otel._history.run_lookup import fields_of
from rocketry_otel._model.event import nanoseconds
from rocketry_otel._model.text import safe_text, shortened
from rocketry_otel._repositories.skipped import pass_over

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from redbird.base import BaseRepo
    from redbird.oper import Operation

    Fields = dict[str, Any]
    Unwanted = Callable[[Mapping[str, Any]], bool]

_logger = logging.getLogger("rocketry_otel")

# What the beginnings and endings of runs are paired by.
OUTLINE = ("task_name", "action", "created", "run_id", "process", "thread")

# Repositories keep times as floating point seconds, which near now are a quarter of a
# microsecond apart: what lies at a bound is looked for with room to spare, and then looked at.
_ROOM = 0.001
_LATEST = nanoseconds(float("inf"))

_logged: set[str] = set()


class Window(NamedTuple):
    """The records that are meant: those created from one time to another, both included.

    Attributes:
        since: Nanoseconds since the epoch; 0 has what was created at no known time as well.
        until: Nanoseconds since the epoch.
    """

    since: int = 0
    until: int = _LATEST

    @property
    def lower(self) -> float | None:
        """Seconds before which none was created; ``None`` if it may have been at any time."""
        return None if self.since <= 0 else self.since / 1e9 - _ROOM

    @property
    def upper(self) -> float | None:
        """Seconds after which none was created; ``None`` if it may have been at any time."""
        return None if self.until >= _LATEST else self.until / 1e9 + _ROOM

    @property
    def operation(self) -> Operation:
        """A query for ``created`` that finds all of them, and maybe some more at the bounds."""
        return between(self.lower, self.upper, none_as_open=True)

    def holds(self, fields: Mapping[str, Any]) -> bool:
        """Return whether a record of these fields is among them."""
        return self.since <= nanoseconds(fields.get("created")) <= self.until


class RecordStream(ABC):
    """The records of a repository.

    Args:
        repo: The repository.
        name: What it is called in a warning.
    """

    def __init__(self, repo: BaseRepo, name: object = "") -> None:
        self.repo = repo
        self.name = f"{type(repo).__name__} {name}".rstrip()

    @abstractmethod
    def read(self, window: Window) -> Iterator[Fields]:
        """Give the fields of each record, in the order in which they were added.

        Nothing is locked while the caller pauses. What cannot be read is left out with a
        warning; what is added meanwhile may be left out.
        """

    def outlines(self, window: Window) -> Iterator[Fields]:
        """Give what ``read`` does, of which not more than ``OUTLINE`` need be there."""
        return self.read(window)

    def earliest_of_newest(self, count: int) -> int:
        """Return the earliest time among the records added last, in nanoseconds; 0 if unsure."""
        total = sum(1 for _ in self.outlines(Window()))
        found, earliest = 0, _LATEST
        for fields in islice(self.outlines(Window()), max(total - count, 0), None):
            found += 1
            earliest = min(earliest, nanoseconds(fields.get("created")))
        # Another process may have removed some meanwhile.
        return earliest if found >= count else 0

    def newest(self, kinds: Collection[tuple[Any, Any]]) -> dict[tuple[Any, Any], Fields]:
        """Return the record added last of each kind: a task name and an action."""
        found = {}
        for fields in self.outlines(Window()):
            kind = (fields.get("task_name"), fields.get("action"))
            if kind in kinds:
                found[kind] = {name: fields.get(name) for name in OUTLINE}
        return found

    def remove(self, window: Window, is_unwanted: Unwanted) -> int:
        """Remove the records that are unwanted, and return how many these were.

        Raises:
            RepositoryError: Records cannot be removed from it safely.
        """
        del window, is_unwanted
        raise RepositoryError(
            f"records cannot be removed from {self.name} one by one without a risk to those "
            "that are added meanwhile: open the repository by its URL"
        )

    def fields(self, data: Any) -> Fields | None:
        """Return the fields of a record of the repository's own data, if it can be read."""
        try:
            return fields_of(self.item(data))
        except Exception as error:  # noqa: BLE001  # a model of the user's may raise anything
            self.left_out(error)
            return None

    def item(self, data: Any) -> Any:
        """Return the record that the repository's own data are."""
        return self.repo.data_to_item(data)

    def left_out(self, error: BaseException) -> None:
        """Count a record that cannot be read; say so once, however many there are."""
        pass_over()
        if self.name not in _logged:
            _logged.add(self.name)
            words = shortened(safe_text(error), 400)
            _logger.warning("records of %s that cannot be read are left out: %s", self.name, words)


class OwnStream(RecordStream):
    """The records of a repository of ours, which streams and knows how to remove."""

    def read(self, window: Window) -> Iterator[Fields]:
        """Give the fields of each record, in the order in which they were added."""
        for record in self.repo.filter_by(created=window.operation):
            fields = fields_of(record)
            if window.holds(fields):
                yield fields

    def remove(self, window: Window, is_unwanted: Unwanted) -> int:
        """Remove the records that are unwanted, and return how many these were."""

        def is_meant(record: Any) -> bool:
            fields = vars(record)
            return window.holds(fields) and is_unwanted(fields)

        removed: int = self.repo.remove({"created": window.operation}, is_meant)
        return removed


class IndexedStream(OwnStream):
    """The records of a repository of ours that knows the newest of each kind."""

    def newest(self, kinds: Collection[tuple[Any, Any]]) -> dict[tuple[Any, Any], Fields]:
        """Return the record added last of each kind: a task name and an action."""
        found = {
            kind: self.repo.filter_by(task_name=kind[0], action=kind[1]).last() for kind in kinds
        }
        return {kind: fields_of(record) for kind, record in found.items() if record is not None}

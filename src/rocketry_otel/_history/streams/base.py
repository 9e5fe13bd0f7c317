"""Reading and removing the records of a repository of any kind."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from redbird.oper import between

from rocketry_otel._errors import RepositoryError
from rocketry_otel._model.durations import NANOSECONDS
from rocketry_otel._model.event import nanoseconds
from rocketry_otel._model.text import safe_text, shortened
from rocketry_otel._repositories.skipped import ignore

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from redbird.base import BaseRepo
    from redbird.oper import Operation

    from rocketry_otel._repositories.skipped import OnSkipped

    Fields = dict[str, Any]
    Unwanted = Callable[[Mapping[str, Any]], bool]

_logger = logging.getLogger("rocketry_otel")

# What the beginnings and endings of runs are paired by.
OUTLINE = ("task_name", "action", "created", "run_id", "process", "thread")

# Seconds. Repositories store times as floating point seconds, a quarter of a microsecond apart:
# a query goes so far beyond its bounds, and each record is checked.
_ROOM = 0.001
_LATEST = nanoseconds(float("inf"))

# So many keys are compared before the caller has its turn.
_KEYS_AT_ONCE = 1_000

_logged: set[str] = set()


def fields_of(item: Any) -> dict[str, Any]:
    """Return the fields of a stored record, of whatever model."""
    return dict(item) if isinstance(item, dict) else dict(vars(item))


class Window(NamedTuple):
    """Records that were created from one time to another, both included.

    Attributes:
        since: Nanoseconds since the epoch; 0 has what was created at no known time as well.
        until: Nanoseconds since the epoch.
    """

    since: int = 0
    until: int = _LATEST

    @property
    def lower(self) -> float | None:
        """Seconds before which none was created; ``None`` if it may have been at any time."""
        return None if self.since <= 0 else self.since / NANOSECONDS - _ROOM

    @property
    def upper(self) -> float | None:
        """Seconds after which none was created; ``None`` if it may have been at any time."""
        return None if self.until >= _LATEST else self.until / NANOSECONDS + _ROOM

    @property
    def operation(self) -> Operation:
        """A query for ``created`` that finds all of them, and maybe some more at the bounds."""
        return between(self.lower, self.upper, none_as_open=True)

    def holds(self, fields: Mapping[str, Any]) -> bool:
        """Return whether a record of these fields is among them."""
        return self.since <= nanoseconds(fields.get("created")) <= self.until


@dataclass
class Place:
    """How far a reading has come.

    Attributes:
        last: The reading goes on behind this. Each kind of stream has its own: a key, the name
            of a file, a mark in a file.
        count: How many records the reading has met, where it counts them.
        digest: A sum over the keys of these records, whatever their order.
    """

    last: Any = None
    count: int = 0
    digest: int = 0

    def pass_by(self, key: Any) -> None:
        """Move behind a record."""
        self.last = key
        self.count += 1
        # The hash of an integer is the integer: sums of those would often be equal.
        self.digest = (self.digest + hash(repr(key))) % 2**64

    def has_met_all(self, keys: Iterable[Any], rest: Callable[[], bool]) -> bool:
        """Compare the records that were met with those that are there now, up to this place.

        Args:
            keys: The keys of all records that are there, in their order.
            rest: Gives others their turn; returns whether to go on.
        """
        now = Place()
        for key in keys:
            now.pass_by(key)
            if key == self.last or (now.count % _KEYS_AT_ONCE == 0 and not rest()):
                break
        return now == self


class RecordStream(ABC):
    """The records of a repository.

    Args:
        repo: The repository.
        name: The name of the repository in a warning.

    Attributes:
        on_skipped: Called for each record that cannot be read.
        can_go_on: Whether ``read`` begins at a place; else it begins at the beginning.
    """

    can_go_on: ClassVar[bool] = False

    def __init__(self, repo: BaseRepo, name: object = "") -> None:
        self.repo = repo
        self.name = f"{type(repo).__name__} {name}".rstrip()
        self.on_skipped: OnSkipped = ignore

    @abstractmethod
    def read(self, window: Window, place: Place | None = None) -> Iterator[Fields]:
        """Give the fields of each record, in the order in which they were added.

        Nothing is locked while the caller pauses. A record that cannot be read is left out, with
        a warning. A record that is added meanwhile may be left out.

        Args:
            window: When the records were created.
            place: Where the reading begins; it moves along.
        """

    def is_whole(self, window: Window, place: Place, rest: Callable[[], bool]) -> bool:
        """Return whether a reading has met all records that are there now before its place.

        Records are not read again for this. A kind that cannot be sure returns false.

        Args:
            window: That of the reading.
            place: Where the reading has ended.
            rest: Gives others their turn; returns whether to go on.
        """
        del window, place, rest
        return False

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
        """Count a record that cannot be read; log the first of them."""
        self.on_skipped()
        if self.name not in _logged:
            _logged.add(self.name)
            words = shortened(safe_text(error), 400)
            _logger.warning("records of %s that cannot be read are left out: %s", self.name, words)


class OwnStream(RecordStream):
    """The records of a repository of ours, which knows how to remove."""

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

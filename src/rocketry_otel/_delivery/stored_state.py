"""The delivery state of a repository as another program sees it: it is read and never changed."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from rocketry_otel._errors import RepositoryError
from rocketry_otel._model.event import nanoseconds

from .state_db import FILE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from rocketry_otel._model.ids import RunIds

_TIMEOUT = 2.0


@dataclass(frozen=True)
class ChannelState:
    """How far the delivery on one channel has come.

    Attributes:
        name: The channel: a signal and a destination.
        waiting: How many items are known to wait.
        since: The time before which all records are delivered, in nanoseconds since the epoch;
            ``None`` if no process uses the channel and nothing waits.
    """

    name: str
    waiting: int
    since: int | None


@dataclass(frozen=True)
class Refused:
    """A dead letter.

    Attributes:
        channel: The channel whose destination has refused it.
        created: When the record was created, in nanoseconds since the epoch.
        task_name: Its task.
        action: Its action.
        reason: Why it was refused.
        refused_at: When, in seconds since the epoch.
    """

    channel: str
    created: int
    task_name: str
    action: str
    reason: str
    refused_at: float


class StoredState:
    """The delivery state of a repository, read from outside of the application.

    Nothing is created, locked for long or changed. A state that does not exist is empty.

    Args:
        folder: Where it is stored; ``None`` if the repository can have none.

    Attributes:
        exists: Whether there is one.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.exists = folder is not None and (folder / FILE).is_file()

    def channels(self) -> list[ChannelState]:
        """Return the channels, in the order of their names.

        Raises:
            RepositoryError: The state cannot be read.
        """
        names = [name for (name,) in self._read("SELECT name FROM channel ORDER BY name")]
        found: dict[str, list[tuple[int, int]]] = {name: [] for name in names}
        for name, waiting, since in self._read(
            "SELECT channel, waiting, since FROM writer "
            "UNION ALL SELECT channel, waiting, max(since, reached) FROM backlog"
        ):
            found.setdefault(name, []).append((waiting, since))
        return [
            ChannelState(
                name,
                sum(waiting for waiting, _ in parts),
                min((since for _, since in parts), default=None),
            )
            for name, parts in found.items()
        ]

    def refused(self) -> list[Refused]:
        """Return the dead letters, the oldest record first.

        Raises:
            RepositoryError: The state cannot be read.
        """
        rows = self._read(
            "SELECT channel, created, task_name, action, reason, refused_at FROM refused "
            "ORDER BY created, channel"
        )
        return [Refused(*row) for row in rows]

    def unknown_until(self) -> int | None:
        """Return the time until which no delivery is known, in nanoseconds since the epoch.

        Raises:
            RepositoryError: The state cannot be read.
        """
        rows = self._read("SELECT max(until) FROM unknown")
        return None if not rows or rows[0][0] is None else int(rows[0][0])

    # What a reading of the history asks for.

    def has(self, ids: RunIds) -> bool:
        """Return whether the run with these ids has a crash record."""
        return bool(
            self._read(
                "SELECT 1 FROM crash WHERE trace_id = ? AND span_id = ?",
                ids.trace_hex,
                ids.span_hex,
            )
        )

    def all(self) -> list[Mapping[str, Any]]:
        """Return the fields of the crash records, the oldest first."""
        found = [json.loads(text) for (text,) in self._read("SELECT fields FROM crash")]
        return sorted(found, key=lambda fields: nanoseconds(fields["created"]))

    def _read(self, query: str, *values: str) -> Sequence[tuple[Any, ...]]:
        if self.folder is None or not self.exists:
            return []
        path = self.folder / FILE
        try:
            with closing(
                sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=_TIMEOUT)
            ) as connection:
                return connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            if "no such table: crash" in str(error):
                return []  # it is made with the first crash record
            raise RepositoryError(
                f"the delivery state in {self.folder} cannot be read: {error}"
            ) from error

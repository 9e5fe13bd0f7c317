"""Dead letters: stored records that a destination has refused for good, with the reason."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rocketry_otel._runtime.forks import after_fork_in_child

from .checkpoint import DeadLetter

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator

    from .state_db import StateDB

    # A channel, and when the record was created, its task and its action.
    _Key = tuple[str, int, str, str]

_MOST_REFUSED = 10_000


class DeadLetters:
    """The newest dead letters.

    If a dead letter cannot be stored at once, the next transaction that succeeds stores it. So no
    checkpoint is ahead of a dead letter.

    Args:
        db: The database, which has the checkpoints too.
    """

    def __init__(self, db: StateDB) -> None:
        self._db = db
        self._start_afresh()
        after_fork_in_child(self._start_afresh)

    def _start_afresh(self) -> None:
        self._lock = threading.RLock()
        # Guards `_unsaved`: by key, the row of the table.
        self._unsaved: dict[_Key, tuple[object, ...]] = {}

    @property
    def is_saved(self) -> bool:
        """Whether all of them are stored."""
        return not self._unsaved

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Give a connection whose changes are stored together with the unsaved dead letters.

        Raises:
            StateError: They cannot be stored; then none of them are.
        """
        with self._db.transaction() as connection:
            with self._lock:
                rows = self._unsaved.copy()
            if rows:
                _insert(connection, rows.values())
            yield connection
        with self._lock:
            for key, row in rows.items():
                if self._unsaved.get(key) is row:
                    del self._unsaved[key]

    def add_dead_letters(self, channel: str, refusals: Iterable[DeadLetter], now: float) -> None:
        """Store dead letters.

        Args:
            channel: The channel whose destination has refused them.
            refusals: The dead letters.
            now: The time, in seconds since the epoch.

        Raises:
            StateError: They cannot be stored yet.
        """
        with self._lock:
            for one in refusals:
                key = (channel, one.created, one.task_name, one.action)
                self._unsaved[key] = (*key, one.reason, now)
            while len(self._unsaved) > _MOST_REFUSED:
                del self._unsaved[next(iter(self._unsaved))]
        with self.transaction():
            pass

    def all(self) -> list[tuple[str, DeadLetter]]:
        """Return all of them with their channels, oldest first.

        Raises:
            StateError: They cannot be read.
        """
        with self._db.transaction() as connection:
            rows = connection.execute(
                "SELECT channel, created, task_name, action, reason FROM refused ORDER BY created"
            ).fetchall()
        return [(channel, DeadLetter(*rest)) for channel, *rest in rows]

    def remove(self, refusals: Iterable[tuple[str, DeadLetter]]) -> None:
        """Remove dead letters that were accepted now.

        Raises:
            StateError: They cannot be removed.
        """
        with self.transaction() as connection:
            connection.executemany(
                "DELETE FROM refused WHERE channel = ? AND created = ? AND task_name = ? "
                "AND action = ?",
                [(channel, *refusal[:3]) for channel, refusal in refusals],
            )


def _insert(connection: sqlite3.Connection, rows: Iterable[tuple[object, ...]]) -> None:
    connection.executemany("INSERT OR REPLACE INTO refused VALUES (?, ?, ?, ?, ?, ?)", rows)
    connection.execute(
        "DELETE FROM refused WHERE rowid <= "
        "(SELECT rowid FROM refused ORDER BY rowid DESC LIMIT 1 OFFSET ?)",
        [_MOST_REFUSED],
    )

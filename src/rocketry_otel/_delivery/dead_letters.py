"""What destinations have refused for good: set aside, with the reason."""

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
    """The stored records that were refused for good, of which the newest are kept.

    What cannot be noted at once is noted with the next thing that can be: in one step with it,
    so that nothing that is noted of delivery is ahead of it.

    Args:
        db: Where they are noted, with all else that is known of delivery.
    """

    def __init__(self, db: StateDB) -> None:
        self._db = db
        self._start_afresh()
        after_fork_in_child(self._start_afresh)

    def _start_afresh(self) -> None:
        self._lock = threading.RLock()
        # A row of the table each.
        self._not_noted: dict[_Key, tuple[object, ...]] = {}

    @property
    def is_noted(self) -> bool:
        """Whether all of them are noted."""
        return not self._not_noted

    @contextmanager
    def noting(self) -> Iterator[sqlite3.Connection]:
        """Give a connection whose changes are kept together with what is not noted yet.

        Raises:
            StateError: They cannot be kept; then none are.
        """
        with self._db.transaction() as connection:
            with self._lock:
                rows = self._not_noted.copy()
            if rows:
                _insert(connection, rows.values())
            yield connection
        with self._lock:
            for key, row in rows.items():
                if self._not_noted.get(key) is row:
                    del self._not_noted[key]

    def add_dead_letters(self, channel: str, refusals: Iterable[DeadLetter], now: float) -> None:
        """Note what a destination has refused.

        Args:
            channel: On which channel.
            refusals: What it has refused, and why.
            now: When, in seconds since the epoch.

        Raises:
            StateError: It cannot be noted yet.
        """
        with self._lock:
            for one in refusals:
                key = (channel, one.created, one.task_name, one.action)
                self._not_noted[key] = (*key, one.reason, now)
            while len(self._not_noted) > _MOST_REFUSED:
                del self._not_noted[next(iter(self._not_noted))]
        with self.noting():
            pass

    def all(self) -> list[tuple[str, DeadLetter]]:
        """Return what was refused, with the channel on which it was, oldest first.

        Raises:
            StateError: It cannot be read.
        """
        with self._db.transaction() as connection:
            rows = connection.execute(
                "SELECT channel, created, task_name, action, reason FROM refused ORDER BY created"
            ).fetchall()
        return [(channel, DeadLetter(*rest)) for channel, *rest in rows]

    def remove(self, refusals: Iterable[tuple[str, DeadLetter]]) -> None:
        """Forget what was refused, since it has been accepted now.

        Raises:
            StateError: It cannot be noted.
        """
        with self.noting() as connection:
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

"""Up to when the slots of tasks are settled: each one has had its run, or was reported as missed.

In: the slots that a scheduler has settled. Out: the same, for the next start. They are stored
beside the delivery state, or in memory for a repository in memory.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, NamedTuple

from rocketry_otel._runtime.forks import after_fork_in_child
from rocketry_otel._runtime.scope import NAME

from .state_db import FILE, StateDB, StateError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_logger = logging.getLogger(NAME)

# Tasks under ever new names: the newest ones are kept.
_MOST = 10_000

_TABLE = """
CREATE TABLE IF NOT EXISTS slot (
    task_name TEXT PRIMARY KEY, until REAL NOT NULL, missed INTEGER NOT NULL,
    reason TEXT, blocked_by TEXT
)
"""


class Settled(NamedTuple):
    """The slots of a task.

    Attributes:
        until: Those that ended until then are settled, in seconds since the epoch.
        missed: How many the task has missed since its last run.
        reason: Why it has missed the newest of them.
        blocked_by: The task that blocked the scheduler then.
    """

    until: float
    missed: int = 0
    reason: str | None = None
    blocked_by: str | None = None


class SettledSlots:
    """Keeps the settled slots of each task, in bounded space.

    Args:
        folder: The folder of the delivery state; ``None`` to keep them in memory.
        like: The file or directory of the repository: nobody else can read them.
    """

    def __init__(self, folder: Path | None, like: Path | None = None) -> None:
        self._folder = folder
        self._db = None if folder is None else StateDB(folder, like)
        self._in_memory: dict[str, Settled] = {}
        self._renew_lock()
        after_fork_in_child(self._renew_lock)

    def _renew_lock(self) -> None:
        # It guards `_in_memory`. It is an innermost lock: no other one is taken while it is held.
        self._lock = threading.Lock()

    def put(self, settled: Mapping[str, Settled]) -> None:
        """Keep the settled slots of some tasks; if they cannot be stored, in memory alone."""
        with self._lock:
            self._in_memory.update(settled)
            while len(self._in_memory) > _MOST:
                del self._in_memory[next(iter(self._in_memory))]
        if self._db is None or not settled:
            return
        try:
            with self._db.transaction() as connection:
                connection.execute(_TABLE)
                connection.executemany(
                    "INSERT OR REPLACE INTO slot VALUES (?, ?, ?, ?, ?)",
                    [(name, *one) for name, one in settled.items()],
                )
                connection.execute(
                    "DELETE FROM slot WHERE task_name IN "
                    "(SELECT task_name FROM slot ORDER BY until DESC LIMIT -1 OFFSET ?)",
                    [_MOST],
                )
        except StateError as error:
            _logger.debug("Settled slots are kept in memory alone", exc_info=error)

    def all(self) -> dict[str, Settled]:
        """Return the settled slots of all tasks."""
        found: dict[str, Settled] = {}
        if self._db is not None and self._folder is not None and (self._folder / FILE).is_file():
            try:
                with self._db.transaction() as connection:
                    connection.execute(_TABLE)
                    rows = connection.execute("SELECT * FROM slot").fetchall()
                found = {name: Settled(*rest) for name, *rest in rows}
            except StateError as error:
                _logger.debug("Settled slots cannot be read", exc_info=error)
        with self._lock:
            return found | self._in_memory

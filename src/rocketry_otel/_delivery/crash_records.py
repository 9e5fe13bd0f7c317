"""The crash records that we infer: Rocketry logs none, and its repository is left as it is.

In: the fields of a crash record. Out: the same fields, for catch-up, replay and later processes.
They are stored beside the delivery state, or in memory for a repository in memory.
"""

from __future__ import annotations

import json
import logging
import threading
from typing import TYPE_CHECKING, Any

from rocketry_otel._model.event import nanoseconds
from rocketry_otel._runtime.forks import after_fork_in_child
from rocketry_otel._runtime.scope import NAME

from .state_db import FILE, StateDB, StateError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping
    from pathlib import Path

    from rocketry_otel._model.ids import RunIds

_logger = logging.getLogger(NAME)

# The newest ones are kept.
_MOST = 10_000

_TABLE = """
CREATE TABLE IF NOT EXISTS crash (
    trace_id TEXT NOT NULL, span_id TEXT NOT NULL, created INTEGER NOT NULL, fields TEXT NOT NULL,
    PRIMARY KEY (trace_id, span_id)
)
"""


class CrashRecords:
    """Keeps inferred crash records, one for each run, in bounded space.

    Args:
        folder: The folder of the delivery state; ``None`` to keep them in memory.
        like: The file or directory of the repository: nobody else can read the records.
    """

    def __init__(self, folder: Path | None, like: Path | None = None) -> None:
        self._folder = folder
        self._db = None if folder is None else StateDB(folder, like)
        # All of them without a folder, else those that could not be stored.
        self._in_memory: dict[tuple[str, str], Mapping[str, Any]] = {}
        self._renew_lock()
        after_fork_in_child(self._renew_lock)

    def _renew_lock(self) -> None:
        # It guards `_in_memory`. It is an innermost lock: no other one is taken while it is held.
        self._lock = threading.Lock()

    def add(self, fields: Mapping[str, Any]) -> bool:
        """Keep the crash record of a run, unless the run has one.

        Args:
            fields: The fields of the record, with the ids of the run.

        Returns:
            Whether it is the first one of its run.
        """
        key = (fields["trace_id"], fields["span_id"])
        if self._db is not None:
            try:
                with self._db.transaction() as connection:
                    return _insert(connection, key, fields)
            except StateError as error:
                _logger.debug("A crash record is kept in memory alone", exc_info=error)
        with self._lock:
            if key in self._in_memory:
                return False
            self._in_memory[key] = dict(fields)
            while len(self._in_memory) > _MOST:
                del self._in_memory[next(iter(self._in_memory))]
        return True

    def has(self, ids: RunIds) -> bool:
        """Return whether the run with these ids has a crash record."""
        key = (ids.trace_hex, ids.span_hex)
        if key in self._in_memory:
            return True
        return bool(self._read("WHERE trace_id = ? AND span_id = ?", key))

    def all(self) -> list[Mapping[str, Any]]:
        """Return the crash records, the oldest first."""
        with self._lock:
            found = list(self._in_memory.values())
        found += self._read()
        return sorted(found, key=lambda fields: nanoseconds(fields["created"]))

    def _read(
        self, condition: str = "", values: tuple[object, ...] = ()
    ) -> list[Mapping[str, Any]]:
        if self._db is None or self._folder is None or not (self._folder / FILE).is_file():
            return []
        try:
            with self._db.transaction() as connection:
                connection.execute(_TABLE)
                query = f"SELECT fields FROM crash {condition}"  # noqa: S608  # texts of this class
                rows = connection.execute(query, values).fetchall()
        except StateError as error:
            _logger.debug("The crash records cannot be read", exc_info=error)
            return []
        return [json.loads(text) for (text,) in rows]


def _insert(
    connection: sqlite3.Connection, key: tuple[str, str], fields: Mapping[str, Any]
) -> bool:
    connection.execute(_TABLE)
    created = nanoseconds(fields["created"])
    added = connection.execute(
        "INSERT OR IGNORE INTO crash VALUES (?, ?, ?, ?)", [*key, created, json.dumps(fields)]
    ).rowcount
    connection.execute(
        "DELETE FROM crash WHERE rowid IN "
        "(SELECT rowid FROM crash ORDER BY rowid DESC LIMIT -1 OFFSET ?)",
        [_MOST],
    )
    return added > 0

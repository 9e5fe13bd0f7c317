"""The small database that stores the delivery progress."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING

from rocketry_otel._runtime.forks import after_fork_in_child, no_fork
from rocketry_otel._runtime.private_files import create_private, is_link, make_private_folder
from rocketry_otel._runtime.suppression import suppressed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILE = "delivery.db"
# Seconds; other processes hold it for milliseconds.
_LOCK_TIMEOUT = 1.0
_VERSION = 1

_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS channel (name TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS unknown (until INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS writer (
    id TEXT NOT NULL, channel TEXT NOT NULL, since INTEGER NOT NULL, waiting INTEGER NOT NULL,
    PRIMARY KEY (id, channel)
);
CREATE TABLE IF NOT EXISTS backlog (
    channel TEXT PRIMARY KEY, since INTEGER NOT NULL, done INTEGER NOT NULL, mark TEXT NOT NULL,
    waiting INTEGER NOT NULL, until INTEGER NOT NULL, reached INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS refused (
    channel TEXT NOT NULL, created INTEGER NOT NULL, task_name TEXT NOT NULL,
    action TEXT NOT NULL, reason TEXT NOT NULL, refused_at REAL NOT NULL,
    PRIMARY KEY (channel, created, task_name, action)
);
PRAGMA user_version = {_VERSION};
COMMIT;
"""


class StateError(Exception):
    """The delivery progress cannot be read or written at present."""


class StateDB:
    """A database in a folder.

    SQLite is atomic, durable and locked as it is. Each transaction opens the file anew, so that
    a fork, a removed folder or a full disk has no lasting effect.

    Args:
        folder: The folder, made when it is needed.
        like: The file or directory of the repository: nobody else can read the database. Without
            it, only the owner can.
    """

    def __init__(self, folder: Path, like: Path | None = None) -> None:
        self._folder = folder
        self._like = like
        self._start_afresh()
        after_fork_in_child(self._start_afresh)

    def _start_afresh(self) -> None:
        self._lock = threading.RLock()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Give a connection whose changes are stored, all of them or none.

        Raises:
            StateError: They cannot be stored.
        """
        with suppressed(), self._lock:
            try:
                # In a child forked meanwhile, the file would stay locked.
                with no_fork, closing(self._open()) as connection, _begun(connection):
                    yield connection
            except (sqlite3.Error, OSError) as error:
                if _is_damage(error):
                    self._put_away()
                raise StateError(f"{self._folder}: {error}") from error

    def _open(self) -> sqlite3.Connection:
        folder = self._folder
        make_private_folder(folder, self._like)
        try:
            create_private(folder / FILE, self._like)
        except OSError as error:
            if not is_link(error):
                raise
            self._put_away()
            create_private(folder / FILE, self._like)
        try:
            return _prepared(folder / FILE)
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise
            self._put_away()
            create_private(folder / FILE, self._like)
            return _prepared(folder / FILE)

    def _put_away(self) -> None:
        """Rename a damaged file: its progress is lost, and a new file begins."""
        with suppress(OSError):
            # SQLite would replay the journal of the damaged file into the new one.
            (self._folder / f"{FILE}-journal").unlink(missing_ok=True)
            (self._folder / FILE).replace(self._folder / f"{FILE}.damaged")


@contextmanager
def _begun(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def _prepared(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=_LOCK_TIMEOUT, isolation_level=None, check_same_thread=False
    )
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        _check_version(version, path)
        connection.execute("PRAGMA synchronous = FULL")
        if version < _VERSION:
            connection.executescript(_SCHEMA)
    except BaseException:
        connection.close()
        raise
    return connection


def _check_version(version: int, path: Path) -> None:
    if version > _VERSION:
        raise StateError(f"{path} was made by a newer version of rocketry-otel")


def _is_damage(error: Exception) -> bool:
    # Its subclasses are for temporary errors, such as a lock or a full disk, and for mistakes.
    return type(error) is sqlite3.DatabaseError

"""An engine that reads a SQLite file and makes no file beside it.

In: the URL of a SQLite file, which exists. Out: an engine whose connections are read-only. An
ordinary reading connection makes ``-wal`` and ``-shm`` files, and fails in a folder that cannot be
written.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from .sql_engine import make_engine

if TYPE_CHECKING:
    from sqlalchemy.engine import URL, Engine

_TIMEOUT = 5.0
# In the header of a SQLite file: the version that is needed to read it. 2 means that it has a log.
_VERSION_AT = 19
_WITH_LOG = 2

# Files that are read here, by device and inode. They stay open: closing one would release the
# locks that SQLite holds on it for this process.
_opened: dict[tuple[int, int], int] = {}


def make_reading_engine(url: str, place: URL) -> Engine:
    """Make the engine of a database for reading; it does not connect yet.

    Args:
        url: The URL as the user wrote it.
        place: SQLAlchemy's part of it.

    Raises:
        RepositoryURLError: The database cannot be used, or its driver is missing.
    """
    path = sqlite_file(place)
    if path is None or place.get_driver_name() != "pysqlite":
        return make_engine(url, place)
    # Each use opens the file anew, because an application may begin or end meanwhile.
    return sa.create_engine(place, poolclass=NullPool, creator=lambda: connect_to_read(path))


def sqlite_file(place: URL) -> Path | None:
    """Return the file of a SQLite database; ``None`` for another database."""
    if place.get_backend_name() != "sqlite":
        return None
    database = place.database or ""
    if database.startswith("file:"):
        path = unquote(database.removeprefix("file:").partition("?")[0])
        database = f"/{path.lstrip('/')}" if path.startswith("/") else path
    return Path(database).absolute()


def connect_to_read(path: Path) -> sqlite3.Connection:
    """Connect to a SQLite file; nothing is created and nothing is written.

    Raises:
        sqlite3.Error: It cannot be read.
        OSError: The same.
    """
    log = path.with_name(f"{path.name}-wal")
    has_index = path.with_name(f"{path.name}-shm").exists()
    if _has_content(log) and not has_index:
        raise sqlite3.OperationalError(
            f"{log} has records, but its -shm file is missing: start the application once, which "
            "writes them into the database"
        )
    # Nobody has the database open if one of the two is missing. SQLite would make both.
    is_at_rest = _is_with_log(path) and not (has_index and log.exists())
    options = "immutable=1" if is_at_rest else "readonly_shm=1"
    return sqlite3.connect(
        f"file:{quote(str(path))}?mode=ro&{options}",
        uri=True,
        timeout=_TIMEOUT,
        check_same_thread=False,
    )


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False


def _is_with_log(path: Path) -> bool:
    status = path.stat()
    key = (status.st_dev, status.st_ino)
    if key not in _opened:
        _opened[key] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    header = os.pread(_opened[key], _VERSION_AT + 1, 0)
    return len(header) > _VERSION_AT and header[_VERSION_AT] == _WITH_LOG

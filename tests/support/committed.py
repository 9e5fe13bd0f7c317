"""What repositories hold, read by other means than ours: for who wants to check on those."""

from __future__ import annotations

import csv
import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pymongo

from tests.support.ferretdb import FerretDB
from tests.support.mariadb import MariaDB
from tests.support.postgresql import PostgreSQL
from tests.support.server_process import ServerProcess

TABLE = "rocketry_task_events"
# That of a record of no run: a crash that Rocketry logs of a run that goes on elsewhere.
NO_SPAN = "0" * 16


@dataclass(frozen=True)
class Committed:
    """A record in a repository, as far as its delivery depends on it.

    Attributes:
        task_name: Name of the task.
        action: ``run`` or an ending.
        created: Seconds since the epoch.
        run_id: ``None`` where Rocketry gives none.
        trace_id: 32 hexadecimal digits.
        span_id: 16 hexadecimal digits.
    """

    task_name: str
    action: str
    created: float
    run_id: str | None
    trace_id: str
    span_id: str

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Committed:
        """Read the fields of a row."""
        return cls(
            row["task_name"],
            row["action"],
            float(row["created"]),
            row["run_id"] or None,
            row["trace_id"],
            row["span_id"],
        )

    @property
    def nanoseconds(self) -> int:
        """The time as OTLP has it."""
        return int(self.created * 1_000_000_000)


@dataclass(frozen=True)
class Store:
    """A repository by its URL, and how to read it without our help.

    Attributes:
        url: The URL for ``ROCKETRY_OTEL_REPO``.
        rows: Gives its rows, oldest first.
        server: The process of its server, if it has one.
    """

    url: str
    rows: Callable[[], Iterator[Mapping[str, Any]]]
    server: ServerProcess | None = None

    def committed(self) -> list[Committed]:
        """Return all that it holds now."""
        return [Committed.of(row) for row in self.rows()]


def sqlite(directory: Path) -> Store:
    """A file of SQLite."""
    path = directory / "tasks.db"

    def rows() -> Iterator[Mapping[str, Any]]:
        if path.exists():
            with closing(sqlite3.connect(path, timeout=30)) as connection:
                connection.row_factory = sqlite3.Row
                known = "SELECT 1 FROM sqlite_master WHERE name = ?"
                if connection.execute(known, (TABLE,)).fetchone():
                    yield from connection.execute(f"SELECT * FROM {TABLE} ORDER BY id")  # noqa: S608

    return Store(f"sqlite:///{path}", rows)


def csv_file(directory: Path) -> Store:
    """A CSV file."""
    path = directory / "tasks.csv"

    def rows() -> Iterator[Mapping[str, Any]]:
        if path.exists():
            # What does not end in a newline was cut short by a kill, and not committed.
            whole, _, _ = path.read_bytes().rpartition(b"\r\n")
            yield from csv.DictReader(whole.decode().splitlines(keepends=True))

    return Store(f"csv://{path}", rows)


def json_directory(directory: Path) -> Store:
    """A directory of JSON files."""
    path = directory / "tasks"

    def rows() -> Iterator[Mapping[str, Any]]:
        for file in sorted(path.glob("*.json")):
            if not file.name.startswith("."):
                yield json.loads(file.read_bytes())

    return Store(f"json://{path}", rows)


def postgresql(server: PostgreSQL) -> Store:
    """A new database of PostgreSQL, read with its own client."""
    database = server.new_database()

    def rows() -> Iterator[Mapping[str, Any]]:
        if server.psql(f"SELECT to_regclass('{TABLE}')", database):
            query = f"SELECT row_to_json(it) FROM {TABLE} it ORDER BY id"  # noqa: S608
            yield from map(json.loads, server.psql(query, database).splitlines())

    return Store(server.url(database), rows, server.process)


def mariadb(server: MariaDB) -> Store:
    """A new database of MariaDB, read with its own client."""
    database = server.new_database()

    def rows() -> Iterator[Mapping[str, Any]]:
        names = [field.name for field in fields(Committed)]
        if server.sql(f"SHOW TABLES LIKE '{TABLE}'", database):
            pairs = ", ".join(f"'{name}', {name}" for name in names)
            query = f"SELECT json_object({pairs}) FROM {TABLE} ORDER BY id"  # noqa: S608
            yield from map(json.loads, server.sql(query, database).splitlines())

    return Store(server.url(database), rows, server.process)


def ferretdb(server: FerretDB) -> Store:
    """A new database of FerretDB, read with its client."""
    database = server.new_database()

    def rows() -> Iterator[Mapping[str, Any]]:
        with pymongo.MongoClient(server.url(database)) as client:
            yield from client[database][TABLE].find().sort("_id", 1)

    return Store(server.url(database), rows, server.process)

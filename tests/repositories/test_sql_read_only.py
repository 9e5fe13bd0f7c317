"""Reading a SQLite file without a trace, whatever another process does with it."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from rocketry_otel._repositories.sql_read_only import (
    connect_to_read,
    make_reading_engine,
    sqlite_file,
)

WRITER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("INSERT INTO t VALUES (2)")
connection.commit()
print("written", flush=True)
sys.stdin.readline()
"""


def folder_of(path: Path) -> dict[str, tuple[int, int]]:
    """Return name, time and size of each file beside a path."""
    return {one.name: (one.stat().st_mtime_ns, one.stat().st_size) for one in path.parent.iterdir()}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database with a write-ahead log, at rest."""
    path = tmp_path / "odd % name?.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE t (x)")
        connection.execute("INSERT INTO t VALUES (1)")
        connection.commit()
    return path


@pytest.fixture
def writer(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, which has written and holds the database open."""
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        yield process
        process.kill()


def rows(path: Path) -> list[int]:
    """Return what a reading finds; it must change no file."""
    before = folder_of(path)
    with closing(connect_to_read(path)) as connection:
        found = [x for (x,) in connection.execute("SELECT x FROM t")]
        assert folder_of(path) == before
    assert folder_of(path) == before
    return found


def test_database_at_rest(path: Path) -> None:
    """It is read, and no file appears beside it."""
    assert rows(path) == [1]
    assert list(folder_of(path)) == ["odd % name?.db"]


@pytest.mark.usefixtures("writer")
def test_database_in_use(path: Path) -> None:
    """What the other process has in its log is read."""
    assert rows(path) == [1, 2]


def test_database_of_a_killed_process(path: Path, writer: subprocess.Popen[str]) -> None:
    """The log that it left is read and stays as it is."""
    writer.kill()
    writer.wait()
    assert rows(path) == [1, 2]
    assert len(folder_of(path)) == 3


def test_log_without_its_index(path: Path, writer: subprocess.Popen[str]) -> None:
    """If the log has records, the error has the cure; an empty log is no obstacle."""
    writer.kill()
    writer.wait()
    path.with_name(f"{path.name}-shm").unlink()
    with pytest.raises(sqlite3.OperationalError, match=r"its -shm file is missing: start the"):
        connect_to_read(path)
    os.truncate(path.with_name(f"{path.name}-wal"), 0)
    assert rows(path) == [1]


def test_database_without_a_log(tmp_path: Path) -> None:
    """A database as Red Bird makes it, and an empty file, are read too."""
    path = tmp_path / "plain.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (x)")
        connection.commit()
    assert rows(path) == []
    (tmp_path / "empty.db").touch()
    with closing(connect_to_read(tmp_path / "empty.db")) as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)


def test_nothing_can_be_written(path: Path) -> None:
    """The database itself refuses a change."""
    with (
        closing(connect_to_read(path)) as connection,
        pytest.raises(sqlite3.OperationalError, match="readonly"),
    ):
        connection.execute("INSERT INTO t VALUES (3)")


def test_writer_of_the_same_process_keeps_its_lock(path: Path) -> None:
    """A reading beside it takes no lock away."""
    connect_to_read(path).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as own:
        own.execute("BEGIN IMMEDIATE")
        assert rows(path) == [1]
        script = "import sqlite3, sys; sqlite3.connect(sys.argv[1], 0).execute('BEGIN IMMEDIATE')"
        done = subprocess.run(
            [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False
        )
        assert done.stderr.endswith("sqlite3.OperationalError: database is locked\n")


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:////var/a.db", "/var/a.db"),
        ("sqlite:///file:/var/a%20b.db?uri=true", "/var/a b.db"),
        ("sqlite:///file:///var/a.db?mode=rwc&uri=true", "/var/a.db"),
        ("sqlite:///file:a.db?uri=true", str(Path("a.db").absolute())),
    ],
)
def test_file_of_a_url(url: str, path: str) -> None:
    """Each way of SQLite to name a file names the same file here."""
    assert sqlite_file(make_url(url)) == Path(path)


def test_other_databases_have_their_usual_engine() -> None:
    """A server has no file."""
    url = make_url("postgresql+psycopg2://u@localhost/db")
    assert sqlite_file(url) is None
    usual = make_url("postgresql://u@localhost/db")
    assert make_reading_engine(str(usual), usual).dialect.name == "postgresql"

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from rocketry_otel._delivery import state_db
from rocketry_otel._delivery.checkpoint import Checkpoint
from rocketry_otel._delivery.state import State
from rocketry_otel._delivery.state_db import FILE, StateDB, StateError

LONG = 20.0


def put(db: StateDB, *names: str | None) -> None:
    """Write a name; without one it fails in the transaction."""
    with db.transaction() as connection:
        for name in names:
            connection.execute("INSERT INTO channel VALUES (?)", [name.strip()])  # type: ignore[union-attr]


def names(db: StateDB) -> list[str]:
    """Return the names that were written."""
    with db.transaction() as connection:
        return [name for (name,) in connection.execute("SELECT name FROM channel ORDER BY name")]


def test_changes_are_read_by_others(tmp_path: Path) -> None:
    """The folder is made when it is needed."""
    put(StateDB(tmp_path / "state/deep"), "a")
    assert names(StateDB(tmp_path / "state/deep")) == ["a"]


def test_error_rolls_everything_back(tmp_path: Path) -> None:
    """A transaction is stored whole or not at all, and the next one works."""
    db = StateDB(tmp_path)
    put(db, "a")
    with pytest.raises(StateError, match="UNIQUE"):
        put(db, "b", "a")
    with pytest.raises(AttributeError):
        put(db, "c", None)
    assert names(db) == ["a"]


@pytest.mark.parametrize("damage", [b"", b"nonsense" * 1000, b"SQLite format 3\0" + b"\xff" * 9000])
def test_damaged_file_is_renamed(damage: bytes, tmp_path: Path) -> None:
    """Its content is lost, and a new file stores later changes."""
    db = StateDB(tmp_path)
    put(db, "a")
    (tmp_path / FILE).write_bytes(damage)
    (tmp_path / f"{FILE}-journal").write_bytes(damage)
    assert names(db) == []
    put(db, "b")
    assert names(db) == ["b"]


def test_later_damage_is_an_error_once(tmp_path: Path) -> None:
    """A file with a whole first page is renamed when the damage is read."""
    db = StateDB(tmp_path)
    for number in range(300):
        put(db, f"{number:0500}")
    content = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    with pytest.raises(StateError, match="malformed"):
        names(db)
    assert (tmp_path / f"{FILE}.damaged").exists()
    assert names(db) == []


def test_file_of_a_newer_version_stays(tmp_path: Path) -> None:
    """A downgrade loses nothing."""
    db = StateDB(tmp_path)
    put(db, "a")
    connection = sqlite3.connect(tmp_path / FILE)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    for _ in range(2):
        with pytest.raises(StateError, match="was made by a newer version"):
            names(db)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_unopenable_file_is_not_damaged(tmp_path: Path) -> None:
    """It stays where it is."""
    (tmp_path / FILE).mkdir()
    with pytest.raises(StateError, match="unable to open database file"):
        names(StateDB(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_locked_file_is_a_temporary_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait is limited, and the file stays."""
    db = StateDB(tmp_path)
    put(db, "a")
    monkeypatch.setattr("rocketry_otel._delivery.state_db._LOCK_TIMEOUT", 0.01)
    connection = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    with pytest.raises(StateError, match="database is locked"):
        names(db)
    connection.close()
    assert names(db) == ["a"]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_child_waits_for_no_lock(tmp_path: Path) -> None:
    """Another thread of the parent holds it; the child reads what its parent wrote."""
    db = StateDB(tmp_path)
    put(db, "a")
    held, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with db._lock:
            held.set()
            let_go.wait(LONG)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(LONG)
    pid = os.fork()
    if pid == 0:
        put(db, "b")
        os._exit(0 if names(db) == ["a", "b"] else 1)
    let_go.set()
    holder.join()
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert names(db) == ["a", "b"]


def test_planted_link_is_put_away(tmp_path: Path) -> None:
    """The database that it leads to stays as it is."""
    victim = tmp_path / "victim.db"
    with closing(sqlite3.connect(victim)) as connection, connection:
        connection.execute("CREATE TABLE theirs (x)")
    folder = tmp_path / "state"
    folder.mkdir()
    (folder / "delivery.db").symlink_to(victim)
    put(StateDB(folder), "a")
    assert names(StateDB(folder)) == ["a"]
    assert (folder / "delivery.db.damaged").is_symlink()
    with closing(sqlite3.connect(victim)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("theirs",)]


def test_repository_decides_who_reads_the_state(tmp_path: Path) -> None:
    """Its database, its journal and its locks have the mode of the repository at most."""
    repository = tmp_path / "tasks.db"
    repository.touch(0o600)
    folder = tmp_path / "tasks.db.delivery"
    folder.mkdir(0o755)
    (folder / "delivery.db").touch(0o644)
    state = State(folder, repository)
    state.save({"traces x": Checkpoint(1, 1)}, 1)
    with state.lease():
        found = {path.name.partition("-")[0]: path for path in folder.iterdir()}
        assert found.keys() == {"delivery.db", "writer", "catch"}
        assert {path.stat().st_mode & 0o777 for path in found.values()} == {0o600}
    assert folder.stat().st_mode & 0o777 == 0o700
    state.leave()


def test_database_that_cannot_be_created_is_an_error_of_the_state(
    tmp_path: Path, monkeypatch
) -> None:
    """An error of the file system is an error of the state, and nothing is put away."""

    def fail(*_: object) -> None:
        raise PermissionError("no")

    monkeypatch.setattr(state_db, "create_private", fail)
    with pytest.raises(StateError, match="no"):
        put(StateDB(tmp_path), "a")
    assert list(tmp_path.iterdir()) == []

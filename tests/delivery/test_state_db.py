from __future__ import annotations

import os
import sqlite3
import threading
from pathlib import Path

import pytest

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

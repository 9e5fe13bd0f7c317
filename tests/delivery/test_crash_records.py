from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rocketry_otel._delivery import crash_records
from rocketry_otel._delivery.crash_records import CrashRecords
from rocketry_otel._delivery.state import State
from rocketry_otel._model.ids import RunIds


def fields(number: int, created: float = 1.0) -> dict[str, Any]:
    """Return the fields of a crash record."""
    ids = RunIds(number, number)
    return {"trace_id": ids.trace_hex, "span_id": ids.span_hex, "created": created}


@pytest.fixture(params=["folder", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    """Where they are kept."""
    return tmp_path / "state" if request.param == "folder" else None


def test_run_has_one_crash_record(folder: Path | None) -> None:
    """The first one counts, and they come in the order of their times."""
    records = CrashRecords(folder)
    assert not records.has(RunIds(1, 1))
    assert records.all() == []
    assert records.add(fields(1, created=2.0))
    assert not records.add(fields(1, created=3.0))
    assert records.add(fields(2, created=1.0))
    assert records.has(RunIds(1, 1))
    assert not records.has(RunIds(1, 2))
    assert records.all() == [fields(2, created=1.0), fields(1, created=2.0)]


def test_crash_records_are_bounded(folder: Path | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest ones are kept."""
    monkeypatch.setattr(crash_records, "_MOST", 3)
    records = CrashRecords(folder)
    for number in range(1, 6):
        assert records.add(fields(number))
    assert [one["trace_id"][-1] for one in records.all()] == ["3", "4", "5"]


def test_another_process_finds_them(tmp_path: Path) -> None:
    """They are beside the state of delivery, made by whichever comes first."""
    state = State(tmp_path)
    state.save({}, 1)
    CrashRecords(tmp_path).add(fields(1))
    assert CrashRecords(tmp_path).has(RunIds(1, 1))
    assert State(tmp_path).is_known() is False
    with closing(sqlite3.connect(tmp_path / "delivery.db")) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)


def test_reading_makes_no_file(tmp_path: Path) -> None:
    """A repository whose runs all end has no state that only this would need."""
    records = CrashRecords(tmp_path / "state")
    assert records.all() == []
    assert not records.has(RunIds(1, 1))
    assert not (tmp_path / "state").exists()


def test_folder_that_cannot_be_used_leaves_them_in_memory(tmp_path: Path) -> None:
    """Each run is still closed once in this process."""
    (tmp_path / "file").touch()
    records = CrashRecords(tmp_path / "file")
    assert records.add(fields(1))
    assert not records.add(fields(1))
    assert records.has(RunIds(1, 1))
    assert records.all() == [fields(1)]


def test_damaged_file_has_none(tmp_path: Path) -> None:
    """It is put out of the way, as for the rest of the state."""
    (tmp_path / "delivery.db").write_bytes(b"no database at all" * 100)
    assert CrashRecords(tmp_path).all() == []
    records = CrashRecords(tmp_path)
    assert records.add(fields(1))
    assert records.all() == [fields(1)]


def test_forked_child_has_a_lock_of_its_own() -> None:
    """A thread of the parent may have held the lock at the fork."""
    records = CrashRecords(None)
    with records._lock:
        child = os.fork()
        if child == 0:
            os._exit(0 if records.add(fields(1)) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert records.all() == []


def test_state_that_cannot_be_read_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in memory is known all the same."""
    records = CrashRecords(tmp_path)
    records.add(fields(1))
    with closing(sqlite3.connect(tmp_path / "delivery.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        monkeypatch.setattr("rocketry_otel._delivery.state_db._LOCK_TIMEOUT", 0.01)
        assert records.all() == []
        assert not records.has(RunIds(1, 1))
        assert records.add(fields(2))
        assert records.all() == [fields(2)]

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rocketry_otel._delivery import settled_slots as module
from rocketry_otel._delivery.settled_slots import Settled, SettledSlots

ONE, OTHER = Settled(100.5), Settled(200.25, 3, "blocked", "long")


def test_settled_slots_survive_the_process(tmp_path: Path) -> None:
    """The newest ones of each task are there for another object on the same folder."""
    slots = SettledSlots(tmp_path)
    assert slots.all() == {}
    slots.put({"etl": ONE})
    slots.put({"etl": OTHER, "report": ONE})
    slots.put({})
    assert SettledSlots(tmp_path).all() == {"etl": OTHER, "report": ONE}


def test_settled_slots_without_a_folder_are_kept_in_memory() -> None:
    """They end with the process."""
    slots = SettledSlots(None)
    slots.put({"etl": ONE})
    assert slots.all() == {"etl": ONE}
    assert SettledSlots(None).all() == {}


def test_settled_slots_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest tasks are kept, on disk and in memory."""
    monkeypatch.setattr(module, "_MOST", 2)
    slots = SettledSlots(tmp_path)
    for number in range(4):
        slots.put({f"task {number}": Settled(float(number))})
    kept = {"task 2": Settled(2.0), "task 3": Settled(3.0)}
    assert slots.all() == SettledSlots(tmp_path).all() == kept


def test_disk_that_fails_leaves_them_in_memory(tmp_path: Path) -> None:
    """A file of a newer version is neither read nor written."""
    slots = SettledSlots(tmp_path)
    slots.put({"etl": ONE})
    with slots._db.transaction() as connection:  # type: ignore[union-attr]
        connection.execute("PRAGMA user_version = 99")
    slots.put({"etl": OTHER})
    assert slots.all() == {"etl": OTHER}
    assert SettledSlots(tmp_path).all() == {}


def test_forked_child_has_a_free_lock() -> None:
    """A thread of the parent may hold the lock at the fork."""
    slots = SettledSlots(None)
    slots.put({"etl": ONE})
    with slots._lock:
        pid = os.fork()
        if pid == 0:
            free = slots._lock.acquire(timeout=5)
            os._exit(0 if free else 1)
        _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0

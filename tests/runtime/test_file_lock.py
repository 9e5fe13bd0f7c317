from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rocketry_otel._runtime.file_lock import FileLock

HOLDER = """
import sys
from pathlib import Path
from rocketry_otel._runtime.file_lock import FileLock
lock = FileLock(Path(sys.argv[1]))
print(lock.acquire(), flush=True)
sys.stdin.read()
"""


def test_lock_has_one_holder(tmp_path: Path) -> None:
    """A second process gets false at once, and the lock after its release."""
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert (first.acquire(), first.acquire(), second.acquire()) == (True, True, False)
    assert (first.is_held, second.is_held) == (True, False)
    first.release()
    first.release()
    assert (second.acquire(), first.is_held) == (True, False)
    second.remove()
    assert list(tmp_path.iterdir()) == []


def test_killed_process_releases_the_lock(tmp_path: Path) -> None:
    """The lock is free after any end of a process."""
    path = tmp_path / "lock"
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        lock = FileLock(path)
        assert lock.acquire() is False
        holder.send_signal(signal.SIGKILL)
        holder.wait(20)
        assert lock.acquire() is True
    lock.release()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_surviving_child_does_not_hold_the_lock(tmp_path: Path) -> None:
    """The parent's release frees the lock though a child goes on."""
    parent = FileLock(tmp_path / "lock")
    assert parent.acquire() is True
    unheld = FileLock(tmp_path / "other")
    reading, writing = os.pipe()
    ready, begun = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writing)
        os.write(begun, b"x")
        os.read(reading, 1)
        os._exit(0 if (parent.is_held, unheld.is_held) == (False, False) else 1)
    os.close(reading)
    os.read(ready, 1)
    assert FileLock(tmp_path / "lock").acquire() is False
    parent.release()
    other = FileLock(tmp_path / "lock")
    assert other.acquire() is True
    other.release()
    for end in (writing, ready, begun):
        os.close(end)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_missing_file_is_made_only_on_demand(tmp_path: Path) -> None:
    """A look for other processes leaves no file."""
    lock = FileLock(tmp_path / "lock")
    with pytest.raises(FileNotFoundError):
        lock.acquire(create=False)
    assert list(tmp_path.iterdir()) == []


def test_lock_error_leaves_no_file_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without locks raises, and nothing is held."""

    def fail(*_: object) -> None:
        raise OSError("no locks available")

    lock = FileLock(tmp_path / "lock")
    before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    monkeypatch.setattr("fcntl.flock", fail)
    with pytest.raises(OSError, match="no locks available"):
        lock.acquire()
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == before
    assert lock.is_held is False


def test_lock_notices_a_replaced_file(tmp_path: Path) -> None:
    """Other processes cannot see a lock on a removed or replaced file."""
    lock = FileLock(tmp_path / "lock")
    assert lock.is_in_place() is False
    lock.acquire()
    assert lock.is_in_place() is True
    (tmp_path / "lock").unlink()
    assert lock.is_in_place() is False
    (tmp_path / "lock").touch()
    assert lock.is_in_place() is False
    lock.release()

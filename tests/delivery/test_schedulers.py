from __future__ import annotations

import os
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from rocketry_otel._delivery.schedulers import Schedulers
from rocketry_otel._runtime.file_lock import FileLock
from rocketry_otel._runtime.process_name import new_name


def lock_of(folder: Path, name: str) -> Path:
    """Return the lock file of a process."""
    return folder / f"scheduler-{name}.lock"


def leave_dead(folder: Path, since: object = 7) -> str:
    """Leave what a process leaves that is killed; return its name."""
    folder.mkdir(exist_ok=True)
    # This process has not given it.
    name = f"{new_name()[:-8]}{os.urandom(4).hex()}"
    lock_of(folder, name).write_text(str(since), encoding="ascii")
    return name


def taken(schedulers: Schedulers) -> list[tuple[str, int]]:
    """Take over what dead processes have left."""
    with schedulers.of_dead() as dead:
        return list(dead)


def test_living_process_is_alive(tmp_path: Path) -> None:
    """Others see its lock, from the first run to the end."""
    one, other = Schedulers(tmp_path / "state"), Schedulers(tmp_path / "state")
    assert not one.is_shown
    one.prove_alive(5)
    one.prove_alive(6)
    assert one.is_shown
    assert lock_of(tmp_path / "state", one.name).read_text(encoding="ascii") == "5"
    assert other.is_alive(one.name)
    assert not other.has_dead()
    assert taken(other) == []
    one.note(9)
    one.note(9)
    assert lock_of(tmp_path / "state", one.name).read_text(encoding="ascii") == "9"
    one.leave()
    one.leave()
    assert not one.is_shown
    assert list((tmp_path / "state").iterdir()) == []
    # It runs all the same.
    assert other.is_alive(one.name)
    assert one.is_alive(one.name)
    one.note(10)
    assert list((tmp_path / "state").iterdir()) == []


def test_dead_process_is_taken_once(tmp_path: Path) -> None:
    """Its file is removed when that is done."""
    names = sorted([leave_dead(tmp_path, 7), leave_dead(tmp_path, "")])
    one, other = Schedulers(tmp_path), Schedulers(tmp_path)
    assert not one.is_alive(names[0])
    assert one.has_dead()
    with one.of_dead() as dead:
        first = next(dead)
        assert first[0] == names[0]
        # Another process takes the rest meanwhile.
        assert [name for name, _ in taken(other)] == [names[1]]
        assert list(dead) == []
    assert not one.has_dead()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("text", "since"), [("7", 7), ("", 0), ("\x00", 0)])
def test_time_of_a_dead_process_is_read(tmp_path: Path, text: str, since: int) -> None:
    """After a loss of power, the file may be empty."""
    name = leave_dead(tmp_path, text)
    assert taken(Schedulers(tmp_path)) == [(name, since)]


def test_failed_takeover_is_done_again(tmp_path: Path) -> None:
    """The repository may be away."""
    name = leave_dead(tmp_path)
    schedulers = Schedulers(tmp_path)

    def fail() -> None:
        with schedulers.of_dead() as dead:
            next(dead)
            raise OSError("away")

    with pytest.raises(OSError, match="away"):
        fail()
    assert taken(schedulers) == [(name, 7)]


def test_process_in_another_folder_is_found_by_its_id(tmp_path: Path) -> None:
    """Its lock is not here."""
    one, other = Schedulers(tmp_path / "a"), Schedulers(tmp_path / "b")
    one.prove_alive(1)
    assert other.is_alive(one.name)
    assert not other.is_alive("1-0-00000000")


def test_repository_of_one_process_has_no_files() -> None:
    """A repository in memory is read by no other process."""
    schedulers = Schedulers(None)
    assert schedulers.is_shown
    schedulers.prove_alive(1)
    schedulers.note(2)
    schedulers.leave()
    assert schedulers.is_alive(schedulers.name)
    assert schedulers.is_alive(Schedulers(None).name)
    assert not schedulers.is_alive("1-0-00000000")
    assert not schedulers.has_dead()
    assert taken(schedulers) == []


def test_unreadable_lock_is_taken_for_a_living_process(tmp_path: Path) -> None:
    """Nothing is known, so its runs are left alone."""
    name = leave_dead(tmp_path)
    lock_of(tmp_path, name).unlink()
    lock_of(tmp_path, name).mkdir()
    schedulers = Schedulers(tmp_path)
    assert schedulers.is_alive(name)
    assert taken(schedulers) == []


def test_name_of_a_record_leaves_the_folder_alone(tmp_path: Path) -> None:
    """A record may be somebody else's."""
    assert not Schedulers(tmp_path / "state").is_alive("../../x")


def test_short_look_of_another_process_delays_the_lock(tmp_path: Path) -> None:
    """The other one holds the lock for an instant, to see whether this process is alive."""
    schedulers = Schedulers(tmp_path)
    path = lock_of(tmp_path, schedulers.name)
    with ExitStack() as stack:
        look = FileLock(path)
        look.acquire()
        stack.callback(look.release)
        timer = threading.Timer(0.02, look.release)
        timer.start()
        schedulers.prove_alive(3)
        timer.join()
    assert Schedulers(tmp_path).is_alive(schedulers.name)
    assert schedulers.is_shown
    assert not FileLock(path).acquire()


def test_forked_child_is_another_process(tmp_path: Path) -> None:
    """It has a name of its own, and leaves the lock to its parent."""
    schedulers = Schedulers(tmp_path)
    schedulers.prove_alive(1)
    before = schedulers.name
    child = os.fork()
    if child == 0:
        is_new = schedulers.name != before and not schedulers.is_shown
        os._exit(0 if is_new and schedulers.is_alive(before) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert schedulers.name == before
    assert schedulers.is_shown


def test_lock_that_another_process_keeps_costs_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried for a short time, once."""
    monkeypatch.setattr("rocketry_otel._delivery.schedulers._MOST_TRIES", 2)
    schedulers = Schedulers(tmp_path)
    other = FileLock(lock_of(tmp_path, schedulers.name))
    assert other.acquire()
    schedulers.prove_alive(1)
    assert schedulers.is_shown
    other.release()

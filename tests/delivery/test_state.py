from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import pytest

from rocketry_otel._delivery.checkpoint import Backlog, Checkpoint, DeadLetter, with_earlier
from rocketry_otel._delivery.state import State
from rocketry_otel._delivery.state_db import StateError
from rocketry_otel._runtime.file_lock import FileLock

TRACES, LOGS = "traces http://c", "logs http://c"


def test_first_checkpoint_stores_the_unknown_time(tmp_path: Path) -> None:
    """It stays stored until a process takes it on."""
    first, second = State(tmp_path / "state"), State(tmp_path / "state")
    assert second.unknown_until() is None
    first.save({TRACES: Checkpoint(1, 0)}, 7)
    first.save({TRACES: Checkpoint(2, 0)}, 9)
    second.save({LOGS: Checkpoint(1, 0)}, 8)
    assert (first.unknown_until(), second.unknown_until()) == (6, 6)
    first.take_on({})
    first.take_on({}, known_until=5)
    assert second.unknown_until() == 6
    first.take_on({}, known_until=6)
    assert second.unknown_until() is None
    assert first.is_durable is True


def test_processes_see_the_checkpoints_of_others(tmp_path: Path) -> None:
    """Each reads the last checkpoint of the others, and not its own."""
    first, second = State(tmp_path), State(tmp_path)
    first.save({TRACES: Checkpoint(1, 5), LOGS: Checkpoint(2, 6)}, 7)
    first.save({TRACES: Checkpoint(3, 7)}, 7)
    (writer,) = second.writers()
    assert second.writers()[writer] == {TRACES: Checkpoint(3, 7), LOGS: Checkpoint(2, 6)}
    assert first.writers() == {}
    assert second.is_alive(writer) is True


def test_process_with_undelivered_records_is_dead_after_its_end(tmp_path: Path) -> None:
    """Others find its checkpoint."""
    first, second = State(tmp_path), State(tmp_path)
    first.save({TRACES: Checkpoint(1, 5)}, 7)
    first.end()
    first.end()
    (writer,) = second.writers()
    assert second.is_alive(writer) is False


def test_process_that_leaves_has_no_checkpoint(tmp_path: Path) -> None:
    """All its records are delivered."""
    first, second = State(tmp_path), State(tmp_path)
    first.save({TRACES: Checkpoint(1, 0)}, 7)
    first.leave()
    first.leave()
    assert second.writers() == {}
    assert [path.name for path in tmp_path.iterdir()] == ["delivery.db"]


def test_process_makes_a_removed_folder_again(tmp_path: Path) -> None:
    """The next checkpoint makes the folder, and a lock that others see."""
    first, second = State(tmp_path / "state"), State(tmp_path / "state")
    first.save({TRACES: Checkpoint(1, 0)}, 7)
    for path in (tmp_path / "state").iterdir():
        path.unlink()
    (tmp_path / "state").rmdir()
    first.save({TRACES: Checkpoint(1, 0)}, 7)
    assert second.unknown_until() == 6
    (writer,) = second.writers()
    assert second.is_alive(writer) is True


def test_process_waits_while_another_one_looks_at_its_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the lock stays held, the checkpoint fails and nothing is stored."""
    first, second = State(tmp_path), State(tmp_path)
    lock = FileLock(tmp_path / f"writer-{first._writer}.lock")
    assert lock.acquire() is True
    with monkeypatch.context() as patch:
        patch.setattr("rocketry_otel._delivery.state._MOST_TRIES", 2)
        with pytest.raises(StateError, match="is locked by another process"):
            first.save({TRACES: Checkpoint(1, 0)}, 7)
    assert second.writers() == {}
    # It is removed in the very moment in which it could have been taken.
    monkeypatch.setattr("time.sleep", lambda _: lock.remove())
    first.save({TRACES: Checkpoint(1, 0)}, 7)
    (writer,) = second.writers()
    assert second.is_alive(writer) is True


def test_process_that_comes_back_has_another_name(tmp_path: Path) -> None:
    """A process that has seen it dead takes over nothing of it later."""
    first, second = State(tmp_path), State(tmp_path)
    first.save({TRACES: Checkpoint(1, 5)}, 7)
    first.end()
    (dead,) = second.writers()
    assert second.is_alive(dead) is False
    assert first.writers() == {}
    first.save({TRACES: Checkpoint(2, 5)}, 7)
    assert first.writers() == {}
    assert dead not in second.writers()
    second.take_on({TRACES: Backlog(1)}, [(dead, TRACES)])
    ((living, noted),) = second.writers().items()
    assert (noted, second.is_alive(living)) == ({TRACES: Checkpoint(2, 5)}, True)
    first.leave()
    first.save({TRACES: Checkpoint(3, 0)}, 7)
    assert living not in second.writers()


def test_process_with_an_unreadable_lock_counts_as_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its records are not taken over."""
    first, second = State(tmp_path), State(tmp_path)
    first.save({TRACES: Checkpoint(1, 0)}, 7)
    (writer,) = second.writers()

    def fail(*_: object) -> None:
        raise OSError("too many open files")

    monkeypatch.setattr("fcntl.flock", fail)
    assert second.is_alive(writer) is True


def test_process_without_its_lock_is_dead(tmp_path: Path) -> None:
    """If it lives, its next checkpoint makes the lock again."""
    first, second = State(tmp_path), State(tmp_path)
    first.save({TRACES: Checkpoint(1, 0)}, 7)
    (writer,) = second.writers()
    (tmp_path / f"writer-{writer}.lock").unlink()
    assert second.is_alive(writer) is False


def test_locks_without_a_checkpoint_are_removed(tmp_path: Path) -> None:
    """Locks of living processes, and of dead ones with a checkpoint, stay."""
    living, dead, state = State(tmp_path), State(tmp_path), State(tmp_path)
    living.save({TRACES: Checkpoint(1, 0)}, 7)
    dead.save({TRACES: Checkpoint(1, 0)}, 7)
    dead.end()
    noting = FileLock(tmp_path / "writer-noting.lock")
    noting.acquire()
    (tmp_path / "writer-killed.lock").touch()
    before = {path.name for path in tmp_path.iterdir()}
    state.sweep(state.writers())
    assert before - {path.name for path in tmp_path.iterdir()} == {"writer-killed.lock"}
    noting.release()


def test_only_one_process_has_the_lease(tmp_path: Path) -> None:
    """The next one gets it after the first; a folder that cannot be made is an error."""
    first, second = State(tmp_path), State(tmp_path)
    with first.lease() as one:
        with second.lease() as other:
            assert (one, other) == (True, False)
        with second.lease() as other:
            assert other is False
    with second.lease() as other:
        assert other is True
    with State(tmp_path / "made").lease() as third:
        assert third is True
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="Not a directory"):
        State(tmp_path / "file" / "state").lease().__enter__()


def test_taken_on_backlog_replaces_the_checkpoint(tmp_path: Path) -> None:
    """One transaction stores the backlog and removes the process; then its lock is removed."""
    first, second = State(tmp_path), State(tmp_path)
    first.save({TRACES: Checkpoint(1, 5), LOGS: Checkpoint(2, 6)}, 7)
    first.end()
    (writer,) = second.writers()
    backlog = Backlog(1, done=3, mark="x", waiting=5, until=9, reached=4)
    second.take_on({TRACES: backlog}, [(writer, TRACES)])
    assert second.backlogs() == {TRACES: backlog}
    assert second.writers() == {writer: {LOGS: Checkpoint(2, 6)}}
    assert (tmp_path / f"writer-{writer}.lock").exists()
    second.take_on({LOGS: Backlog(2)}, [(writer, LOGS)], finished=[TRACES])
    assert second.backlogs() == {LOGS: Backlog(2)}
    assert second.writers() == {}
    assert not (tmp_path / f"writer-{writer}.lock").exists()


def test_undelivered_lists_processes_and_backlogs(tmp_path: Path) -> None:
    """Each process and each backlog has its time."""
    first, second = State(tmp_path), State(tmp_path)
    assert first.undelivered() == []
    first.save({TRACES: Checkpoint(10, 0), LOGS: Checkpoint(8, 0)}, 7)
    second.save({TRACES: Checkpoint(9, 0)}, 7)
    second.take_on({TRACES: Backlog(3)})
    assert sorted(first.undelivered(), key=lambda one: one[2]) == [
        ("", TRACES, 3),
        (first._writer, LOGS, 8),
        (second._writer, TRACES, 9),
        (first._writer, TRACES, 10),
    ]


def test_folder_that_cannot_be_made_is_a_state_error(tmp_path: Path) -> None:
    """The error names the folder."""
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match=r"file/state: .*Not a directory"):
        State(tmp_path / "file" / "state").save({TRACES: Checkpoint(1, 0)}, 7)


@pytest.mark.parametrize(
    ("checkpoint", "together"),
    [
        (Checkpoint(20, 2), Backlog(10, done=4, mark="x", waiting=5, reached=15)),
        (Checkpoint(12, 2), Backlog(10, done=4, mark="x", waiting=5, reached=12)),
        (Checkpoint(5, 2), Backlog(5, waiting=5)),
    ],
)
def test_backlog_grows_by_a_checkpoint(checkpoint: Checkpoint, together: Backlog) -> None:
    """Later records change nothing; earlier ones begin the backlog again."""
    backlog = Backlog(10, done=4, mark="x", waiting=3, reached=15)
    assert with_earlier(backlog, checkpoint) == together
    assert with_earlier(None, checkpoint) == Backlog(checkpoint.since, waiting=2)


def test_backlog_goes_on_when_its_end_moves() -> None:
    """Records behind the old end are not done."""
    backlog = Backlog(10, done=4, mark="x", waiting=3, until=30)
    assert with_earlier(backlog, Checkpoint(20, 1, 30)) == backlog._replace(waiting=4)
    assert with_earlier(backlog, Checkpoint(20, 1, 40)) == backlog._replace(waiting=4, until=40)
    assert (backlog.oldest, backlog._replace(reached=25).oldest) == (10, 25)


def test_state_of_the_first_version_goes_on(tmp_path: Path) -> None:
    """Version 0.1.0 has stored each kind of progress in it."""
    dump = Path(__file__).with_name("delivery-0.1.0.sql").read_text(encoding="utf-8")
    with closing(sqlite3.connect(tmp_path / "delivery.db")) as connection:
        connection.executescript(f"PRAGMA user_version = 1; {dump}")
    (tmp_path / "writer-56bbafe736cd4201.lock").touch()
    traces, logs = (f"{signal} http://collector:4318/v1/{signal}" for signal in ("traces", "logs"))
    now = 1_764_000_000_000_000_000
    backlog = Backlog(now - 5 * 10**9, 4, "0123456789abcdef", 7, now - 10**9, now - 3 * 10**9)
    state = State(tmp_path)
    assert state.writers() == {
        "56bbafe736cd4201": {traces: Checkpoint(now, 2), logs: Checkpoint(now - 10**9, 3)}
    }
    assert state.is_alive("56bbafe736cd4201") is False
    assert state.backlogs() == {traces: backlog}
    assert state.unknown_until() == now - 1
    assert state.refused.all() == [
        (traces, DeadLetter(now - 7 * 10**9, "etl", "success", "too old"))
    ]
    state.save({traces: Checkpoint(now + 1, 0)}, now + 1)
    state.take_on({}, [("56bbafe736cd4201", traces), ("56bbafe736cd4201", logs)], [traces], now)
    other = State(tmp_path)
    assert list(other.writers().values()) == [{traces: Checkpoint(now + 1, 0)}]
    assert (other.backlogs(), other.is_known()) == ({}, True)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_child_has_no_copy_of_a_lock(tmp_path: Path) -> None:
    """A copy would keep the lock after the end of the parent, which then counts as alive."""
    state = State(tmp_path)
    state.save({TRACES: Checkpoint(1, 0)}, 7)
    with state.lease() as is_ours:
        assert is_ours is True
        locks = [path.stat() for path in tmp_path.glob("*.lock")]
        assert len(locks) == 2
        pid = os.fork()
        if pid == 0:
            copies = 0
            for file in range(256):
                with suppress(OSError):
                    copies += any(os.path.samestat(os.fstat(file), lock) for lock in locks)
            os._exit(copies)
        _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0

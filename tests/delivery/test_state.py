from __future__ import annotations

from pathlib import Path

import pytest

from rocketry_otel._delivery.checkpoint import Backlog, Checkpoint, with_earlier
from rocketry_otel._delivery.state import State
from rocketry_otel._delivery.state_db import StateError
from rocketry_otel._runtime.file_lock import FileLock

TRACES, LOGS = "traces http://c", "logs http://c"


def test_the_first_note_says_that_nothing_was_known(tmp_path: Path) -> None:
    """It is known until when, whatever is noted later, until somebody sees to it."""
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


def test_processes_see_each_other_but_not_themselves(tmp_path: Path) -> None:
    """What each notes last is what the others read."""
    first, second = State(tmp_path), State(tmp_path)
    first.save({TRACES: Checkpoint(1, 5), LOGS: Checkpoint(2, 6)}, 7)
    first.save({TRACES: Checkpoint(3, 7)}, 7)
    (writer,) = second.writers()
    assert second.writers()[writer] == {TRACES: Checkpoint(3, 7), LOGS: Checkpoint(2, 6)}
    assert first.writers() == {}
    assert second.is_alive(writer) is True


def test_a_process_that_ends_with_something_left_is_dead(tmp_path: Path) -> None:
    """Others find what it has left."""
    first, second = State(tmp_path), State(tmp_path)
    first.save({TRACES: Checkpoint(1, 5)}, 7)
    first.end()
    first.end()
    (writer,) = second.writers()
    assert second.is_alive(writer) is False


def test_a_process_that_leaves_is_forgotten(tmp_path: Path) -> None:
    """What it wrote is delivered: there is nothing to find."""
    first, second = State(tmp_path), State(tmp_path)
    first.save({TRACES: Checkpoint(1, 0)}, 7)
    first.leave()
    first.leave()
    assert second.writers() == {}
    assert [path.name for path in tmp_path.iterdir()] == ["delivery.db"]


def test_a_process_whose_folder_was_removed_shows_itself_again(tmp_path: Path) -> None:
    """The next note makes the folder anew, and a lock that others see."""
    first, second = State(tmp_path / "state"), State(tmp_path / "state")
    first.save({TRACES: Checkpoint(1, 0)}, 7)
    for path in (tmp_path / "state").iterdir():
        path.unlink()
    (tmp_path / "state").rmdir()
    first.save({TRACES: Checkpoint(1, 0)}, 7)
    assert second.unknown_until() == 6
    (writer,) = second.writers()
    assert second.is_alive(writer) is True


def test_a_process_is_seen_to_live_though_somebody_looks_just_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits until that is over; or it says that it cannot, and notes nothing."""
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


def test_a_process_that_comes_back_is_another_one(tmp_path: Path) -> None:
    """Whoever has seen it dead before takes nothing from it now; and what it left is its own."""
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


def test_whether_a_process_lives_is_not_guessed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of which it cannot be told is left alone."""
    first, second = State(tmp_path), State(tmp_path)
    first.save({TRACES: Checkpoint(1, 0)}, 7)
    (writer,) = second.writers()

    def fail(*_: object) -> None:
        raise OSError("too many open files")

    monkeypatch.setattr("fcntl.flock", fail)
    assert second.is_alive(writer) is True


def test_a_process_whose_lock_is_missing_is_dead(tmp_path: Path) -> None:
    """It shows itself again with its next note, if it is not."""
    first, second = State(tmp_path), State(tmp_path)
    first.save({TRACES: Checkpoint(1, 0)}, 7)
    (writer,) = second.writers()
    (tmp_path / f"writer-{writer}.lock").unlink()
    assert second.is_alive(writer) is False


def test_locks_that_stand_for_nobody_are_swept_away(tmp_path: Path) -> None:
    """Neither those of the living nor of the dead who have left something."""
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


def test_one_process_at_a_time_has_the_lease(tmp_path: Path) -> None:
    """The next one has it when the first is done; where there can be no folder it is an error."""
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


def test_what_is_taken_on_replaces_whom_it_is_from(tmp_path: Path) -> None:
    """In one step: the backlog is there, the process is gone, and so is its lock."""
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


def test_it_is_known_of_everybody_what_may_not_be_delivered(tmp_path: Path) -> None:
    """Of each process, and of what is to be sent from the repository."""
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


def test_a_folder_that_cannot_be_made_is_an_error_of_the_state(tmp_path: Path) -> None:
    """Whoever asks hears of it, with the place."""
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
def test_a_backlog_takes_up_what_is_left_elsewhere(
    checkpoint: Checkpoint, together: Backlog
) -> None:
    """What it meets on its way changes nothing; what lies before it begins it anew."""
    backlog = Backlog(10, done=4, mark="x", waiting=3, reached=15)
    assert with_earlier(backlog, checkpoint) == together
    assert with_earlier(None, checkpoint) == Backlog(checkpoint.since, waiting=2)


def test_a_backlog_with_an_end_goes_on_when_that_moves() -> None:
    """What lay behind its end does not count as done."""
    backlog = Backlog(10, done=4, mark="x", waiting=3, until=30)
    assert with_earlier(backlog, Checkpoint(20, 1, 30)) == backlog._replace(waiting=4)
    assert with_earlier(backlog, Checkpoint(20, 1, 40)) == backlog._replace(waiting=4, until=40)
    assert (backlog.oldest, backlog._replace(reached=25).oldest) == (10, 25)

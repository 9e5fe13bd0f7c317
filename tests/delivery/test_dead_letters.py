from __future__ import annotations

import os
from pathlib import Path

import pytest

from rocketry_otel._delivery.checkpoint import Backlog, DeadLetter
from rocketry_otel._delivery.dead_letters import DeadLetters
from rocketry_otel._delivery.state import State
from rocketry_otel._delivery.state_db import FILE, StateDB, StateError

LOGS, TRACES = "logs http://c", "traces http://c"
ONE = DeadLetter(2, "etl", "fail", "HTTP 400")


def test_dead_letter_is_stored_with_its_reason(tmp_path: Path) -> None:
    """There is one for each record and channel."""
    refused = DeadLetters(StateDB(tmp_path))
    one = DeadLetter(2, "etl", "fail", "HTTP 400")
    other = DeadLetter(1, "etl", "run", "HTTP 413")
    refused.add_dead_letters(TRACES, [one, other], 5.0)
    refused.add_dead_letters(TRACES, [one._replace(reason="HTTP 422")], 6.0)
    refused.add_dead_letters(LOGS, [one], 7.0)
    assert refused.all() == [
        (TRACES, other),
        (TRACES, one._replace(reason="HTTP 422")),
        (LOGS, one),
    ]
    refused.remove([(TRACES, other), (LOGS, one)])
    assert refused.all() == [(TRACES, one._replace(reason="HTTP 422"))]


def test_number_of_dead_letters_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A collector that refuses for years fills no disk."""
    monkeypatch.setattr("rocketry_otel._delivery.dead_letters._MOST_REFUSED", 3)
    refused = DeadLetters(StateDB(tmp_path))
    refused.add_dead_letters(TRACES, [DeadLetter(n, "etl", "run", "no") for n in range(5)], 1.0)
    assert [refusal.created for _, refusal in refused.all()] == [2, 3, 4]


def in_the_way(tmp_path: Path) -> Path:
    """Return a folder that cannot be written, because a file is in its place."""
    folder = tmp_path / "state"
    folder.write_text("in the way")
    return folder


def test_unsaved_dead_letter_is_stored_with_the_next_transaction(tmp_path: Path) -> None:
    """No checkpoint is ahead of it, and it is stored once."""
    folder = in_the_way(tmp_path)
    state = State(folder)
    assert state.refused.is_saved is True
    with pytest.raises(StateError, match="state"):
        state.refused.add_dead_letters(TRACES, [ONE], 5.0)
    with pytest.raises(StateError, match="state"):
        state.take_on({TRACES: Backlog(3)})
    assert state.refused.is_saved is False
    folder.unlink()
    with pytest.raises(ZeroDivisionError), state.refused.transaction():
        raise ZeroDivisionError
    assert (state.refused.all(), state.refused.is_saved) == ([], False)
    state.take_on({TRACES: Backlog(3)})
    assert (state.refused.all(), state.refused.is_saved) == ([(TRACES, ONE)], True)
    assert state.backlogs() == {TRACES: Backlog(3)}
    state.refused.remove([(TRACES, ONE)])
    state.take_on({})
    assert state.refused.all() == []


def test_dead_letter_that_changes_meanwhile_is_stored_again(tmp_path: Path) -> None:
    """Of two reasons for one record the later one stays."""
    refused = DeadLetters(StateDB(tmp_path))
    again = ONE._replace(reason="HTTP 422")
    with refused.transaction():
        pass
    folder = tmp_path / FILE
    kept = folder.read_bytes()
    folder.unlink()
    folder.mkdir()
    with pytest.raises(StateError):
        refused.add_dead_letters(TRACES, [ONE], 5.0)
    folder.rmdir()
    folder.write_bytes(kept)
    with refused.transaction():
        refused._unsaved[(TRACES, *again[:3])] = (TRACES, *again, 6.0)
    assert (refused.all(), refused.is_saved) == ([(TRACES, ONE)], False)
    with refused.transaction():
        pass
    assert (refused.all(), refused.is_saved) == ([(TRACES, again)], True)


def test_unsaved_dead_letters_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest stay in memory."""
    monkeypatch.setattr("rocketry_otel._delivery.dead_letters._MOST_REFUSED", 3)
    folder = in_the_way(tmp_path)
    refused = DeadLetters(StateDB(folder))
    for number in range(5):
        with pytest.raises(StateError):
            refused.add_dead_letters(TRACES, [ONE._replace(created=number)], 5.0)
    folder.unlink()
    with refused.transaction():
        pass
    assert [refusal.created for _, refusal in refused.all()] == [2, 3, 4]


def test_forked_child_stores_its_own_dead_letters(tmp_path: Path) -> None:
    """The unsaved ones of the parent stay the parent's."""
    folder = in_the_way(tmp_path)
    refused = DeadLetters(StateDB(folder))
    with pytest.raises(StateError):
        refused.add_dead_letters(TRACES, [ONE], 5.0)
    if (child := os.fork()) == 0:
        os._exit(0 if refused.is_saved else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert refused.is_saved is False

from __future__ import annotations

import os

from rocketry_otel._delivery.checkpoint import Backlog, Checkpoint, DeadLetter
from rocketry_otel._delivery.memory_state import MemoryState

LOGS, TRACES = "logs http://c", "traces http://c"


def test_backlogs_are_kept_until_they_are_finished() -> None:
    """A channel has one backlog, the newest."""
    state = MemoryState()
    state.take_on({TRACES: Backlog(3), LOGS: Backlog(4)})
    state.take_on({TRACES: Backlog(5)}, finished=[LOGS, "another"])
    assert state.backlogs() == {TRACES: Backlog(5)}
    assert state.undelivered() == [("", TRACES, 5)]


def test_no_other_process_is_known() -> None:
    """It stores nothing for other processes, and all deliveries are known."""
    state = MemoryState()
    state.save({TRACES: Checkpoint(1, 0)}, 7)
    state.add_dead_letters(TRACES, [DeadLetter(1, "etl", "fail", "too large")], 5.0)
    state.leave()
    state.end()
    state.sweep([])
    assert (state.is_durable, state.has_unsaved) == (False, False)
    assert (state.writers(), state.backlogs()) == ({}, {})
    assert (state.is_alive("x"), state.is_known(), state.unknown_until()) == (False, True, None)
    with state.lease() as is_ours:
        assert is_ours is True


def test_forked_child_begins_with_nothing() -> None:
    """The backlogs of a parent are the parent's to send."""
    state = MemoryState()
    state.take_on({TRACES: Backlog(3)})
    with state._lock:
        if (child := os.fork()) == 0:
            os._exit(0 if state.backlogs() == {} else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert state.backlogs() == {TRACES: Backlog(3)}

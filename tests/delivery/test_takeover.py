from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from rocketry_otel._delivery.checkpoint import Backlog, Checkpoint
from rocketry_otel._delivery.state import State
from rocketry_otel._delivery.takeover import Takeover
from rocketry_otel._export.queue import ExportQueue
from tests.support.channels import channel

TRACES, LOGS, MOVED = "traces http://c", "logs http://c", "traces http://old"


@pytest.fixture
def queues() -> Iterator[dict[str, ExportQueue[Any]]]:
    """Two channels of this process."""
    with ExitStack() as stack:
        made = [stack.enter_context(channel(signal))[0] for signal in ("traces", "logs")]
        yield {queue.name: queue for queue in made}


def another(folder: Path, **checkpoint: Checkpoint) -> State:
    """Return another process that has noted something, and lives."""
    state = State(folder)
    names = {"traces": TRACES, "logs": LOGS, "moved": MOVED}
    state.save({names[name]: one for name, one in checkpoint.items()}, 0)
    return state


def inherited(folder: Path, queues: Any) -> Takeover:
    """Return what a process of these channels inherits."""
    return Takeover(State(folder), queues, lambda checkpoint: checkpoint)


def test_with_nobody_there_is_nothing(tmp_path: Path, queues: Any) -> None:
    """Nothing is to be noted then."""
    takeover = inherited(tmp_path, queues)
    assert (takeover.backlogs, takeover.gone, takeover.is_new) == ({}, [], False)


def test_what_a_dead_process_has_left_is_inherited(tmp_path: Path, queues: Any) -> None:
    """On the same channel, and of several what is furthest behind; the living keep their own."""
    another(tmp_path, traces=Checkpoint(1, 9))
    for since in (20, 10):
        another(tmp_path, traces=Checkpoint(since, 2), logs=Checkpoint(since, 4)).end()
    takeover = inherited(tmp_path, queues)
    assert takeover.backlogs == {TRACES: Backlog(10, waiting=4), LOGS: Backlog(10, waiting=8)}
    assert len(takeover.gone) == 4
    assert takeover.is_new is True
    assert takeover.ended == set()


def test_a_collector_that_has_moved_gets_what_its_old_address_has_missed(
    tmp_path: Path, queues: Any
) -> None:
    """A channel that nobody uses any more has those of its signal for heirs."""
    another(tmp_path, moved=Checkpoint(10, 2)).end()
    state = State(tmp_path)
    (writer,) = state.writers()
    takeover = inherited(tmp_path, queues)
    assert takeover.backlogs == {TRACES: Backlog(10, waiting=2)}
    assert takeover.gone == [(writer, MOVED)]


def test_a_channel_that_somebody_uses_has_no_other_heirs(tmp_path: Path, queues: Any) -> None:
    """Two applications on one repository may each have a collector of their own."""
    another(tmp_path, moved=Checkpoint(10, 2)).end()
    living = another(tmp_path, moved=Checkpoint(30, 0))
    State(tmp_path).take_on({MOVED: Backlog(5)})
    takeover = inherited(tmp_path, queues)
    assert (takeover.backlogs, takeover.is_new) == ({MOVED: Backlog(5)}, False)
    living.end()
    takeover = inherited(tmp_path, queues)
    assert takeover.backlogs == {TRACES: Backlog(5, waiting=2)}
    assert takeover.ended == {MOVED}


def test_a_signal_that_is_not_sent_is_nobodys(tmp_path: Path, queues: Any) -> None:
    """What waits stays for a process that sends it."""
    another(tmp_path, traces=Checkpoint(10, 2)).end()
    State(tmp_path).take_on({TRACES: Backlog(5)})
    del queues[TRACES]
    takeover = inherited(tmp_path, queues)
    assert (takeover.backlogs, takeover.gone) == ({TRACES: Backlog(5)}, [])


def test_what_is_added_meets_what_is_inherited(tmp_path: Path, queues: Any) -> None:
    """What a channel of this process has left is sent in one go with the rest."""
    State(tmp_path).take_on({TRACES: Backlog(5, done=3, mark="x", waiting=1)})
    takeover = inherited(tmp_path, queues)
    takeover.add(TRACES, Checkpoint(7, 2, 9))
    assert takeover.backlogs == {TRACES: Backlog(5, done=3, mark="x", waiting=3)}
    takeover.add(LOGS, Checkpoint(7, 2, 9))
    assert takeover.backlogs[LOGS] == Backlog(7, waiting=2, until=9)


def test_what_is_not_believed_is_replaced(tmp_path: Path, queues: Any) -> None:
    """A note of the future says nothing."""
    another(tmp_path, traces=Checkpoint(10**18, 2)).end()
    takeover = Takeover(State(tmp_path), queues, lambda _: Checkpoint(0, 0))
    assert takeover.backlogs == {TRACES: Backlog(0)}

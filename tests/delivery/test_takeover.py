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
    """Return another process that has stored a checkpoint, and lives."""
    state = State(folder)
    names = {"traces": TRACES, "logs": LOGS, "moved": MOVED}
    state.save({names[name]: one for name, one in checkpoint.items()}, 0)
    return state


def taken_over(folder: Path, queues: Any) -> Takeover:
    """Return the takeover of a process with these channels."""
    return Takeover(State(folder), queues, lambda checkpoint: checkpoint)


def test_no_other_process_leaves_no_backlog(tmp_path: Path, queues: Any) -> None:
    """Nothing has to be stored."""
    takeover = taken_over(tmp_path, queues)
    assert (takeover.backlogs, takeover.gone, takeover.is_new) == ({}, [], False)


def test_checkpoint_of_a_dead_process_is_taken_over(tmp_path: Path, queues: Any) -> None:
    """The earliest of several counts; living processes keep their own."""
    another(tmp_path, traces=Checkpoint(1, 9))
    for since in (20, 10):
        another(tmp_path, traces=Checkpoint(since, 2), logs=Checkpoint(since, 4)).end()
    takeover = taken_over(tmp_path, queues)
    assert takeover.backlogs == {TRACES: Backlog(10, waiting=4), LOGS: Backlog(10, waiting=8)}
    assert len(takeover.gone) == 4
    assert takeover.is_new is True
    assert takeover.ended == set()


def test_moved_collector_gets_the_records_of_its_old_address(tmp_path: Path, queues: Any) -> None:
    """A channel that no process uses is replaced by those of its signal."""
    another(tmp_path, moved=Checkpoint(10, 2)).end()
    state = State(tmp_path)
    (writer,) = state.writers()
    takeover = taken_over(tmp_path, queues)
    assert takeover.backlogs == {TRACES: Backlog(10, waiting=2)}
    assert takeover.gone == [(writer, MOVED)]


def test_used_channel_is_not_replaced(tmp_path: Path, queues: Any) -> None:
    """Two applications on one repository may each have a collector of their own."""
    another(tmp_path, moved=Checkpoint(10, 2)).end()
    living = another(tmp_path, moved=Checkpoint(30, 0))
    State(tmp_path).take_on({MOVED: Backlog(5)})
    takeover = taken_over(tmp_path, queues)
    assert (takeover.backlogs, takeover.is_new) == ({MOVED: Backlog(5)}, False)
    living.end()
    takeover = taken_over(tmp_path, queues)
    assert takeover.backlogs == {TRACES: Backlog(5, waiting=2)}
    assert takeover.ended == {MOVED}


def test_unsent_signal_is_not_taken_over(tmp_path: Path, queues: Any) -> None:
    """Its records stay for a process that sends the signal."""
    another(tmp_path, traces=Checkpoint(10, 2)).end()
    State(tmp_path).take_on({TRACES: Backlog(5)})
    del queues[TRACES]
    takeover = taken_over(tmp_path, queues)
    assert (takeover.backlogs, takeover.gone) == ({TRACES: Backlog(5)}, [])


def test_overflow_joins_the_takeover(tmp_path: Path, queues: Any) -> None:
    """Both are sent in one reading."""
    State(tmp_path).take_on({TRACES: Backlog(5, done=3, mark="x", waiting=1)})
    takeover = taken_over(tmp_path, queues)
    takeover.add(TRACES, Checkpoint(7, 2, 9))
    assert takeover.backlogs == {TRACES: Backlog(5, done=3, mark="x", waiting=3)}
    takeover.add(LOGS, Checkpoint(7, 2, 9))
    assert takeover.backlogs[LOGS] == Backlog(7, waiting=2, until=9)


def test_implausible_checkpoint_is_replaced(tmp_path: Path, queues: Any) -> None:
    """A checkpoint of the future has no meaning."""
    another(tmp_path, traces=Checkpoint(10**18, 2)).end()
    takeover = Takeover(State(tmp_path), queues, lambda _: Checkpoint(0, 0))
    assert takeover.backlogs == {TRACES: Backlog(0)}

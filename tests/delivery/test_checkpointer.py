from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from rocketry_otel._delivery.checkpoint import Checkpoint, DeadLetter
from rocketry_otel._delivery.checkpointer import Checkpointer
from rocketry_otel._delivery.memory_state import MemoryState
from rocketry_otel._delivery.state import State
from rocketry_otel._delivery.state_db import FILE, StateError
from rocketry_otel._export.record_ref import RecordRef
from tests.support.channels import ACCEPTED, UNAVAILABLE, channel, flush

SECOND = 1_000_000_000
NOW = 1_700_000_000 * SECOND
MARGIN = 2 * SECOND
LOGS, TRACES = "logs http://c", "traces http://c"


class Bench:
    """A checkpointer of two channels, and the view of another process."""

    def __init__(self, folder: Path | None, stack: ExitStack) -> None:
        self.logs, self.collector = stack.enter_context(channel("logs"))
        self.traces, _ = stack.enter_context(channel("traces"))
        self.state: Any = MemoryState() if folder is None else State(folder)
        self.errors: list[StateError | None] = []
        self.checkpointer = Checkpointer(self.state, [self.logs, self.traces], self.errors.append)
        self._folder = folder

    def stored(self) -> dict[str, Checkpoint]:
        """Return the checkpoints that another process reads of this one."""
        return next(iter(State(self._folder or Path()).writers().values()), {})

    def write(self, created: int) -> None:
        """Do with a record what the handler does."""
        number = self.checkpointer.expect(created)
        self.logs.put(created, RecordRef(created, "etl", "run"))
        self.checkpointer.settle(number)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A checkpointer with a durable state."""
    with ExitStack() as stack:
        yield Bench(tmp_path, stack)


def test_checkpoint_is_stored_before_the_record(bench: Bench) -> None:
    """A process that is killed while it writes has left a checkpoint."""
    number = bench.checkpointer.expect(NOW)
    assert bench.stored() == {
        LOGS: Checkpoint(NOW - MARGIN, 0),
        TRACES: Checkpoint(NOW - MARGIN, 0),
    }
    bench.checkpointer.expect(NOW + SECOND)
    bench.checkpointer.settle(number)
    bench.checkpointer.save()
    assert bench.stored()[LOGS] == Checkpoint(NOW + SECOND - MARGIN, 0)
    assert bench.errors == [None, None]


def test_waiting_item_holds_its_own_channel_back_only(bench: Bench) -> None:
    """Records that other channels have delivered are not sent again."""
    bench.collector.answer = lambda _: UNAVAILABLE
    for seconds in range(3):
        bench.write(NOW + seconds * SECOND)
    bench.collector.wait_for_tries(1)
    bench.checkpointer.save()
    assert bench.stored() == {
        LOGS: Checkpoint(NOW - MARGIN, 3),
        TRACES: Checkpoint(NOW + 2 * SECOND - MARGIN, 0),
    }
    assert (bench.checkpointer.is_settled, bench.checkpointer.is_stored) == (False, True)
    bench.collector.answer = lambda _: ACCEPTED
    assert flush(bench.logs) is True
    assert (bench.checkpointer.is_settled, bench.checkpointer.is_stored) == (True, False)
    bench.checkpointer.save()
    assert bench.stored()[LOGS] == Checkpoint(NOW + 2 * SECOND - MARGIN, 0)


def test_clock_that_was_set_back_stores_a_checkpoint_first(bench: Bench) -> None:
    """The checkpoint is never ahead of the next record."""
    bench.write(NOW)
    bench.checkpointer.save()
    bench.write(NOW - SECOND)
    assert bench.stored()[TRACES].since == NOW - MARGIN
    bench.write(NOW - 3600 * SECOND)
    assert bench.stored()[TRACES].since == NOW - 3600 * SECOND - MARGIN


def test_record_waits_for_the_checkpoint_in_progress(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a clock was set back, the new checkpoint is earlier than the stored one."""
    bench.write(NOW)
    assert flush(bench.logs) is True
    bench.checkpointer.save()
    save, relied_on = State.save, []

    def look(state: State, checkpoint: Any, first: int) -> None:
        relied_on.append(bench.checkpointer._stored_until)
        save(state, checkpoint, first)

    monkeypatch.setattr(State, "save", look)
    bench.write(NOW - 100 * SECOND)
    assert [*relied_on, bench.checkpointer._stored_until] == [
        NOW - MARGIN,
        NOW - 100 * SECOND - MARGIN,
    ]


def test_process_that_delivered_everything_leaves_no_checkpoint(bench: Bench) -> None:
    """Its later records store a checkpoint again."""
    bench.write(NOW)
    assert flush(bench.logs) is True
    bench.checkpointer.close()
    assert bench.stored() == {}
    bench.write(NOW + SECOND)
    assert bench.stored()[TRACES].since == NOW + SECOND - MARGIN


def test_process_with_undelivered_records_leaves_a_checkpoint(bench: Bench) -> None:
    """Others see the checkpoint, and that the process is over."""
    bench.collector.answer = lambda _: UNAVAILABLE
    bench.write(NOW)
    bench.collector.wait_for_tries(1)
    bench.checkpointer.close()
    state = State(bench.state.folder)
    (writer,) = state.writers()
    assert state.writers()[writer][LOGS] == Checkpoint(NOW - MARGIN, 1)
    assert state.is_alive(writer) is False


def test_record_during_the_leave_is_stored_after_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process then has another name, and its new checkpoint stays."""
    bench.write(NOW)
    assert flush(bench.logs) is True
    leave = State.leave
    late = threading.Thread(target=lambda: bench.checkpointer.expect(NOW + SECOND))

    def leave_while_another_comes(state: State) -> None:
        late.start()
        while not bench.checkpointer._expected:
            late.join(0.001)
        leave(state)

    monkeypatch.setattr(State, "leave", leave_while_another_comes)
    bench.checkpointer.close()
    late.join()
    assert bench.stored()[LOGS] == Checkpoint(NOW + SECOND - MARGIN, 0)


def test_no_checkpoint_without_records(bench: Bench) -> None:
    """Neither a folder nor a file is made."""
    bench.checkpointer.close()
    assert bench.state.folder is not None
    assert list(bench.state.folder.iterdir()) == []


def test_unknown_time_is_stored(bench: Bench) -> None:
    """Deliveries of this process are known, earlier ones are not."""
    bench.write(NOW)
    bench.write(NOW + SECOND)
    assert bench.state.unknown_until() == NOW - 1
    bench.state.take_on({}, known_until=NOW)
    with ExitStack() as stack:
        second = Bench(bench.state.folder, stack)
        second.write(NOW)
        assert second.state.unknown_until() is None


def test_removed_state_is_stored_again(bench: Bench) -> None:
    """Though nothing has changed since; earlier deliveries are unknown again."""
    began = time.time_ns()
    bench.write(NOW)
    assert flush(bench.logs) is True
    bench.checkpointer.save()
    assert bench.state.folder is not None
    (bench.state.folder / FILE).unlink()
    bench.checkpointer.save()
    assert bench.stored() == {}
    bench.checkpointer.save(once_more=True)
    assert bench.stored()[LOGS].since == NOW - MARGIN
    # What others left meanwhile is not known either.
    unknown_until = bench.state.unknown_until()
    assert unknown_until is not None
    assert began <= unknown_until <= time.time_ns()


def test_unwritable_state_delays_no_record(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is reported once; later tries are not made by a record."""
    calls = []
    save = State.save

    def fail(_: State, checkpoint: Any, __: int) -> None:
        calls.append(checkpoint)
        raise StateError("disk full")

    monkeypatch.setattr(State, "save", fail)
    for seconds in range(100):
        bench.write(NOW + seconds * SECOND)
    assert len(calls) == 1
    assert [str(error) for error in bench.errors] == ["disk full"]
    bench.checkpointer.save()
    assert len(calls) == 2
    monkeypatch.setattr(State, "save", save)
    bench.checkpointer.save()
    assert bench.errors[-1] is None
    assert bench.stored()[TRACES].since == NOW + 99 * SECOND - MARGIN


def test_unsaved_dead_letters_are_stored_with_an_unchanged_checkpoint(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are tried until they can be stored."""
    bench.write(NOW)
    assert flush(bench.logs) is True
    bench.checkpointer.save()
    assert bench.checkpointer.is_stored is True
    with monkeypatch.context() as patch:
        patch.setattr(bench.state.refused._db, "_folder", Path("/proc/nowhere"))
        with pytest.raises(StateError):
            bench.state.refused.add_dead_letters(LOGS, [DeadLetter(NOW, "etl", "run", "no")], 1.0)
    assert bench.checkpointer.is_stored is False
    bench.checkpointer.save()
    assert bench.checkpointer.is_stored is True
    assert [one.reason for _, one in State(bench.state.folder).refused.all()] == ["no"]


def test_unwritable_end_is_reported(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is raised when the program ends."""
    bench.write(NOW)
    assert flush(bench.logs) is True

    def fail(_: State) -> None:
        raise StateError("disk full")

    monkeypatch.setattr(State, "leave", fail)
    bench.checkpointer.close()
    assert str(bench.errors[-1]) == "disk full"


def test_no_checkpoint_in_memory() -> None:
    """A state that ends with the process needs none."""
    with ExitStack() as stack:
        bench = Bench(None, stack)
        bench.write(NOW)
        bench.checkpointer.save()
        assert bench.state.writers() == {}
        assert (bench.checkpointer.is_stored, bench.errors) == (True, [])


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_child_has_its_own_checkpoint(bench: Bench) -> None:
    """The undelivered records of its parent stay the parent's; no lock is held in the child."""
    bench.collector.answer = lambda _: UNAVAILABLE
    bench.write(NOW)
    bench.collector.wait_for_tries(1)
    held, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with bench.checkpointer._lock, bench.checkpointer._saving:
            held.set()
            let_go.wait(20)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(20)
    pid = os.fork()
    if pid == 0:
        was_settled = bench.checkpointer.is_settled
        bench.checkpointer.expect(NOW + SECOND)
        writers = State(bench.state.folder).writers()
        ok = was_settled and len(writers) == 2
        os._exit(0 if ok else 1)
    let_go.set()
    holder.join()
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_stored_checkpoint_is_never_ahead_of_two_threads(bench: Bench) -> None:
    """Whatever their order, the last checkpoint is not ahead of an expected record."""
    barrier = threading.Barrier(3)

    def write(start: int) -> None:
        barrier.wait()
        for number in range(200):
            bench.checkpointer.expect(start - number * SECOND)

    def save() -> None:
        barrier.wait()
        for _ in range(50):
            bench.checkpointer.save()

    threads = [threading.Thread(target=write, args=[NOW + n]) for n in range(2)]
    threads.append(threading.Thread(target=save))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    oldest = NOW - 199 * SECOND
    assert bench.stored()[TRACES].since <= oldest

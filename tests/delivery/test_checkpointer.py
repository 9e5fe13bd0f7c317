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
    """A ledger of two channels, and what others see of it."""

    def __init__(self, folder: Path | None, stack: ExitStack) -> None:
        self.logs, self.collector = stack.enter_context(channel("logs"))
        self.traces, _ = stack.enter_context(channel("traces"))
        self.state: Any = MemoryState() if folder is None else State(folder)
        self.told: list[StateError | None] = []
        self.checkpointer = Checkpointer(self.state, [self.logs, self.traces], self.told.append)
        self._folder = folder

    def noted(self) -> dict[str, Checkpoint]:
        """Return what another process reads of this one."""
        return next(iter(State(self._folder or Path()).writers().values()), {})

    def write(self, created: int) -> None:
        """Do with a record what the handler does."""
        number = self.checkpointer.expect(created)
        self.logs.put(created, RecordRef(created, "etl", "run"))
        self.checkpointer.settle(number)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A ledger whose state outlives it."""
    with ExitStack() as stack:
        yield Bench(tmp_path, stack)


def test_a_record_is_noted_before_it_is_written(bench: Bench) -> None:
    """A process that is killed in the midst of writing leaves word of it."""
    number = bench.checkpointer.expect(NOW)
    assert bench.noted() == {LOGS: Checkpoint(NOW - MARGIN, 0), TRACES: Checkpoint(NOW - MARGIN, 0)}
    bench.checkpointer.expect(NOW + SECOND)
    bench.checkpointer.settle(number)
    bench.checkpointer.save()
    assert bench.noted()[LOGS] == Checkpoint(NOW + SECOND - MARGIN, 0)
    assert bench.told == [None, None]


def test_what_waits_holds_its_own_channel_back_alone(bench: Bench) -> None:
    """What was delivered on the others is not sent once more for its sake."""
    bench.collector.answer = lambda _: UNAVAILABLE
    for seconds in range(3):
        bench.write(NOW + seconds * SECOND)
    bench.collector.wait_for_tries(1)
    bench.checkpointer.save()
    assert bench.noted() == {
        LOGS: Checkpoint(NOW - MARGIN, 3),
        TRACES: Checkpoint(NOW + 2 * SECOND - MARGIN, 0),
    }
    assert (bench.checkpointer.is_settled, bench.checkpointer.is_noted) == (False, True)
    bench.collector.answer = lambda _: ACCEPTED
    assert flush(bench.logs) is True
    assert (bench.checkpointer.is_settled, bench.checkpointer.is_noted) == (True, False)
    bench.checkpointer.save()
    assert bench.noted()[LOGS] == Checkpoint(NOW + 2 * SECOND - MARGIN, 0)


def test_a_clock_that_was_set_back_is_noted_before_the_record_is_written(bench: Bench) -> None:
    """What is noted is never ahead of what is written next."""
    bench.write(NOW)
    bench.checkpointer.save()
    bench.write(NOW - SECOND)
    assert bench.noted()[TRACES].since == NOW - MARGIN
    bench.write(NOW - 3600 * SECOND)
    assert bench.noted()[TRACES].since == NOW - 3600 * SECOND - MARGIN


def test_no_record_relies_on_a_note_that_is_being_made(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a clock that was set back it is earlier than the one that stands until then."""
    bench.write(NOW)
    assert flush(bench.logs) is True
    bench.checkpointer.save()
    save, relied_on = State.save, []

    def look(state: State, checkpoint: Any, first: int) -> None:
        relied_on.append(bench.checkpointer._noted_until)
        save(state, checkpoint, first)

    monkeypatch.setattr(State, "save", look)
    bench.write(NOW - 100 * SECOND)
    assert [*relied_on, bench.checkpointer._noted_until] == [
        NOW - MARGIN,
        NOW - 100 * SECOND - MARGIN,
    ]


def test_a_process_that_has_delivered_everything_leaves_nothing_behind(bench: Bench) -> None:
    """At its end there is nothing for others to see to; what it writes later is noted anew."""
    bench.write(NOW)
    assert flush(bench.logs) is True
    bench.checkpointer.close()
    assert bench.noted() == {}
    bench.write(NOW + SECOND)
    assert bench.noted()[TRACES].since == NOW + SECOND - MARGIN


def test_a_process_that_has_not_says_so_at_its_end(bench: Bench) -> None:
    """Others see what it has left, and that it is over."""
    bench.collector.answer = lambda _: UNAVAILABLE
    bench.write(NOW)
    bench.collector.wait_for_tries(1)
    bench.checkpointer.close()
    state = State(bench.state.folder)
    (writer,) = state.writers()
    assert state.writers()[writer][LOGS] == Checkpoint(NOW - MARGIN, 1)
    assert state.is_alive(writer) is False


def test_a_record_that_comes_while_a_process_leaves_is_noted_behind_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is another writer then, and what it writes is not forgotten with the first."""
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
    assert bench.noted()[LOGS] == Checkpoint(NOW + SECOND - MARGIN, 0)


def test_nothing_is_noted_of_a_ledger_without_records(bench: Bench) -> None:
    """Neither a folder nor a file is made for it."""
    bench.checkpointer.close()
    assert bench.state.folder is not None
    assert list(bench.state.folder.iterdir()) == []


def test_until_when_nothing_was_known_is_noted(bench: Bench) -> None:
    """What this process has written itself it knows of; what came before, it does not."""
    bench.write(NOW)
    bench.write(NOW + SECOND)
    assert bench.state.unknown_until() == NOW - 1
    bench.state.take_on({}, known_until=NOW)
    with ExitStack() as stack:
        second = Bench(bench.state.folder, stack)
        second.write(NOW)
        assert second.state.unknown_until() is None


def test_a_note_that_was_removed_is_made_again(bench: Bench) -> None:
    """Though nothing has changed since; and then nothing was known once more."""
    began = time.time_ns()
    bench.write(NOW)
    assert flush(bench.logs) is True
    bench.checkpointer.save()
    assert bench.state.folder is not None
    (bench.state.folder / FILE).unlink()
    bench.checkpointer.save()
    assert bench.noted() == {}
    bench.checkpointer.save(once_more=True)
    assert bench.noted()[LOGS].since == NOW - MARGIN
    # What others left meanwhile is not known either.
    unknown_until = bench.state.unknown_until()
    assert unknown_until is not None
    assert began <= unknown_until <= time.time_ns()


def test_a_state_that_cannot_be_written_costs_a_record_little(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told, tried again after a while alone, and made good for as soon as it can be."""
    calls = []
    save = State.save

    def fail(_: State, checkpoint: Any, __: int) -> None:
        calls.append(checkpoint)
        raise StateError("disk full")

    monkeypatch.setattr(State, "save", fail)
    for seconds in range(100):
        bench.write(NOW + seconds * SECOND)
    assert len(calls) == 1
    assert [str(error) for error in bench.told] == ["disk full"]
    bench.checkpointer.save()
    assert len(calls) == 2
    monkeypatch.setattr(State, "save", save)
    bench.checkpointer.save()
    assert bench.told[-1] is None
    assert bench.noted()[TRACES].since == NOW + 99 * SECOND - MARGIN


def test_what_was_refused_is_noted_though_nothing_else_has_changed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried until it can be, and nothing rests before."""
    bench.write(NOW)
    assert flush(bench.logs) is True
    bench.checkpointer.save()
    assert bench.checkpointer.is_noted is True
    with monkeypatch.context() as patch:
        patch.setattr(bench.state.refused._db, "_folder", Path("/proc/nowhere"))
        with pytest.raises(StateError):
            bench.state.refused.add_dead_letters(LOGS, [DeadLetter(NOW, "etl", "run", "no")], 1.0)
    assert bench.checkpointer.is_noted is False
    bench.checkpointer.save()
    assert bench.checkpointer.is_noted is True
    assert [one.reason for _, one in State(bench.state.folder).refused.all()] == ["no"]


def test_an_end_that_cannot_be_noted_is_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is raised when the program ends."""
    bench.write(NOW)
    assert flush(bench.logs) is True

    def fail(_: State) -> None:
        raise StateError("disk full")

    monkeypatch.setattr(State, "leave", fail)
    bench.checkpointer.close()
    assert str(bench.told[-1]) == "disk full"


def test_in_memory_nothing_is_noted() -> None:
    """What does not outlive the process needs no note."""
    with ExitStack() as stack:
        bench = Bench(None, stack)
        bench.write(NOW)
        bench.checkpointer.save()
        assert bench.state.writers() == {}
        assert (bench.checkpointer.is_noted, bench.told) == (True, [])


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_is_a_writer_of_its_own(bench: Bench) -> None:
    """What its parent has not delivered is its parent's, whatever lock was held at the fork."""
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


def test_expecting_while_another_thread_notes_is_in_order(bench: Bench) -> None:
    """However they meet, what is noted last is not ahead of what is expected."""
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
    assert bench.noted()[TRACES].since <= oldest

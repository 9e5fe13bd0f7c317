from __future__ import annotations

import logging
import os
import signal as signals
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rocketry_otel._export.buffer import Buffer, QueueLimits
from rocketry_otel._export.counters import Counters
from rocketry_otel._export.deferred import catch
from rocketry_otel._export.outage import Outage
from rocketry_otel._export.queue import ExportQueue
from rocketry_otel._export.record_ref import RecordRef
from rocketry_otel._export.responses import Answer, Result
from rocketry_otel._runtime.forks import no_fork
from tests.support.channels import deferred

ACCEPTED = Result(Answer.ACCEPTED)
UNAVAILABLE = Result(Answer.UNAVAILABLE, "down")
REFUSED = Result(Answer.REFUSED, "bad", certain=True)
UNENCODABLE = Result(Answer.REFUSED, "it cannot be encoded", certain=True)
AT_ONCE = QueueLimits(delay=0.0)
LATER = QueueLimits(delay=3600.0)
LONG = 20.0


def soon() -> float:
    """Return a deadline that no test reaches."""
    return time.monotonic() + LONG


class Collector:
    """A destination with chosen answers, which keeps the items that it accepts."""

    name = "http://c"
    takes_encoded = False

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.answer: Callable[[list[Any]], Result] = lambda _: ACCEPTED
        self.tried: list[list[Any]] = []
        self.accepted: list[Any] = []
        self.shutdowns = 0

    def export(self, batch: list[Any]) -> Result:
        with self.changed:
            self.tried.append(list(batch))
            self.changed.notify_all()
        result = self.answer(batch)
        if result.answer is Answer.ACCEPTED:
            self.accepted += batch
        return result

    def shutdown(self) -> None:
        self.shutdowns += 1

    def wait_for_tries(self, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.tried) >= count, LONG)


class Parts:
    """A queue, and the parts around it."""

    def __init__(self) -> None:
        self.collector = Collector()
        self.counters = Counters()
        self.outage = Outage(self.counters)
        self.queues: list[ExportQueue[Any]] = []

    def queue(self, limits: QueueLimits = AT_ONCE) -> ExportQueue[Any]:
        queue: ExportQueue[Any] = ExportQueue(
            "traces", self.collector, limits, self.counters, self.outage
        )
        self.queues.append(queue)
        return queue


@pytest.fixture
def parts() -> Iterator[Parts]:
    """Parts that are closed after the test."""
    parts = Parts()
    yield parts
    for queue in parts.queues:
        close(queue, 0.0)
        if queue._thread is not None:
            join(queue)  # so that its lines are not in the next test's log


def flush(queue: ExportQueue[Any], timeout: float = LONG) -> bool:
    """Flush, with a time limit in seconds from now."""
    return queue.wait_for(queue.hurry(), time.monotonic() + timeout)


def close(queue: ExportQueue[Any], timeout: float = LONG) -> None:
    """Close, with a time limit in seconds from now."""
    queue.begin_closing(time.monotonic() + timeout)
    queue.finish_closing()


def end(queue: ExportQueue[Any], timeout: float = LONG) -> None:
    """Close a queue, and wait for its thread to end."""
    close(queue, timeout)
    join(queue)


def join(queue: ExportQueue[Any]) -> None:
    """Wait for the thread of a queue to end."""
    assert queue._thread is not None
    queue._thread.join(LONG)
    assert not queue._thread.is_alive()


class Gate:
    """An answer that comes when the test opens it."""

    def __init__(self, result: Result = ACCEPTED) -> None:
        self.result = result
        self.asked = threading.Event()
        self.opened = threading.Event()

    def __call__(self, batch: list[Any]) -> Result:
        self.asked.set()
        assert self.opened.wait(LONG)
        return self.result


def test_items_arrive_in_order(parts: Parts) -> None:
    """They are counted, and a flush returns true."""
    queue = parts.queue()
    for number in range(10):
        queue.put(number)
    assert flush(queue) is True
    assert parts.collector.accepted == list(range(10))
    assert parts.counters.of("traces", "delivered") == {"": 10}


def test_flush_of_nothing_is_true(parts: Parts) -> None:
    """An empty queue makes no request."""
    assert flush(parts.queue(), 0.0) is True
    assert parts.collector.tried == []


def test_item_is_sent_after_its_delay(parts: Parts) -> None:
    """Without a flush an item waits for others until the delay is over."""
    queue = parts.queue(QueueLimits(delay=0.1))
    queue.put(1)
    queue.put(2)
    parts.collector.wait_for_tries(1)
    assert parts.collector.tried == [[1, 2]]


def test_full_batch_is_sent_at_once(parts: Parts) -> None:
    """A full batch does not wait, and no batch is larger."""
    queue = parts.queue(QueueLimits(batch=3, delay=3600.0))
    for number in range(7):
        queue.put(number)
    parts.collector.wait_for_tries(2)
    assert parts.collector.tried == [[0, 1, 2], [3, 4, 5]]
    assert flush(queue) is True
    assert parts.collector.tried[2:] == [[6]]


def test_flush_is_false_at_its_deadline(parts: Parts) -> None:
    """A later flush is true when all items have arrived."""
    parts.collector.answer = gate = Gate()
    queue = parts.queue()
    queue.put(1)
    assert flush(queue, 0.01) is False
    gate.opened.set()
    assert flush(queue, 1e12) is True


@pytest.mark.parametrize("result", [REFUSED, Result(Answer.ACCEPTED, "no", rejected=1)])
def test_flush_stays_false_after_a_loss(parts: Parts, result: Result) -> None:
    """An item that the collector has refused never counts as arrived."""
    queue = parts.queue()
    parts.collector.answer = lambda _: result
    queue.put(1)
    assert flush(queue) is False
    parts.collector.answer = lambda _: ACCEPTED
    queue.put(2)
    assert flush(queue) is False
    assert parts.counters.of("traces", "failed") == {"refused": 1}
    assert parts.counters.of("traces", "delivered") == {"": 1}


def test_partial_success_counts_both_parts(parts: Parts, caplog: pytest.LogCaptureFixture) -> None:
    """Rejected items count as refused, the others as delivered, and the log has the reason."""
    queue = parts.queue(LATER)
    parts.collector.answer = lambda _: Result(Answer.ACCEPTED, "too old", rejected=2)
    for number in range(5):
        queue.put(number)
    assert flush(queue) is False
    assert parts.counters.of("traces", "delivered") == {"": 3}
    assert parts.counters.of("traces", "failed") == {"refused": 2}
    end(queue)
    assert [record.getMessage() for record in caplog.records] == [
        (
            "http://c refused 2 of the traces: too old. Refused items are counted, and kept as "
            "dead letters if a repository has them; further refusals are logged once an hour."
        )
    ]


def test_rejected_count_is_bounded(parts: Parts) -> None:
    """A collector that miscounts does not make our counts wrong."""
    queue = parts.queue()
    parts.collector.answer = lambda _: Result(Answer.ACCEPTED, "", rejected=1000)
    queue.put(1)
    assert flush(queue) is False
    assert parts.counters.of("traces", "failed") == {"refused": 1}
    assert parts.counters.of("traces", "delivered") == {}


def test_items_arrive_in_order_after_an_outage(
    parts: Parts, caplog: pytest.LogCaptureFixture
) -> None:
    """Each arrives once, and the log has a line at the begin and the end."""
    answers = iter([UNAVAILABLE, UNAVAILABLE])
    parts.collector.answer = lambda _: next(answers, ACCEPTED)
    queue = parts.queue(QueueLimits(batch=2, delay=0.0))
    for number in range(4):
        queue.put(number)
    assert flush(queue) is True
    assert parts.collector.accepted == [0, 1, 2, 3]
    end(queue)
    begin, over = [record.getMessage() for record in caplog.records]
    assert begin.startswith("Telemetry does not get through to http://c: down. ")
    assert over.startswith("Telemetry gets through to http://c again after ")
    assert over.endswith(" s.")


def test_poison_item_costs_no_neighbour(parts: Parts) -> None:
    """A batch that cannot be encoded is halved until the bad item is alone."""
    parts.collector.answer = lambda batch: UNENCODABLE if 13 in batch else ACCEPTED
    queue = parts.queue(LATER)
    for number in range(20):
        queue.put(number)
    assert flush(queue) is False
    assert parts.collector.accepted == [number for number in range(20) if number != 13]
    assert parts.counters.of("traces", "failed") == {"refused": 1}
    assert parts.counters.of("traces", "delivered") == {"": 19}


def test_refused_items_let_others_pass(parts: Parts) -> None:
    """That holds for a whole batch of them, before any acceptance."""
    refused = Result(Answer.REFUSED, "HTTP 400")
    parts.collector.answer = lambda batch: refused if min(batch) < 4 else ACCEPTED
    queue = parts.queue(QueueLimits(size=100, batch=4, delay=60.0))
    with queue._changed:  # no batch is taken before all items are there
        for number in range(20):
            queue.put(number)
    assert flush(queue) is False
    # The last one is sent again, to see whether the destination refuses everything.
    assert parts.collector.accepted == [*range(4, 20), 19]
    assert parts.counters.of("traces", "failed") == {"refused": 4}


def test_outage_between_halves_loses_nothing(parts: Parts) -> None:
    """The halves that were not sent are sent later, in order."""
    seen = []

    def answer(batch: list[Any]) -> Result:
        seen.append(list(batch))
        if len(batch) > 2:
            return UNENCODABLE
        return UNAVAILABLE if len(seen) == 4 else ACCEPTED

    parts.collector.answer = answer
    queue = parts.queue(LATER)
    for number in range(8):
        queue.put(number)
    assert flush(queue) is True
    assert seen[:4] == [list(range(8)), [0, 1, 2, 3], [0, 1], [2, 3]]
    assert parts.collector.accepted == list(range(8))


def test_full_queue_drops_the_oldest(parts: Parts) -> None:
    """While an export hangs, the queue keeps the newest items and counts the dropped ones."""
    parts.collector.answer = gate = Gate()
    queue = parts.queue(QueueLimits(size=3, batch=1, delay=0.0))
    queue.put("in flight")
    assert gate.asked.wait(LONG)
    for number in range(5):
        queue.put(number)
    assert parts.counters.of("traces", "dropped") == {"queue_full": 2}
    gate.opened.set()
    assert flush(queue) is False
    assert parts.collector.accepted == ["in flight", 2, 3, 4]


def test_returning_batch_is_dropped_first(parts: Parts) -> None:
    """The items of a failed export are older than the waiting ones."""
    parts.collector.answer = gate = Gate(UNAVAILABLE)
    queue = parts.queue(QueueLimits(size=3, batch=2, delay=0.0))
    queue.put("a")
    queue.put("b")
    assert gate.asked.wait(LONG)
    for number in range(2):
        queue.put(number)
    parts.collector.answer = lambda _: ACCEPTED
    gate.opened.set()
    assert flush(queue) is False
    assert len(parts.collector.accepted) == 3
    assert parts.collector.accepted[-2:] == [0, 1]
    assert parts.counters.of("traces", "dropped") == {"queue_full": 1}


def test_closing_sends_the_last_items(parts: Parts) -> None:
    """They do not wait for their delay, and the destination is shut down once."""
    queue = parts.queue(LATER)
    queue.put(1)
    close(queue)
    close(queue)
    queue.put(2)
    assert parts.collector.accepted == [1]
    assert parts.collector.shutdowns == 1
    assert parts.counters.of("traces", "dropped") == {"closed": 1}
    assert flush(queue) is True


def test_closed_queue_leaves_live_items(parts: Parts) -> None:
    """Items that are sent again are not left: catch-up knows that they were not taken."""
    queue = parts.queue()
    close(queue)
    queue.put(1, RecordRef(10, "etl", "run"))
    queue.put(2, RecordRef(20, "etl", "run", {queue.name: 0}))
    assert queue.ask(lambda held: held.overflow) == (10, 1, 10)
    generation = queue.generation
    assert queue.settled_until(1, generation) is None
    assert parts.counters.of("traces", "dropped") == {}
    queue.reopen()
    assert queue.has_overflow is True
    assert queue.settled_until(1, generation) is None  # catch-up does not know that it was sent
    assert queue.settled_until(1, queue.generation) == 1


def test_settled_position_is_bounded(parts: Parts) -> None:
    """Items of an earlier turn may have later positions."""
    parts.collector.answer = gate = Gate()
    queue = parts.queue()
    queue.put(1, RecordRef(10, "etl", "run", {queue.name: 40}))
    assert queue.settled_until(5, queue.generation) == 5
    assert queue.settled_until(50, queue.generation) == 40
    gate.opened.set()
    assert flush(queue) is True
    assert queue.settled_until(50, queue.generation) == 50


def test_answer_of_an_earlier_generation_is_ignored(parts: Parts) -> None:
    """Items after the reopening are in flight all the same, sent by one thread."""
    parts.collector.answer = before = Gate(UNAVAILABLE)
    queue = parts.queue()
    queue.put(1, RecordRef(10, "etl", "run"))
    assert before.asked.wait(LONG)
    previous = queue._thread
    close(queue, 0.01)
    queue.reopen()
    parts.collector.answer = after = Gate()
    queue.put(2, None)
    assert after.asked.wait(LONG)
    before.opened.set()
    assert previous is not None
    previous.join(LONG)
    assert previous.is_alive() is False
    assert queue.ask(lambda held: [entry.item for entry in held.in_flight]) == [2]
    after.opened.set()
    assert flush(queue, 0.0) is False  # catch-up sends the overflow again
    assert parts.collector.tried == [[1], [2]]


def test_closing_queue_is_not_reopened(parts: Parts) -> None:
    """Its items stay in place."""
    parts.collector.answer = gate = Gate()
    queue = parts.queue()
    queue.put(1)
    assert gate.asked.wait(LONG)
    queue.put(2)
    queue.begin_closing(time.monotonic() + LONG)
    queue.reopen()
    assert queue.ask(Buffer.count) == 2
    gate.opened.set()
    queue.finish_closing()
    assert parts.collector.accepted == [1, 2]


def test_record_of_another_channel_is_ignored(parts: Parts) -> None:
    """Each channel sends again only the records that it has missed."""
    queue = parts.queue()
    queue.put(1, RecordRef(10, "etl", "run", {"logs http://c": 0}))
    assert flush(queue) is True
    assert (parts.collector.tried, queue.sent_again) == ([], 0)


def test_closing_has_two_steps(parts: Parts) -> None:
    """All queues begin to close before one is waited for."""
    queue = parts.queue()
    queue.finish_closing()
    queue.put(1)
    assert flush(queue) is True
    assert parts.collector.shutdowns == 0


def test_closing_queue_takes_no_items(parts: Parts) -> None:
    """A late item is dropped and counted."""
    queue = parts.queue()
    queue.begin_closing(soon())
    queue.put(1)
    assert parts.counters.of("traces", "dropped") == {"closed": 1}
    queue.finish_closing()
    assert parts.collector.tried == []


def test_closing_keeps_its_time_limit(parts: Parts) -> None:
    """A hanging export is left behind, and its items are counted once."""
    parts.collector.answer = gate = Gate()
    queue = parts.queue(QueueLimits(batch=2, delay=0.0))
    for number in range(5):
        queue.put(number)
    assert gate.asked.wait(LONG)
    close(queue, 0.05)
    assert parts.counters.of("traces", "dropped") == {"shutdown": 5}
    assert flush(queue, 0.0) is False
    gate.opened.set()
    join(queue)
    assert len(parts.collector.tried) == 1
    assert parts.counters.of("traces", "delivered") == {}


def test_batch_failing_after_the_end_is_not_repeated(
    parts: Parts, caplog: pytest.LogCaptureFixture
) -> None:
    """Items given up at the end stay given up, and the end is no outage."""
    parts.collector.answer = gate = Gate(UNAVAILABLE)
    queue = parts.queue()
    queue.put(1)
    assert gate.asked.wait(LONG)
    close(queue, 0.01)
    gate.opened.set()
    join(queue)
    assert parts.collector.tried == [[1]]
    assert parts.counters.of("traces", "dropped") == {"shutdown": 1}
    assert caplog.records == []


def test_closed_queue_sends_no_halves(parts: Parts) -> None:
    """A thread that returns after the end sends nothing."""
    gate = Gate(UNENCODABLE)
    parts.collector.answer = gate
    queue = parts.queue(LATER)
    queue.put(1)
    queue.put(2)
    queue.hurry()
    assert gate.asked.wait(LONG)
    close(queue, 0.01)
    gate.opened.set()
    join(queue)
    assert parts.collector.tried == [[1, 2]]


def test_closing_does_not_wait_for_retry_after(parts: Parts) -> None:
    """A ``Retry-After`` beyond the deadline ends the closing."""
    parts.collector.answer = lambda _: Result(Answer.UNAVAILABLE, "busy", retry_after=3600.0)
    queue = parts.queue()
    queue.put(1)
    parts.collector.wait_for_tries(1)
    began = time.monotonic()
    close(queue, LONG)
    assert time.monotonic() - began < LONG / 2
    assert parts.counters.of("traces", "dropped") == {"shutdown": 1}
    assert len(parts.collector.tried) == 1


def test_closing_tries_until_its_deadline(parts: Parts) -> None:
    """A collector that comes back in time gets the last items."""
    answers = iter([UNAVAILABLE, UNAVAILABLE, ACCEPTED])
    parts.collector.answer = lambda _: next(answers)
    queue = parts.queue(LATER)
    queue.put(1)
    close(queue)
    assert parts.collector.accepted == [1]
    assert parts.counters.of("traces", "dropped") == {}


def test_flush_keeps_retry_after(parts: Parts) -> None:
    """The pause is kept though a caller waits, and the flush returns false."""
    answers = iter([Result(Answer.UNAVAILABLE, "busy", retry_after=0.4), ACCEPTED])
    parts.collector.answer = lambda _: next(answers)
    queue = parts.queue()
    queue.put(1)
    parts.collector.wait_for_tries(1)
    assert flush(queue, 0.01) is False
    assert len(parts.collector.tried) == 1
    assert flush(queue) is True


def test_flush_shortens_a_long_pause(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """A waiting caller does not wait for the pauses of a long outage."""
    monkeypatch.setattr("rocketry_otel._export.queue.pause_after", lambda _: 3600.0)
    answers = iter([UNAVAILABLE, ACCEPTED])
    parts.collector.answer = lambda _: next(answers)
    queue = parts.queue()
    queue.put(1)
    parts.collector.wait_for_tries(1)
    assert flush(queue) is True


def test_closing_ends_a_pause(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pausing thread ends with its queue."""
    monkeypatch.setattr("rocketry_otel._export.queue.pause_after", lambda _: 3600.0)
    parts.collector.answer = lambda _: UNAVAILABLE
    queue = parts.queue()
    queue.put(1)
    parts.collector.wait_for_tries(1)
    close(queue, 0.0)
    join(queue)
    assert parts.counters.of("traces", "dropped") == {"shutdown": 1}


def test_put_never_blocks(parts: Parts) -> None:
    """The collector hangs and the queue is full, and ``put`` returns at once."""
    parts.collector.answer = gate = Gate()
    queue = parts.queue(QueueLimits(size=10, batch=5, delay=0.0))
    for number in range(1000):
        queue.put(number)
    assert gate.opened.is_set() is False
    dropped = parts.counters.of("traces", "dropped")["queue_full"]
    assert 985 <= dropped <= 990
    gate.opened.set()
    assert flush(queue) is False
    assert parts.counters.total("traces", "delivered") == 1000 - dropped


def test_failed_thread_start_is_repeated(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without threads items wait, and no caller hangs."""

    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    queue = parts.queue()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        queue.put(1)
        assert flush(queue, 3600.0) is False
    assert flush(queue) is True
    assert parts.collector.accepted == [1]


def test_closing_without_a_thread_loses_items(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If no thread can start, closing does not wait for one."""

    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    queue = parts.queue()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        queue.put(1)
        close(queue, 3600.0)
    assert parts.counters.of("traces", "dropped") == {"shutdown": 1}
    assert parts.collector.shutdowns == 1


def test_signal_handler_does_not_deadlock(parts: Parts) -> None:
    """It may hand over an item while its thread is handing over another."""
    queue = parts.queue(LATER)
    with queue._changed:
        queue.put("from the signal handler")
        parts.counters.add("traces", "replayed")
    assert flush(queue) is True
    assert parts.collector.accepted == ["from the signal handler"]


@pytest.mark.usefixtures("_interruptible")
def test_interrupted_flush_leaves_the_queue_usable(parts: Parts) -> None:
    """Ctrl-C ends a flush at once, and the next one works."""
    parts.collector.answer = gate = Gate()
    queue = parts.queue()
    queue.put(1)
    assert gate.asked.wait(LONG)
    main = threading.main_thread().ident
    assert main is not None
    threading.Timer(0.05, lambda: signals.pthread_kill(main, signals.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        flush(queue)
    gate.opened.set()
    queue.put(2)
    assert flush(queue) is True
    assert parts.collector.accepted == [1, 2]


class FlushingHandler(logging.Handler):
    """A handler that flushes under its own lock, as ``logging.shutdown`` does."""

    def emit(self, record: logging.LogRecord) -> None:
        """Do nothing."""


def test_our_log_line_does_not_deadlock_a_flush(
    parts: Parts,
) -> None:
    """A flush that holds the lock of a log handler keeps its time limit."""
    handler = FlushingHandler()
    logger = logging.getLogger("rocketry_otel")
    logger.addHandler(handler)
    try:
        answers = iter([UNAVAILABLE, ACCEPTED])
        parts.collector.answer = lambda _: next(answers)
        queue = parts.queue()
        handler.acquire()
        try:
            queue.put(1)
            parts.collector.wait_for_tries(1)
            assert flush(queue, 0.05) is False
        finally:
            handler.release()
        assert flush(queue) is True
    finally:
        logger.removeHandler(handler)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_child_sends_only_its_items(parts: Parts) -> None:
    """A child has its own queue and thread, and waits for no lock of its parent."""
    parts.collector.answer = gate = Gate()
    queue = parts.queue(LATER)
    queue.put("parent's, in flight")
    queue.hurry()
    assert gate.asked.wait(LONG)
    queue.put("parent's, waiting")
    held, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with queue._changed:
            held.set()
            let_go.wait(LONG)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(LONG)
    pid = os.fork()
    if pid == 0:
        parts.collector.answer = lambda _: ACCEPTED
        queue.put("child's")
        ok = flush(queue) and parts.collector.accepted == ["child's"]
        os._exit(0 if ok else 1)
    let_go.set()
    holder.join()
    gate.opened.set()
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert flush(queue) is True
    assert parts.collector.accepted == ["parent's, in flight", "parent's, waiting"]


def test_deferred_items_are_made_on_the_thread_of_the_queue(parts: Parts) -> None:
    """They keep their place among the others, and are made once, also if they are sent twice."""
    answers = [UNAVAILABLE, ACCEPTED]
    parts.collector.answer = lambda _: answers.pop(0) if answers else ACCEPTED
    made_by: list[str] = []

    def make() -> None:
        made_by.append(threading.current_thread().name)
        catch("made")

    queue = parts.queue(LATER)
    queue.put("first")
    queue.put(deferred(make, made_by.append))
    queue.put("last")
    assert flush(queue)
    assert parts.collector.tried == [["first", "made", "last"]] * 2
    assert made_by == ["rocketry-otel-traces"]
    assert parts.counters.of("traces", "delivered") == {"": 3}


def test_deferred_item_that_cannot_be_made_costs_no_other(parts: Parts) -> None:
    """Its error is reported; one that a provider makes none of is settled in silence."""
    errors: list[Exception] = []

    def fail() -> None:
        raise ValueError("a limit of the user's")

    queue = parts.queue(LATER)
    queue.put(deferred(fail, errors.append))
    queue.put(deferred(lambda: None, errors.append))
    queue.put("other")
    assert flush(queue)
    assert parts.collector.accepted == ["other"]
    assert [str(error) for error in errors] == ["a limit of the user's"]
    assert queue.ask(Buffer.count) == 0


def test_batch_of_items_that_cannot_be_made_is_settled(parts: Parts) -> None:
    """Nothing is sent, and a flush does not wait."""
    errors: list[Exception] = []

    def fail() -> None:
        raise ValueError("a limit of the user's")

    queue = parts.queue(LATER)
    queue.put(deferred(fail, errors.append))
    assert flush(queue)
    assert parts.collector.tried == []
    assert len(errors) == 1


def test_item_is_made_while_the_queue_closes(parts: Parts) -> None:
    """The deadline comes first: the item is given up, and counted once."""
    making, closed = threading.Event(), threading.Event()

    def make() -> None:
        making.set()
        closed.wait(LONG)
        catch("late")

    queue = parts.queue()
    queue.put(deferred(make))
    assert making.wait(LONG)
    close(queue, 0.0)
    closed.set()
    join(queue)
    assert parts.collector.tried == []
    assert parts.counters.of("traces", "dropped") == {"shutdown": 1}


def test_fork_waits_while_an_item_is_made(parts: Parts) -> None:
    """A child that is forked meanwhile could inherit a lock of the SDK."""
    forked = threading.Event()
    seen: list[bool] = []

    def fork() -> None:
        no_fork.before_fork()
        forked.set()
        no_fork.after_fork_in_parent()

    other = threading.Thread(target=fork)

    def make() -> None:
        other.start()
        seen.append(forked.wait(0.2))
        catch("made")

    queue = parts.queue(LATER)
    queue.put(deferred(make))
    assert flush(queue)
    other.join(LONG)
    assert seen == [False]
    assert forked.is_set()
    assert parts.collector.accepted == ["made"]

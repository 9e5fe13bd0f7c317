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
from rocketry_otel._export.outage import Outage
from rocketry_otel._export.queue import ExportQueue
from rocketry_otel._export.record_ref import RecordRef
from rocketry_otel._export.responses import Answer, Result

ACCEPTED = Result(Answer.ACCEPTED)
UNAVAILABLE = Result(Answer.UNAVAILABLE, "down")
REFUSED = Result(Answer.REFUSED, "bad", certain=True)
UNENCODABLE = Result(Answer.REFUSED, "it cannot be encoded", certain=True)
AT_ONCE = QueueLimits(delay=0.0)
LATER = QueueLimits(delay=3600.0)
LONG = 20.0


def soon() -> float:
    """Return a deadline that no test is to reach."""
    return time.monotonic() + LONG


class Collector:
    """A destination that answers as it is told and keeps what it has accepted."""

    name = "http://c"

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
    """A queue and what it works with."""

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
    """Parts that are closed when the test is over."""
    parts = Parts()
    yield parts
    for queue in parts.queues:
        close(queue, 0.0)
        if queue._thread is not None:
            join(queue)  # so that no line of it gets into the next test's log


def flush(queue: ExportQueue[Any], timeout: float = LONG) -> bool:
    """Flush, with a time limit in seconds from now."""
    return queue.wait_for(queue.hurry(), time.monotonic() + timeout)


def close(queue: ExportQueue[Any], timeout: float = LONG) -> None:
    """Close, with a time limit in seconds from now."""
    queue.begin_closing(time.monotonic() + timeout)
    queue.finish_closing()


def end(queue: ExportQueue[Any], timeout: float = LONG) -> None:
    """Close a queue and see its thread end."""
    close(queue, timeout)
    join(queue)


def join(queue: ExportQueue[Any]) -> None:
    """See the thread of a queue end."""
    assert queue._thread is not None
    queue._thread.join(LONG)
    assert not queue._thread.is_alive()


class Gate:
    """An answer that comes when the test lets it come."""

    def __init__(self, result: Result = ACCEPTED) -> None:
        self.result = result
        self.asked = threading.Event()
        self.opened = threading.Event()

    def __call__(self, batch: list[Any]) -> Result:
        self.asked.set()
        assert self.opened.wait(LONG)
        return self.result


def test_items_arrive_in_their_order_and_are_counted(parts: Parts) -> None:
    """What is handed over arrives, and a flush says so."""
    queue = parts.queue()
    for number in range(10):
        queue.put(number)
    assert flush(queue) is True
    assert parts.collector.accepted == list(range(10))
    assert parts.counters.of("traces", "delivered") == {"": 10}


def test_a_flush_of_nothing_is_true_and_makes_no_request(parts: Parts) -> None:
    """With nothing handed over nothing is missing."""
    assert flush(parts.queue(), 0.0) is True
    assert parts.collector.tried == []


def test_an_item_goes_when_its_delay_is_over(parts: Parts) -> None:
    """Without a flush an item waits as long as the delay says, and others go with it."""
    queue = parts.queue(QueueLimits(delay=0.1))
    queue.put(1)
    queue.put(2)
    parts.collector.wait_for_tries(1)
    assert parts.collector.tried == [[1, 2]]


def test_a_full_batch_goes_at_once(parts: Parts) -> None:
    """A batch that is full does not wait for its delay, and none is larger."""
    queue = parts.queue(QueueLimits(batch=3, delay=3600.0))
    for number in range(7):
        queue.put(number)
    parts.collector.wait_for_tries(2)
    assert parts.collector.tried == [[0, 1, 2], [3, 4, 5]]
    assert flush(queue) is True
    assert parts.collector.tried[2:] == [[6]]


def test_a_flush_is_false_when_its_time_is_up_and_true_once_all_is_there(parts: Parts) -> None:
    """A flush tells how things stand at its end, whenever that is."""
    parts.collector.answer = gate = Gate()
    queue = parts.queue()
    queue.put(1)
    assert flush(queue, 0.01) is False
    gate.opened.set()
    assert flush(queue, 1e12) is True


@pytest.mark.parametrize("result", [REFUSED, Result(Answer.ACCEPTED, "no", rejected=1)])
def test_a_flush_stays_false_once_something_was_lost(parts: Parts, result: Result) -> None:
    """What a collector has refused, in whole or in part, is never said to have arrived."""
    queue = parts.queue()
    parts.collector.answer = lambda _: result
    queue.put(1)
    assert flush(queue) is False
    parts.collector.answer = lambda _: ACCEPTED
    queue.put(2)
    assert flush(queue) is False
    assert parts.counters.of("traces", "failed") == {"refused": 1}
    assert parts.counters.of("traces", "delivered") == {"": 1}


def test_a_partial_success_counts_both_parts(
    parts: Parts, caplog: pytest.LogCaptureFixture
) -> None:
    """What was left out is counted as refused, the rest as delivered, with the reason in a line."""
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
            "http://c refused 2 of the traces: too old. What is refused is counted, and set "
            "aside where a repository has it; further refusals are told of once an hour."
        )
    ]


def test_a_collector_cannot_refuse_more_than_it_got(parts: Parts) -> None:
    """A collector that miscounts does not make ours wrong."""
    queue = parts.queue()
    parts.collector.answer = lambda _: Result(Answer.ACCEPTED, "", rejected=1000)
    queue.put(1)
    assert flush(queue) is False
    assert parts.counters.of("traces", "failed") == {"refused": 1}
    assert parts.counters.of("traces", "delivered") == {}


def test_what_did_not_get_through_is_tried_again_in_its_order(
    parts: Parts, caplog: pytest.LogCaptureFixture
) -> None:
    """After an outage everything arrives, once and in order, with a line at either end."""
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


def test_a_poison_item_does_not_cost_its_neighbours(parts: Parts) -> None:
    """A batch that cannot be encoded is halved until what is wrong with it stands alone."""
    parts.collector.answer = lambda batch: UNENCODABLE if 13 in batch else ACCEPTED
    queue = parts.queue(LATER)
    for number in range(20):
        queue.put(number)
    assert flush(queue) is False
    assert parts.collector.accepted == [number for number in range(20) if number != 13]
    assert parts.counters.of("traces", "failed") == {"refused": 1}
    assert parts.counters.of("traces", "delivered") == {"": 19}


def test_what_is_refused_at_the_head_lets_others_pass(parts: Parts) -> None:
    """Though a batch has nothing else, and nothing was ever accepted before."""
    refused = Result(Answer.REFUSED, "HTTP 400")
    parts.collector.answer = lambda batch: refused if min(batch) < 4 else ACCEPTED
    queue = parts.queue(QueueLimits(size=100, batch=4, delay=60.0))
    for number in range(20):
        queue.put(number)
    assert flush(queue) is False
    assert sorted(parts.collector.accepted) == sorted([*range(4, 20), parts.collector.accepted[-1]])
    assert parts.counters.of("traces", "failed") == {"refused": 4}


def test_an_outage_in_the_midst_of_halves_loses_nothing(parts: Parts) -> None:
    """Halves that were not sent when the collector went away are sent later, in their order."""
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


def test_the_oldest_are_dropped_from_a_full_queue(parts: Parts) -> None:
    """A queue that overflows while an export hangs keeps the newest, and counts what it drops."""
    parts.collector.answer = gate = Gate()
    queue = parts.queue(QueueLimits(size=3, batch=1, delay=0.0))
    queue.put("under way")
    assert gate.asked.wait(LONG)
    for number in range(5):
        queue.put(number)
    assert parts.counters.of("traces", "dropped") == {"queue_full": 2}
    gate.opened.set()
    assert flush(queue) is False
    assert parts.collector.accepted == ["under way", 2, 3, 4]


def test_the_oldest_are_dropped_when_a_batch_comes_back_to_a_full_queue(parts: Parts) -> None:
    """What comes back from a failed export is older than what waits, and goes first."""
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


def test_closing_sends_what_waits_and_shuts_the_destination_down_once(parts: Parts) -> None:
    """What waits for its delay goes before the end, and nothing after it."""
    queue = parts.queue(LATER)
    queue.put(1)
    close(queue)
    close(queue)
    queue.put(2)
    assert parts.collector.accepted == [1]
    assert parts.collector.shutdowns == 1
    assert parts.counters.of("traces", "dropped") == {"closed": 1}
    assert flush(queue) is True


def test_what_comes_from_a_repository_after_the_end_is_left_to_it(parts: Parts) -> None:
    """What is sent again is not: whoever sends it knows that it was not taken."""
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
    assert (
        queue.settled_until(1, generation) is None
    )  # whoever handed it over does not know that it went
    assert queue.settled_until(1, queue.generation) == 1


def test_no_more_is_settled_than_was_handed_over(parts: Parts) -> None:
    """What an earlier turn has handed over has positions of its own, which may be further on."""
    parts.collector.answer = gate = Gate()
    queue = parts.queue()
    queue.put(1, RecordRef(10, "etl", "run", {queue.name: 40}))
    assert queue.settled_until(5, queue.generation) == 5
    assert queue.settled_until(50, queue.generation) == 40
    gate.opened.set()
    assert flush(queue) is True
    assert queue.settled_until(50, queue.generation) == 50


def test_an_answer_from_before_a_reopening_is_nobodys(parts: Parts) -> None:
    """What comes after it is under way all the same, and sent by one thread."""
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
    assert flush(queue, 0.0) is False  # what was left is somebody's to send again
    assert parts.collector.tried == [[1], [2]]


def test_a_queue_that_is_closing_is_not_opened(parts: Parts) -> None:
    """What waits stays where it is."""
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


def test_a_record_that_is_not_for_a_queue_passes_it_by(parts: Parts) -> None:
    """Each channel sends again what it has missed itself."""
    queue = parts.queue()
    queue.put(1, RecordRef(10, "etl", "run", {"logs http://c": 0}))
    assert flush(queue) is True
    assert (parts.collector.tried, queue.sent_again) == ([], 0)


def test_a_queue_whose_closing_was_not_begun_is_not_closed(parts: Parts) -> None:
    """Closing has two steps, so that all queues send at the same time."""
    queue = parts.queue()
    queue.finish_closing()
    queue.put(1)
    assert flush(queue) is True
    assert parts.collector.shutdowns == 0


def test_nothing_is_taken_in_while_closing(parts: Parts) -> None:
    """An item that comes while the last ones are sent is dropped, and counted."""
    queue = parts.queue()
    queue.begin_closing(soon())
    queue.put(1)
    assert parts.counters.of("traces", "dropped") == {"closed": 1}
    queue.finish_closing()
    assert parts.collector.tried == []


def test_closing_keeps_its_time_limit_and_counts_what_is_lost(parts: Parts) -> None:
    """An export that hangs is left behind, and what it does later is counted no second time."""
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


def test_a_batch_that_fails_after_the_end_is_not_tried_again(parts: Parts) -> None:
    """What was given up at the end stays given up."""
    parts.collector.answer = gate = Gate(UNAVAILABLE)
    queue = parts.queue()
    queue.put(1)
    assert gate.asked.wait(LONG)
    close(queue, 0.01)
    gate.opened.set()
    join(queue)
    assert parts.collector.tried == [[1]]
    assert parts.counters.of("traces", "dropped") == {"shutdown": 1}


def test_halves_that_are_left_at_the_end_are_not_sent(parts: Parts) -> None:
    """The thread that comes back after the end sends nothing more."""
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


def test_closing_does_not_wait_for_a_collector_that_wants_to_be_left_alone(parts: Parts) -> None:
    """With a ``Retry-After`` beyond the time limit there is nothing to wait for."""
    parts.collector.answer = lambda _: Result(Answer.UNAVAILABLE, "busy", retry_after=3600.0)
    queue = parts.queue()
    queue.put(1)
    parts.collector.wait_for_tries(1)
    began = time.monotonic()
    close(queue, LONG)
    assert time.monotonic() - began < LONG / 2
    assert parts.counters.of("traces", "dropped") == {"shutdown": 1}
    assert len(parts.collector.tried) == 1


def test_closing_tries_again_as_long_as_there_is_time(parts: Parts) -> None:
    """A collector that comes back within the time limit gets what waits."""
    answers = iter([UNAVAILABLE, UNAVAILABLE, ACCEPTED])
    parts.collector.answer = lambda _: next(answers)
    queue = parts.queue(LATER)
    queue.put(1)
    close(queue)
    assert parts.collector.accepted == [1]
    assert parts.counters.of("traces", "dropped") == {}


def test_a_flush_does_not_hurry_a_collector_that_wants_to_be_left_alone(parts: Parts) -> None:
    """A ``Retry-After`` is kept even if somebody waits, and the flush tells the truth."""
    answers = iter([Result(Answer.UNAVAILABLE, "busy", retry_after=0.4), ACCEPTED])
    parts.collector.answer = lambda _: next(answers)
    queue = parts.queue()
    queue.put(1)
    parts.collector.wait_for_tries(1)
    assert flush(queue, 0.01) is False
    assert len(parts.collector.tried) == 1
    assert flush(queue) is True


def test_a_flush_shortens_a_long_pause(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who waits does not wait for the pauses of a long outage."""
    monkeypatch.setattr("rocketry_otel._export.queue.pause_after", lambda _: 3600.0)
    answers = iter([UNAVAILABLE, ACCEPTED])
    parts.collector.answer = lambda _: next(answers)
    queue = parts.queue()
    queue.put(1)
    parts.collector.wait_for_tries(1)
    assert flush(queue) is True


def test_the_end_cuts_a_pause_short(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that pauses comes to its end when its queue does."""
    monkeypatch.setattr("rocketry_otel._export.queue.pause_after", lambda _: 3600.0)
    parts.collector.answer = lambda _: UNAVAILABLE
    queue = parts.queue()
    queue.put(1)
    parts.collector.wait_for_tries(1)
    close(queue, 0.0)
    join(queue)
    assert parts.counters.of("traces", "dropped") == {"shutdown": 1}


def test_put_returns_while_the_collector_hangs_and_the_queue_is_full(parts: Parts) -> None:
    """Handing over waits for nothing, however bad things are."""
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


def test_a_thread_that_cannot_be_started_is_tried_again(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine out of threads items wait, and nobody waits for them in vain."""

    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    queue = parts.queue()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        queue.put(1)
        assert flush(queue, 3600.0) is False
    assert flush(queue) is True
    assert parts.collector.accepted == [1]


def test_closing_without_a_thread_loses_what_waits(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When there can be no thread any more closing does not wait for one."""

    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    queue = parts.queue()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        queue.put(1)
        close(queue, 3600.0)
    assert parts.counters.of("traces", "dropped") == {"shutdown": 1}
    assert parts.collector.shutdowns == 1


def test_a_signal_handler_that_logs_in_between_does_not_deadlock(parts: Parts) -> None:
    """A signal handler may hand over an item while its thread is handing over another."""
    queue = parts.queue(LATER)
    with queue._changed:
        queue.put("from the signal handler")
        parts.counters.add("traces", "replayed")
    assert flush(queue) is True
    assert parts.collector.accepted == ["from the signal handler"]


@pytest.mark.usefixtures("_interruptible")
def test_an_interrupted_flush_leaves_the_queue_in_order(parts: Parts) -> None:
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
    """A handler whose lock is held while somebody flushes, as ``logging.shutdown`` does."""

    def emit(self, record: logging.LogRecord) -> None:
        """Do nothing."""


def test_a_line_of_ours_does_not_deadlock_with_a_flush_under_a_handlers_lock(
    parts: Parts,
) -> None:
    """A flush that holds the lock our line waits for still keeps its time limit."""
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
def test_a_forked_child_sends_its_own_items_alone(parts: Parts) -> None:
    """A child has its own queue and thread, whatever lock its parent held at the fork."""
    parts.collector.answer = gate = Gate()
    queue = parts.queue(LATER)
    queue.put("parent's, under way")
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
    assert parts.collector.accepted == ["parent's, under way", "parent's, waiting"]

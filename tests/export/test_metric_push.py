from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rocketry_otel._export import metric_push
from rocketry_otel._export.counters import Counters
from rocketry_otel._export.metric_push import MetricPush
from rocketry_otel._export.outage import Outage
from rocketry_otel._export.responses import Answer, Result

ACCEPTED = Result(Answer.ACCEPTED)
UNAVAILABLE = Result(Answer.UNAVAILABLE, "down")
LONG = 20.0


class Parts:
    """A destination, a source of metrics and what works between them."""

    name = "http://c"

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.answer: Callable[[Any], Result] = lambda _: ACCEPTED
        self.collect: Callable[[], Any] = lambda: "metrics"
        self.tried = 0
        self.shutdowns = 0
        self.pushes: list[MetricPush] = []

    def push(self, interval: float = 3600.0) -> MetricPush:
        # The source is looked up each time, so that a test can change it.
        push = MetricPush(lambda: self.collect(), self, interval, Outage(Counters()))  # noqa: PLW0108
        self.pushes.append(push)
        return push

    def export(self, batch: Any) -> Result:
        assert batch == "metrics"
        with self.changed:
            self.tried += 1
            self.changed.notify_all()
        return self.answer(batch)

    def shutdown(self) -> None:
        self.shutdowns += 1

    def wait_for_tries(self, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.tried >= count, LONG)


@pytest.fixture
def parts() -> Iterator[Parts]:
    """Parts that are closed when the test is over."""
    parts = Parts()
    yield parts
    for push in parts.pushes:
        end(push, 0.0)


def flush(push: MetricPush, timeout: float = LONG) -> bool:
    """Flush, with a time limit in seconds from now."""
    return push.wait_for(push.hurry(), time.monotonic() + timeout)


def close(push: MetricPush, timeout: float = LONG) -> None:
    """Close, with a time limit in seconds from now."""
    push.begin_closing(time.monotonic() + timeout)
    push.finish_closing()


def end(push: MetricPush, timeout: float = LONG) -> None:
    """Close, and see the thread end, so that all of its lines are in the log."""
    close(push, timeout)
    if push._thread is not None:
        push._thread.join(LONG)
        assert not push._thread.is_alive()


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the lines in the log."""
    return [record.getMessage() for record in caplog.records]


def test_metrics_are_sent_at_intervals(parts: Parts) -> None:
    """Nobody has to ask for them."""
    parts.push(interval=0.02)
    parts.wait_for_tries(3)


def test_an_interval_of_any_length_is_waited_for(parts: Parts) -> None:
    """An interval beyond what the machine can count to is no error."""
    assert flush(parts.push(interval=1e15)) is True
    assert parts.tried == 1


def test_a_flush_collects_and_sends_at_once(parts: Parts) -> None:
    """A flush does not wait for the interval, and tells whether the metrics arrived."""
    push = parts.push()
    assert flush(push) is True
    assert flush(push) is True
    assert parts.tried == 2


def test_a_flush_without_metrics_is_true(parts: Parts) -> None:
    """With nothing measured nothing is missing, and nothing is sent."""
    parts.collect = lambda: None
    assert flush(parts.push()) is True
    assert parts.tried == 0


@pytest.mark.parametrize(
    "result",
    [UNAVAILABLE, Result(Answer.REFUSED, "bad"), Result(Answer.ACCEPTED, "no", rejected=1)],
)
def test_a_flush_is_false_if_the_metrics_did_not_arrive(parts: Parts, result: Result) -> None:
    """A part that is left out makes it false; since metrics are sums the next flush is good."""
    push = parts.push()
    parts.answer = lambda _: result
    assert flush(push, 0.1) is False
    parts.answer = lambda _: ACCEPTED
    assert flush(push) is True


def test_a_flush_keeps_its_time_limit(parts: Parts) -> None:
    """An export that hangs makes a flush false when its time is up."""
    opened = threading.Event()

    def hang(_: Any) -> Result:
        opened.wait(LONG)
        return ACCEPTED

    parts.answer = hang
    push = parts.push()
    assert flush(push, 0.02) is False
    opened.set()
    assert flush(push) is True


def test_an_outage_is_one_line_at_its_begin_and_one_at_its_end(
    parts: Parts, caplog: pytest.LogCaptureFixture
) -> None:
    """A flush does not give up at the first failure, and tries again as long as it has time."""
    answers = iter([UNAVAILABLE, UNAVAILABLE])
    parts.answer = lambda _: next(answers, ACCEPTED)
    push = parts.push()
    assert flush(push) is True
    assert parts.tried == 3
    end(push)
    begin, over = lines(caplog)
    assert begin == (
        "Telemetry does not get through to http://c: down. Tasks and their repository go on as "
        "before; it is tried again until it does."
    )
    assert over.startswith("Telemetry gets through to http://c again after ")


def test_a_collector_that_takes_no_metrics_is_told_of_with_the_cure(
    parts: Parts, caplog: pytest.LogCaptureFixture
) -> None:
    """The line about a collector for traces alone says what to do."""
    parts.answer = lambda _: Result(Answer.UNAVAILABLE, "HTTP 404", unknown=True)
    push = parts.push()
    assert flush(push, 0.1) is False
    end(push, 0.0)
    assert len(lines(caplog)) == 1
    assert lines(caplog)[0].endswith(" If it never shall, set OTEL_METRICS_EXPORTER=none.")


@pytest.mark.parametrize(
    ("result", "count"),
    [(Result(Answer.REFUSED, "bad"), 1), (Result(Answer.ACCEPTED, "bad", rejected=7), 7)],
)
def test_a_refusal_is_told_of_and_not_tried_again(
    parts: Parts, caplog: pytest.LogCaptureFixture, result: Result, count: int
) -> None:
    """Refused metrics wait for the next interval: the same ones would be refused again."""
    parts.answer = lambda _: result
    push = parts.push()
    assert flush(push) is False
    end(push)
    assert parts.tried == 2
    assert lines(caplog) == [
        (
            f"http://c refused {count} of the metrics: bad. What is refused is counted, and set "
            "aside where a repository has it; further refusals are told of once an hour."
        )
    ]


def test_a_collector_that_wants_to_be_left_alone_is(parts: Parts) -> None:
    """A ``Retry-After`` is kept, longer than the interval or not, even if somebody waits."""
    answers = iter([Result(Answer.UNAVAILABLE, "busy", retry_after=0.4)])
    parts.answer = lambda _: next(answers, ACCEPTED)
    began = time.monotonic()
    push = parts.push(interval=0.01)
    parts.wait_for_tries(1)
    assert flush(push, 0.05) is False
    assert parts.tried == 1
    assert flush(push) is True
    assert time.monotonic() - began >= 0.4


def test_closing_does_not_wait_for_a_collector_that_wants_to_be_left_alone(parts: Parts) -> None:
    """With a ``Retry-After`` beyond the time limit there is nothing to wait for."""
    parts.answer = lambda _: Result(Answer.UNAVAILABLE, "busy", retry_after=3600.0)
    push = parts.push()
    push.hurry()
    parts.wait_for_tries(1)
    began = time.monotonic()
    end(push)
    assert time.monotonic() - began < LONG / 2
    assert parts.tried == 1


def test_closing_tries_again_as_long_as_there_is_time(parts: Parts) -> None:
    """A collector that comes back within the time limit gets the last metrics."""
    answers = iter([UNAVAILABLE])
    parts.answer = lambda _: next(answers, ACCEPTED)
    push = parts.push()
    end(push)
    assert parts.tried == 2


def test_the_end_cuts_a_pause_short(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that pauses comes to its end when its push does."""
    monkeypatch.setattr(metric_push, "pause_after", lambda _: 3600.0)
    parts.answer = lambda _: UNAVAILABLE
    push = parts.push(interval=3600.0)
    assert flush(push, 0.05) is False
    end(push, 0.0)
    assert parts.tried == 1


def test_metrics_that_cannot_be_collected_do_not_end_the_thread(
    parts: Parts, caplog: pytest.LogCaptureFixture
) -> None:
    """What a callback of the application's raises is told of, and the next collection is made."""

    def fail() -> Any:
        raise RuntimeError("no")

    parts.collect = fail
    push = parts.push()
    assert flush(push) is False
    parts.collect = lambda: "metrics"
    assert flush(push) is True
    end(push)
    assert lines(caplog) == [
        (
            "http://c refused 1 of the metrics: they cannot be collected: RuntimeError: no. What "
            "is refused is counted, and set aside where a repository has it; further refusals are "
            "told of once an hour."
        )
    ]


def test_closing_that_begins_twice_collects_once(parts: Parts) -> None:
    """The thread ends after the last collection, and nobody waits for another one."""
    push = parts.push()
    push.begin_closing(time.monotonic() + LONG)
    thread = push._thread
    assert thread is not None
    thread.join(LONG)
    assert not thread.is_alive()
    began = time.monotonic()
    close(push)
    assert time.monotonic() - began < LONG / 2
    assert (parts.tried, parts.shutdowns) == (1, 1)


def test_closing_sends_for_the_last_time_and_shuts_the_destination_down_once(
    parts: Parts,
) -> None:
    """What was measured since the last interval goes before the end, and nothing after it."""
    push = parts.push()
    push.finish_closing()
    assert parts.shutdowns == 0
    end(push)
    close(push)
    assert parts.tried == 1
    assert parts.shutdowns == 1
    assert flush(push, 0.0) is True


def test_closing_keeps_its_time_limit(parts: Parts) -> None:
    """An export that hangs is left behind."""
    opened = threading.Event()

    def hang(_: Any) -> Result:
        opened.wait(LONG)
        return ACCEPTED

    parts.answer = hang
    push = parts.push()
    push.hurry()
    parts.wait_for_tries(1)
    close(push, 0.02)
    assert parts.shutdowns == 1
    opened.set()
    assert push._thread is not None
    push._thread.join(LONG)
    assert not push._thread.is_alive()
    assert parts.tried == 1


def test_a_thread_that_cannot_be_started_is_tried_again(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine out of threads nobody waits in vain, and the next flush works."""

    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        push = parts.push()
        assert flush(push, 3600.0) is False
    assert flush(push) is True


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_sends_no_metrics(parts: Parts) -> None:
    """A child that sent the sums it inherited would count its parent's runs again."""
    push = parts.push(interval=0.01)
    parts.wait_for_tries(1)
    pid = os.fork()
    if pid == 0:
        before = parts.tried
        mark = push.hurry()
        arrived = push.wait_for(mark, time.monotonic() + LONG)
        close(push)
        push.reopen()
        stays = push.is_closed and push._thread is None
        os._exit(0 if arrived and stays and parts.tried == before and parts.shutdowns == 0 else 1)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert flush(push) is True


def test_pauses_after_failures_are_no_longer_than_the_interval(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an outage metrics are tried at least as often as without one."""
    monkeypatch.setattr(metric_push, "pause_after", lambda _: 3600.0)
    parts.answer = lambda _: UNAVAILABLE
    parts.push(interval=0.01)
    parts.wait_for_tries(3)

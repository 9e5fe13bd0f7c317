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
    """A destination, a source of metrics, and the push between them."""

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
    """Parts that are closed after the test."""
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
    """Close, and wait for the thread to end, so that all its lines are in the log."""
    close(push, timeout)
    if push._thread is not None:
        push._thread.join(LONG)
        assert not push._thread.is_alive()


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the lines in the log."""
    return [record.getMessage() for record in caplog.records]


def test_metrics_are_sent_at_intervals(parts: Parts) -> None:
    """No request is needed."""
    parts.push(interval=0.02)
    parts.wait_for_tries(3)


def test_interval_of_any_length_works(parts: Parts) -> None:
    """An interval beyond the machine's range is no error."""
    assert flush(parts.push(interval=1e15)) is True
    assert parts.tried == 1


def test_flush_sends_at_once(parts: Parts) -> None:
    """A flush does not wait for the interval, and returns whether the metrics arrived."""
    push = parts.push()
    assert flush(push) is True
    assert flush(push) is True
    assert parts.tried == 2


def test_flush_without_metrics_is_true(parts: Parts) -> None:
    """If nothing was measured, nothing is sent or missing."""
    parts.collect = lambda: None
    assert flush(parts.push()) is True
    assert parts.tried == 0


@pytest.mark.parametrize(
    "result",
    [UNAVAILABLE, Result(Answer.REFUSED, "bad"), Result(Answer.ACCEPTED, "no", rejected=1)],
)
def test_flush_is_false_after_a_partial_success(parts: Parts, result: Result) -> None:
    """Metrics are sums, so the next flush is true."""
    push = parts.push()
    parts.answer = lambda _: result
    assert flush(push, 0.1) is False
    parts.answer = lambda _: ACCEPTED
    assert flush(push) is True


def test_flush_keeps_its_time_limit(parts: Parts) -> None:
    """If an export hangs, the flush returns false at the deadline."""
    opened = threading.Event()

    def hang(_: Any) -> Result:
        opened.wait(LONG)
        return ACCEPTED

    parts.answer = hang
    push = parts.push()
    assert flush(push, 0.02) is False
    opened.set()
    assert flush(push) is True


def test_outage_is_logged_twice(parts: Parts, caplog: pytest.LogCaptureFixture) -> None:
    """One line begins it, one ends it, and a flush tries again until its deadline."""
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


def test_collector_without_metrics_is_logged(
    parts: Parts, caplog: pytest.LogCaptureFixture
) -> None:
    """The line has the cure, for a collector that takes only traces."""
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
def test_refusal_is_logged_and_not_repeated(
    parts: Parts, caplog: pytest.LogCaptureFixture, result: Result, count: int
) -> None:
    """The same metrics would be refused again, so the next interval sends new ones."""
    parts.answer = lambda _: result
    push = parts.push()
    assert flush(push) is False
    end(push)
    assert parts.tried == 2
    assert lines(caplog) == [
        (
            f"http://c refused {count} of the metrics: bad. Refused items are counted, and kept "
            "as dead letters if a repository has them; further refusals are logged once an hour."
        )
    ]


def test_retry_after_is_kept(parts: Parts) -> None:
    """The pause may exceed the interval, and a waiting flush does not shorten it."""
    answers = iter([Result(Answer.UNAVAILABLE, "busy", retry_after=0.4)])
    parts.answer = lambda _: next(answers, ACCEPTED)
    began = time.monotonic()
    push = parts.push(interval=0.01)
    parts.wait_for_tries(1)
    assert flush(push, 0.05) is False
    assert parts.tried == 1
    assert flush(push) is True
    assert time.monotonic() - began >= 0.4


def test_closing_does_not_wait_for_retry_after(parts: Parts) -> None:
    """A ``Retry-After`` beyond the deadline ends the closing."""
    parts.answer = lambda _: Result(Answer.UNAVAILABLE, "busy", retry_after=3600.0)
    push = parts.push()
    push.hurry()
    parts.wait_for_tries(1)
    began = time.monotonic()
    end(push)
    assert time.monotonic() - began < LONG / 2
    assert parts.tried == 1


def test_closing_tries_until_its_deadline(parts: Parts) -> None:
    """A collector that comes back in time gets the last metrics."""
    answers = iter([UNAVAILABLE])
    parts.answer = lambda _: next(answers, ACCEPTED)
    push = parts.push()
    end(push)
    assert parts.tried == 2


def test_closing_ends_a_pause(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pausing thread ends with its push."""
    monkeypatch.setattr(metric_push, "pause_after", lambda _: 3600.0)
    parts.answer = lambda _: UNAVAILABLE
    push = parts.push(interval=3600.0)
    assert flush(push, 0.05) is False
    end(push, 0.0)
    assert parts.tried == 1


def test_failed_collection_does_not_end_the_thread(
    parts: Parts, caplog: pytest.LogCaptureFixture
) -> None:
    """An error of the application's callback is logged, and the next collection is made."""

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
            "http://c refused 1 of the metrics: they cannot be collected: RuntimeError: no. "
            "Refused items are counted, and kept as dead letters if a repository has them; further "
            "refusals are logged once an hour."
        )
    ]


def test_last_collection_comes_when_the_others_have_closed(parts: Parts) -> None:
    """What they have sent meanwhile is in it; the one before may be the last in an outage."""
    push = parts.push()
    push.begin_closing(time.monotonic() + LONG)
    push.begin_closing(time.monotonic() + LONG)
    parts.wait_for_tries(1)
    thread = push._thread
    assert thread is not None
    push.finish_closing()
    thread.join(LONG)
    assert not thread.is_alive()
    assert (parts.tried, parts.shutdowns) == (2, 1)


def test_closing_sends_the_last_metrics_once(
    parts: Parts,
) -> None:
    """The last measurements are sent, and the destination is shut down once."""
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


@pytest.mark.parametrize("answer", [Answer.REFUSED, Answer.UNAVAILABLE])
def test_request_that_was_given_up_is_not_reported(
    parts: Parts, caplog: pytest.LogCaptureFixture, answer: Answer
) -> None:
    """The shutdown of the exporter may itself be the cause of its failure."""
    opened = threading.Event()

    def wait(_: Any) -> Result:
        assert opened.wait(LONG)
        return Result(answer, "the exporter is shut down")

    parts.answer = wait
    push = parts.push()
    push.hurry()
    parts.wait_for_tries(1)
    close(push, 0.0)
    opened.set()
    end(push)
    assert parts.tried == 1
    assert lines(caplog) == []


def test_failed_thread_start_is_repeated(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without threads no flush hangs, and the next flush works."""

    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        push = parts.push()
        assert flush(push, 3600.0) is False
    assert flush(push) is True


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_child_sends_no_metrics(parts: Parts) -> None:
    """Its copy of the sums would count the parent's runs twice."""
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


def test_pauses_never_exceed_the_interval(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an outage metrics are sent at least as often as without one."""
    monkeypatch.setattr(metric_push, "pause_after", lambda _: 3600.0)
    parts.answer = lambda _: UNAVAILABLE
    parts.push(interval=0.01)
    parts.wait_for_tries(3)

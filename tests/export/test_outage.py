from __future__ import annotations

import logging
import os
import threading
import time
from typing import TYPE_CHECKING

import pytest

from rocketry_otel._export.counters import Counters
from rocketry_otel._export.outage import Outage

if TYPE_CHECKING:
    from collections.abc import Iterator

BEGIN = (
    "Telemetry does not get through to http://c: refused. Tasks and their repository go on as "
    "before; it is tried again until it does."
)


@pytest.fixture
def counters() -> Counters:
    """Counts of nothing yet."""
    return Counters()


@pytest.fixture
def outage(counters: Counters) -> Outage:
    """An outage that has not begun."""
    return Outage(counters)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the lines in the log."""
    assert {(record.name, record.levelname) for record in caplog.records} <= {
        ("rocketry_otel", "WARNING")
    }
    return [record.getMessage() for record in caplog.records]


def test_an_outage_of_all_signals_is_one_line_at_its_begin_and_one_at_its_end(
    outage: Outage, caplog: pytest.LogCaptureFixture
) -> None:
    """However often and in however many signals it fails, two lines tell of an outage."""
    assert outage.is_on is False
    for _ in range(5):
        for signal in ("traces", "logs", "metrics"):
            outage.failed(signal, "http://c", "refused")
    assert outage.is_on is True
    assert lines(caplog) == [BEGIN]
    for signal in ("traces", "logs", "metrics", "traces"):
        outage.succeeded(signal, "http://c")
    assert outage.is_on is False
    assert lines(caplog) == [
        BEGIN,
        "Telemetry gets through to http://c again after 0 s.",
    ]


def test_the_end_tells_how_much_was_dropped_meanwhile(
    outage: Outage, counters: Counters, caplog: pytest.LogCaptureFixture
) -> None:
    """Only what was dropped between begin and end is told of, of all signals together."""
    counters.add("traces", "dropped", 100, "queue_full")
    outage.failed("traces", "http://c", "refused")
    counters.add("traces", "dropped", 2, "queue_full")
    counters.add("logs", "dropped", 3, "queue_full")
    outage.succeeded("traces", "http://c")
    assert lines(caplog)[1] == (
        "Telemetry gets through to http://c again after 0 s; 5 items were dropped meanwhile."
    )


def test_success_without_an_outage_is_not_worth_a_line(
    outage: Outage, caplog: pytest.LogCaptureFixture
) -> None:
    """What has worked all along is not said to work again."""
    outage.succeeded("traces", "http://c")
    assert lines(caplog) == []


def test_a_signal_that_the_collector_does_not_know_hides_no_outage_of_the_others(
    outage: Outage, caplog: pytest.LogCaptureFixture
) -> None:
    """A collector for traces alone may refuse logs for ever: an outage of traces is told of."""
    for signal in ("logs", "metrics", "logs"):
        outage.failed(signal, "http://c", "HTTP 404", unknown=True)
    assert lines(caplog) == [
        (
            "Telemetry does not get through to http://c: HTTP 404. Tasks and their repository go "
            "on as before; it is tried again until it does. If it never shall, set "
            "OTEL_LOGS_EXPORTER=none."
        )
    ]
    caplog.clear()
    outage.failed("traces", "http://c", "refused")
    outage.succeeded("traces", "http://c")
    assert outage.is_on is True
    assert lines(caplog) == [
        BEGIN,
        "Telemetry gets through to http://c again after 0 s.",
    ]
    caplog.clear()
    outage.succeeded("logs", "http://c")
    assert lines(caplog) == []
    outage.succeeded("metrics", "http://c")
    assert lines(caplog) == ["Telemetry gets through to http://c again after 0 s."]
    assert outage.is_on is False


def test_refusals_are_told_of_once_an_hour(
    outage: Outage, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collector that refuses batch after batch fills no log, even if it takes some."""
    line = (
        "http://c refused 3 of the logs: too old. What is refused is counted, and set "
        "aside where a repository has it; further refusals are told of once an hour."
    )
    for _ in range(10):
        outage.refused("logs", "http://c", 3, "too old")
        outage.refused("traces", "http://c", 1, "too old")
        outage.succeeded("logs", "http://c")
    assert lines(caplog) == [line]
    now = time.monotonic()
    monkeypatch.setattr("rocketry_otel._export.outage.time.monotonic", lambda: now + 3600)
    outage.refused("logs", "http://c", 3, "too old")
    assert lines(caplog) == [line, line]


class RaisingHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise RuntimeError("no")


@pytest.fixture
def _raising_handler() -> Iterator[None]:
    handler = RaisingHandler()
    logging.getLogger("rocketry_otel").addHandler(handler)
    yield
    logging.getLogger("rocketry_otel").removeHandler(handler)


@pytest.mark.usefixtures("_raising_handler")
def test_a_log_handler_that_raises_does_not_end_the_delivery(outage: Outage) -> None:
    """What the application's handlers raise at our lines reaches no thread of ours."""
    outage.failed("traces", "http://c", "refused")
    outage.refused("traces", "http://c", 1, "too old")
    outage.succeeded("traces", "http://c")
    assert outage.is_on is False


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_knows_of_no_outage_and_waits_for_no_lock(outage: Outage) -> None:
    """A child has yet to try for itself, whatever its parent was doing at the fork."""
    outage.failed("traces", "http://c", "refused")
    held, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with outage._lock:
            held.set()
            let_go.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(10)
    pid = os.fork()
    if pid == 0:
        was_on = outage.is_on
        outage.succeeded("traces", "http://c")
        os._exit(3 if was_on else 4)
    let_go.set()
    holder.join()
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 4
    assert outage.is_on is True

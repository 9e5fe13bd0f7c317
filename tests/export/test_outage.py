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
    """Counters at zero."""
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


def test_outage_is_logged_twice(outage: Outage, caplog: pytest.LogCaptureFixture) -> None:
    """All signals and failures together make one line at the begin and one at the end."""
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


def test_outage_ends_when_all_channels_of_a_destination_get_through(
    outage: Outage, caplog: pytest.LogCaptureFixture
) -> None:
    """Log lines have a channel of their own to the destination of the log records."""
    outage.failed("logs", "http://c", "refused", channel="one")
    outage.failed("logs", "http://c", "refused", channel="two")
    outage.succeeded("logs", "http://c", "one")
    assert outage.is_on is True
    assert len(lines(caplog)) == 1
    outage.succeeded("logs", "http://c", "two")
    assert outage.is_on is False
    assert len(lines(caplog)) == 2


def test_end_has_the_number_of_dropped_items(
    outage: Outage, counters: Counters, caplog: pytest.LogCaptureFixture
) -> None:
    """It counts the items of all signals that were dropped during the outage."""
    counters.add("traces", "dropped", 100, "queue_full")
    outage.failed("traces", "http://c", "refused")
    counters.add("traces", "dropped", 2, "queue_full")
    counters.add("logs", "dropped", 3, "queue_full")
    outage.succeeded("traces", "http://c")
    assert lines(caplog)[1] == (
        "Telemetry gets through to http://c again after 0 s; 5 items were dropped meanwhile."
    )


def test_success_without_outage_is_not_logged(
    outage: Outage, caplog: pytest.LogCaptureFixture
) -> None:
    """Only the end of an outage is logged."""
    outage.succeeded("traces", "http://c")
    assert lines(caplog) == []


def test_unknown_signal_hides_no_outage(outage: Outage, caplog: pytest.LogCaptureFixture) -> None:
    """A collector for traces alone may refuse logs; an outage of traces is logged all the same."""
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


def test_refusals_are_logged_once_an_hour(
    outage: Outage, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collector that refuses many batches does not flood the log."""
    line = (
        "http://c refused 3 of the logs: too old. Refused items are counted, and kept as "
        "dead letters if a repository has them; further refusals are logged once an hour."
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
def test_raising_log_handler_does_not_end_delivery(outage: Outage) -> None:
    """An error of the application's log handler does not reach our threads."""
    outage.failed("traces", "http://c", "refused")
    outage.refused("traces", "http://c", 1, "too old")
    outage.succeeded("traces", "http://c")
    assert outage.is_on is False


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_child_starts_without_outage(outage: Outage) -> None:
    """It makes its own tries, and waits for no lock of its parent."""
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

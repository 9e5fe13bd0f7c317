from __future__ import annotations

import gc
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rocketry_otel import Delivery, OTelRepoHandler, open_repository
from rocketry_otel._delivery.checkpoint import Backlog
from rocketry_otel._delivery.state import State
from rocketry_otel._export.batch import Entry
from rocketry_otel._export.record_ref import RecordRef
from rocketry_otel._export.status import delivery_of
from rocketry_otel.testing import TelemetryCapture
from tests.support.otlp_receiver import Ok, OTLPReceiver, PartialSuccess, Status, attributes_of
from tests.support.processes import run_python
from tests.support.records import task_record

LONG = 20.0

KILLED = """
    import logging, os, signal, sys

    from rocketry_otel import OTelRepoHandler, open_repository

    handler = OTelRepoHandler(open_repository(sys.argv[1]))
    logger = logging.getLogger("rocketry.task")
    logger.setLevel("INFO")
    logger.addHandler(handler)
    for number in range(int(sys.argv[2])):
        for action in ("run", "success"):
            extra = {"task_name": "etl", "action": action, "run_id": str(number)}
            logger.info("", extra=extra)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[OTLPReceiver]:
    """A collector that is sent everything at once."""
    with OTLPReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.http_endpoint)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "0")
        monkeypatch.setenv("OTEL_BLRP_SCHEDULE_DELAY", "0")
        monkeypatch.setenv("ROCKETRY_OTEL_SHUTDOWN_TIMEOUT", "1")
        yield receiver
        receiver.behave(Ok())


@pytest.fixture
def url(tmp_path: Path) -> str:
    """The URL of a durable repository."""
    return f"sqlite:///{tmp_path}/tasks.db"


@pytest.fixture
def make(receiver: OTLPReceiver, url: str) -> Iterator[Any]:
    """Return a function that makes a handler, closed at the end."""
    handlers = []

    def make(its_url: str = url) -> OTelRepoHandler:
        handlers.append(OTelRepoHandler(open_repository(its_url)))
        return handlers[-1]

    yield make
    receiver.behave(Ok())
    for handler in handlers:
        handler.close()


def run(handler: OTelRepoHandler, *run_ids: str) -> None:
    """Log runs that succeed."""
    for run_id in run_ids:
        handler.handle(task_record("run", run_id=run_id))
        handler.handle(task_record("success", run_id=run_id))


def runs_at(receiver: OTLPReceiver) -> set[Any]:
    """Return the ids of the runs whose spans have arrived."""
    return {attributes_of(it.span.attributes)["rocketry.run_id"] for it in receiver.spans}


def folder_of(handler: OTelRepoHandler) -> Path:
    """Return the folder of the delivery progress."""
    state = handler._bridge.pipeline.worker._state
    assert state is not None
    assert state.folder is not None
    return state.folder


def test_next_process_sends_the_records_of_a_killed_one(
    receiver: OTLPReceiver, make: Any, url: str
) -> None:
    """It only has to start."""
    receiver.behave(Status(503))
    assert run_python(KILLED, url, "30", env=dict(os.environ)).returncode == -9
    assert receiver.spans == []
    receiver.behave(Ok())
    handler = make()
    run(handler, "later")
    assert receiver.wait_for(lambda it: len(runs_at(it)) == 31, LONG)
    assert receiver.wait_for(lambda it: len(it.log_records) >= 62, LONG)
    assert handler.flush(LONG) is True
    assert handler.delivery.traces.waiting == 0


def test_next_process_does_not_send_delivered_records(receiver: OTLPReceiver, make: Any) -> None:
    """An orderly end leaves no work."""
    first = make()
    run(first, "a")
    assert first.flush(LONG) is True
    first.close()
    assert State(folder_of(first)).writers() == {}
    second = make()
    run(second, "b")
    assert second.flush(LONG) is True
    assert len(receiver.spans) == 2
    assert second._bridge.pipeline.counters.total("traces", "replayed") == 0


def test_items_that_wait_at_the_end_are_not_lost(receiver: OTLPReceiver, make: Any) -> None:
    """The next process sends them after the outage."""
    receiver.behave(Status(503))
    first = make()
    run(first, "a", "b")
    first.close()
    assert first.delivery.traces.dropped == 0
    assert first.delivery.traces.waiting == 2
    assert first.delivery.logs.waiting == 4
    receiver.behave(Ok())
    second = make()
    run(second, "c")
    assert receiver.wait_for(lambda it: runs_at(it) == {"a", "b", "c"}, LONG)


def test_committed_record_of_a_raising_repository_is_sent(
    receiver: OTLPReceiver, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database loses its connection after the commit, in an outage of the collector."""
    receiver.behave(Status(503))
    handler = make()
    run(handler, "a")
    insert = type(handler.repo).insert

    def insert_and_raise(repo: Any, item: Any) -> None:
        insert(repo, item)
        raise OSError("the connection is lost")

    with monkeypatch.context() as patch:
        patch.setattr(type(handler.repo), "insert", insert_and_raise)
        with pytest.raises(OSError, match="the connection is lost"):
            handler.handle(task_record("fail", run_id="b"))
    handler.close()
    assert handler._bridge.pipeline.counters.of("logs", "dropped") == {}
    receiver.behave(Ok())
    make()._bridge.start([])
    assert receiver.wait_for(lambda it: runs_at(it) == {"a", "b"}, LONG)


def test_record_during_a_close_is_left_to_the_repository(receiver: OTLPReceiver, make: Any) -> None:
    """All records arrive after the next one."""
    receiver.behave(Status(503))
    handler = make()
    run(handler, "a", "b")
    (queue, _) = handler._bridge.pipeline.providers.queues
    closing = threading.Thread(target=handler.close)
    closing.start()
    while not queue._is_closing():
        closing.join(0.001)
    # Not `handle`, which waits for `logging`'s lock of the handler if that is what closes it.
    handler.emit(task_record("success", run_id="c"))
    assert queue.has_overflow is True
    closing.join()
    receiver.behave(Ok())
    run(handler, "d")
    assert handler.flush(LONG) is True
    assert runs_at(receiver) == {"a", "b", "c", "d"}
    assert handler._bridge.pipeline.counters.of("traces", "dropped") == {}
    assert handler._bridge.pipeline.counters.of("logs", "dropped") == {}


def test_waiting_items_are_lost_with_memory_and_counted(receiver: OTLPReceiver, make: Any) -> None:
    """A repository in memory ends with the process; until then it loses nothing."""
    handler = make("memory://")
    receiver.behave(Status(503))
    run(handler, "a")
    handler.close()
    assert handler.delivery.logs.dropped == 0
    receiver.behave(Ok())
    run(handler, "b")
    assert handler.flush(LONG) is True
    assert runs_at(receiver) == {"a", "b"}
    receiver.behave(Status(503))
    run(handler, "c")
    handler._bridge.pipeline.close(0.5)
    assert handler._bridge.pipeline.counters.of("logs", "dropped") == {"shutdown": 2}
    assert handler._bridge.pipeline.counters.of("traces", "dropped") == {"shutdown": 1}


def test_record_after_the_final_close_is_sent_by_the_next_process(
    receiver: OTLPReceiver, make: Any
) -> None:
    """A record at the end of the interpreter is in the repository."""
    first = make()
    run(first, "a")
    first._bridge.pipeline.close(LONG)
    run(first, "b")
    assert first.delivery.logs.dropped == 0
    del first
    assert runs_at(receiver) == {"a"}
    gc.collect()
    state = make()
    run(state, "c")
    assert receiver.wait_for(lambda it: {"a", "c"} <= runs_at(it), LONG)


def test_refused_record_is_a_dead_letter(receiver: OTLPReceiver, make: Any) -> None:
    """The handler, one line in the log and the state have the reason."""
    handler = make()
    run(handler, "a")
    assert handler.flush(LONG) is True
    receiver.behave(PartialSuccess(1, "too old"))
    handler.handle(task_record("run", run_id="b"))
    assert handler.flush(LONG) is False
    assert (handler.delivery.logs.refused, handler.delivery.logs.last_error) == (1, "too old")
    ((channel, refusal),) = State(folder_of(handler)).refused.all()
    assert channel == f"logs {receiver.http_endpoint}/v1/logs"
    assert refusal[1:] == ("etl", "run", "too old")


def test_all_records_of_a_partial_success_are_dead_letters(
    receiver: OTLPReceiver, make: Any
) -> None:
    """The protocol does not name the rejected ones."""
    handler = make()
    run(handler, "a")
    assert handler.flush(LONG) is True
    (queue,) = [one for one in handler._bridge.pipeline.providers.queues if one.signal == "logs"]
    part = [Entry(n, RecordRef(n, "etl", "run")) for n in (1, 2)] + [Entry(3, None)]
    queue.add_dead_letters(queue, part, 1, "too old")
    queue.add_dead_letters(queue, part[2:], 1, "of a body")
    assert [refusal.reason for _, refusal in State(folder_of(handler)).refused.all()] == [
        "1 of 3: too old"
    ] * 2
    handler._bridge.pipeline.worker._state._db._folder = Path("/proc/nowhere")
    queue.add_dead_letters(queue, part, 1, "too old")


def test_failed_hand_over_holds_no_checkpoint_back(
    receiver: OTLPReceiver, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record is counted, and no longer expected."""

    def broken(*_: Any) -> None:
        raise RuntimeError("a fault of ours")

    handler = make()
    run(handler, "a")
    with monkeypatch.context() as patch:
        patch.setattr("rocketry_otel._telemetry.emitter.SignalEmitter.send", broken)
        run(handler, "b")
    run(handler, "c")
    assert handler.flush(LONG) is False
    assert runs_at(receiver) == {"a", "c"}
    assert handler.flush(LONG) is True
    assert handler._bridge.pipeline.worker._checkpointer.is_settled is True
    assert handler._bridge.pipeline.counters.of("logs", "dropped") == {"error": 2}


def test_unwritable_state_is_logged_once(
    receiver: OTLPReceiver, make: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Tasks go on, and telemetry is delivered by this process."""
    (tmp_path / "tasks.db.delivery").write_text("in the way")
    handler = make()
    for number in range(20):
        run(handler, str(number))
    assert handler.flush(LONG) is True
    assert len(receiver.spans) == 20
    handler.close()
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == len({line.partition(":")[0] for line in lines})
    assert lines[0].startswith("Delivery progress cannot be stored, so records may be sent twice")
    assert lines[0].endswith("Tasks go on as before.")
    assert len(handler.repo.filter_by().all()) == 40


def test_repository_without_a_place_has_its_state_in_memory(
    receiver: OTLPReceiver,
    make: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A foreign repository may raise anything when its place is read."""

    def fail(*_: object) -> None:
        raise RuntimeError("where am I?")

    monkeypatch.setattr("rocketry_otel._delivery.worker.state_folder", fail)
    handler = make()
    run(handler, "a")
    assert handler.flush(LONG) is True
    assert len(receiver.spans) == 1
    assert "No place for the delivery progress can be found" in caplog.text


def test_lost_state_is_made_again_and_all_records_arrive(receiver: OTLPReceiver, make: Any) -> None:
    """The records of the last days are sent once more."""
    receiver.behave(Status(503))
    first = make()
    for number in range(3):
        first.handle(task_record("run", run_id=str(number), created=time.time()))
    first.close()
    shutil.rmtree(folder_of(first))
    receiver.behave(Ok())
    second = make()
    second.handle(task_record("run", run_id="3", created=time.time()))
    assert receiver.wait_for(lambda it: len(it.log_records) == 4, LONG)


def test_unreadable_repository_is_logged_once_and_tried_again(
    receiver: OTLPReceiver,
    make: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The backlog is sent as soon as it can be read."""
    monkeypatch.setattr("rocketry_otel._delivery.worker._SECONDS_BETWEEN_LOOKS", 0.05)
    handler = make()
    run(handler, "a")
    assert handler.flush(LONG) is True
    failures = []

    def fail(*_: object) -> Any:
        failures.append(1)
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr("rocketry_otel._history.reconstruct.stream_of", fail)
        while len(failures) < 3:
            # Again each time: the worker may just be finishing an earlier backlog.
            for queue in handler._bridge.pipeline.providers.queues:
                State(folder_of(handler)).take_on({queue.name: Backlog(0, waiting=1)})
            handler._bridge.pipeline.worker.wait(time.monotonic() + 0.1)
        assert handler.flush(0.0) is False
    assert handler.flush(LONG) is True
    assert caplog.text.count("cannot be sent from the repository at present") == 1


def test_records_are_sent_again_only_on_channels_that_missed_them(
    receiver: OTLPReceiver, url: str, telemetry: TelemetryCapture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tracer provider of the application has had the spans."""
    monkeypatch.setenv("OTEL_BLRP_MAX_QUEUE_SIZE", "4")
    receiver.behave(Status(503))
    handler = OTelRepoHandler(open_repository(url), tracer_provider=telemetry.tracer_provider)
    run(handler, *map(str, range(10)))
    receiver.behave(Ok())
    assert handler.flush(LONG) is True
    assert handler.delivery.logs.delivered >= 20
    assert len(telemetry.spans) == 10
    handler.close()


def test_flush_waits_for_the_backlog(
    receiver: OTLPReceiver, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is true after delivery, and false at once in an outage."""
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "10")
    monkeypatch.setenv("OTEL_BLRP_MAX_QUEUE_SIZE", "10")
    handler = make("memory://")
    receiver.behave(Status(503))
    run(handler, *map(str, range(50)))
    assert handler.flush(0.2) is False
    assert handler.delivery.logs.waiting == 100
    oldest = handler.delivery.logs.oldest_waiting
    assert oldest is not None
    assert oldest.timestamp() == pytest.approx(task_record("run").created, abs=1e-3)
    receiver.behave(Ok())
    assert handler.flush(LONG) is True
    assert handler.delivery.logs.waiting == 0
    assert len({it.span.span_id for it in receiver.spans}) == 50


def test_no_delivery_worker_without_own_channels(tmp_path: Path, telemetry: Any, url: str) -> None:
    """Providers of the application deliver on their own; no state is stored."""
    handler = OTelRepoHandler(open_repository(url), **telemetry.providers)
    run(handler, "a")
    assert handler.delivery == Delivery()
    handler.close()
    # While there are runs, a lock shows that the process is alive.
    assert not [path for path in tmp_path.rglob("*") if path.parent != tmp_path]


def test_delivery_status_keeps_no_handler_alive(make: Any) -> None:
    """Instruments of the application's provider live as long as the program."""
    handler = make("memory://")
    status = delivery_of(handler._bridge.pipeline.worker)
    assert status() == Delivery()
    handler._bridge.pipeline.worker = None
    gc.collect()
    assert status() == Delivery()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_child_delivers_its_own_records(receiver: OTLPReceiver, make: Any) -> None:
    """Those of its parent stay with the parent."""
    handler = make()
    run(handler, "parents")
    assert handler.flush(LONG) is True
    receiver.behave(Status(503))
    run(handler, "parents too")
    receiver.behave(Ok())
    pid = os.fork()
    if pid == 0:
        run(handler, "childs")
        ok = handler.flush(LONG)
        handler._bridge.pipeline.close(1.0)
        os._exit(0 if ok else 1)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert handler.flush(LONG) is True
    assert runs_at(receiver) == {"parents", "parents too", "childs"}
    handler.close()
    assert State(folder_of(handler)).writers() == {}


def test_no_thread_starts_after_the_end(make: Any) -> None:
    """A late caller does not start one."""
    handler = make()
    delivery_worker = handler._bridge.pipeline.worker
    handler._bridge.pipeline.connect()
    delivery_worker.stop(0.0)
    delivery_worker.begin()
    assert delivery_worker._thread is None
    delivery_worker.reopen()
    delivery_worker.begin()
    assert delivery_worker._thread.is_alive()


def test_checkpoints_are_stored_during_a_long_catch_up(
    receiver: OTLPReceiver, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New records do not wait for their checkpoint."""
    monkeypatch.setattr("rocketry_otel._delivery.worker._SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    receiver.behave(Status(503))
    first = make()
    run(first, *map(str, range(60)))
    first.close()
    receiver.behave(Ok())
    second = make()
    run(second, "later")
    assert receiver.wait_for(lambda it: len(runs_at(it)) == 61, LONG)

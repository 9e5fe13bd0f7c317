from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redbird.repos import CSVFileRepo

from rocketry_otel import OTelRepoHandler, Settings, TaskEventRecord, open_repository
from rocketry_otel._delivery.checkpoint import Checkpoint
from rocketry_otel._delivery.pruning import PruningTimes
from rocketry_otel._delivery.state import State
from rocketry_otel._delivery.state_path import state_folder
from rocketry_otel._model.retention import Retention
from tests.support.otlp_receiver import Ok, OTLPReceiver, Status
from tests.support.records import task_record

LONG = 20.0
HOUR = 3600.0


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[OTLPReceiver]:
    """A collector that is sent everything at once."""
    with OTLPReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.http_endpoint)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "0")
        monkeypatch.setenv("OTEL_BLRP_SCHEDULE_DELAY", "0")
        monkeypatch.setattr("rocketry_otel._delivery.worker._SECONDS_BETWEEN_LOOKS", 0.05)
        monkeypatch.setattr("rocketry_otel._delivery.pruning._SECONDS_BETWEEN_PRUNINGS", 0.05)
        yield receiver
        receiver.behave(Ok())


def handler_of(repo: Any, **settings: Any) -> OTelRepoHandler:
    """Return a handler that keeps records for an hour."""
    return OTelRepoHandler(repo, settings=Settings(retention="1h", shutdown_timeout=1, **settings))


def write(handler: OTelRepoHandler, *run_ids: str, hours_ago: float = 0.0) -> None:
    """Log runs that succeed."""
    created = time.time() - hours_ago * HOUR
    for run_id in run_ids:
        handler.handle(task_record("run", run_id=run_id, created=created))
        handler.handle(task_record("success", run_id=run_id, created=created + 0.001))


def runs_in(handler: OTelRepoHandler) -> list[Any]:
    """Return the ids of the runs that the repository has."""
    return [record.run_id for record in handler.repo.filter_by(action="success").all()]


def wait_for_runs(handler: OTelRepoHandler, *run_ids: str) -> None:
    """Wait until the repository has exactly these runs."""
    deadline = time.monotonic() + LONG
    while runs_in(handler) != list(run_ids):
        assert time.monotonic() < deadline, runs_in(handler)
        handler._bridge.pipeline.worker.wait(time.monotonic() + 0.02)


@pytest.mark.parametrize("url", ["sqlite:///{}/tasks.db", "csv://{}/tasks.csv", "memory://"])
def test_old_records_are_removed_after_delivery(
    url: str, receiver: OTLPReceiver, tmp_path: Path
) -> None:
    """During an outage they stay; after it they are removed without a further record."""
    receiver.behave(Status(503))
    handler = handler_of(open_repository(url.format(tmp_path)))
    write(handler, "a", "b", hours_ago=2)
    write(handler, "c")
    assert handler.flush(0.3) is False
    assert runs_in(handler) == ["a", "b", "c"]
    receiver.behave(Ok())
    assert handler.flush(LONG) is True
    wait_for_runs(handler, "c")
    assert len(receiver.spans) == 3
    handler.close()


def test_undelivered_records_of_another_process_stay(
    receiver: OTLPReceiver, tmp_path: Path
) -> None:
    """A living process that is late is waited for."""
    repo = open_repository(f"sqlite:///{tmp_path}/tasks.db")
    other = State(state_folder(repo, None))
    other.save({"logs http://other": Checkpoint(int((time.time() - 3 * HOUR) * 1e9), 1)}, 0)
    handler = handler_of(repo)
    write(handler, "a", hours_ago=2)
    write(handler, "b")
    assert handler.flush(LONG) is True
    assert runs_in(handler) == ["a", "b"]
    other.leave()
    wait_for_runs(handler, "b")
    handler.close()


def test_records_of_an_unsent_signal_stay_for_some_days(
    receiver: OTLPReceiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After that they are removed, unless a living process sends the signal."""
    monkeypatch.setenv("OTEL_LOGS_EXPORTER", "none")
    repo = open_repository(f"sqlite:///{tmp_path}/tasks.db")
    since = int((time.time() - 5 * HOUR) * 1e9)
    other = State(state_folder(repo, None))
    other.save({"logs http://other": Checkpoint(since, 9)}, 0)
    handler = handler_of(repo, catch_up="3h")
    write(handler, "older", hours_ago=6)
    write(handler, "a", hours_ago=4)
    write(handler, "b", hours_ago=2)
    write(handler, "c")
    assert handler.flush(LONG) is True
    wait_for_runs(handler, "a", "b", "c")
    other.end()
    wait_for_runs(handler, "b", "c")
    handler.close()


def test_lost_state_removes_nothing_before_it_is_sent_again(
    receiver: OTLPReceiver, tmp_path: Path
) -> None:
    """A container without a volume has no state: its records may be undelivered."""
    repo = open_repository(f"sqlite:///{tmp_path}/tasks.db")
    receiver.behave(Status(503))
    first = handler_of(repo)
    write(first, "a", "b", hours_ago=2)
    first.close()
    folder = state_folder(repo, None)
    assert folder is not None
    shutil.rmtree(folder)
    handler = handler_of(repo)
    handler._bridge.start([])
    handler._bridge.pipeline.worker.wait(time.monotonic() + 0.2)
    assert runs_in(handler) == ["a", "b"]
    receiver.behave(Ok())
    write(handler, "c")
    assert handler.flush(LONG) is True
    wait_for_runs(handler, "c")
    assert len(receiver.spans) == 3
    handler.close()


def test_age_alone_counts_with_providers_of_the_application(
    tmp_path: Path, telemetry: Any, receiver: OTLPReceiver
) -> None:
    """Their deliveries are not known here."""
    handler = OTelRepoHandler(
        open_repository(f"sqlite:///{tmp_path}/tasks.db"),
        settings=Settings(retention="1h"),
        **telemetry.providers,
    )
    write(handler, "a", hours_ago=2)
    write(handler, "b")
    wait_for_runs(handler, "b")
    handler.close()
    assert receiver.requests == []


def test_repository_that_cannot_be_pruned_is_logged_once(
    receiver: OTLPReceiver, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Red Bird's own CSV file would be overwritten, so it stays as it is."""
    handler = handler_of(CSVFileRepo(filename=tmp_path / "tasks.csv", model=TaskEventRecord))
    write(handler, "a", hours_ago=2)
    write(handler, "b")
    assert handler.flush(LONG) is True
    deadline = time.monotonic() + LONG
    while "cannot be removed" not in caplog.text:
        assert time.monotonic() < deadline
        handler._bridge.pipeline.worker.wait(time.monotonic() + 0.02)
    for _ in range(10):
        handler._bridge.pipeline.worker.wait(time.monotonic() + 0.02)
    assert runs_in(handler) == ["a", "b"]
    handler.close()
    assert caplog.text.count("Old records cannot be removed from the repository at present") == 1


def test_nothing_is_removed_while_another_process_catches_up(
    receiver: OTLPReceiver, tmp_path: Path
) -> None:
    """It must not miss records that it is to read."""
    repo = open_repository(f"sqlite:///{tmp_path}/tasks.db")
    state = State(state_folder(repo, None))
    with state.lease() as is_theirs:
        assert is_theirs is True
        handler = handler_of(repo)
        write(handler, "a", hours_ago=2)
        write(handler, "b")
        assert handler.flush(LONG) is True
        write(handler, "c")
        assert handler.flush(LONG) is True
        assert runs_in(handler) == ["a", "b", "c"]
    wait_for_runs(handler, "b", "c")
    handler.close()


def test_records_are_removed_each_hour() -> None:
    """With an age, the number of records makes no difference."""
    times = PruningTimes(Retention(seconds=60))
    assert times.is_due(5.0) is True
    times.note_removal(5.0, is_complete=False)
    for _ in range(1000):
        times.note_record()
    assert times.is_due(5.0 + 3599.0) is False
    assert times.is_due(5.0 + 3600.0) is True


def test_count_is_looked_at_as_often_as_the_rate_asks_for() -> None:
    """With a count, it is time when a tenth of it was added, but no more often than each 10 s."""
    times = PruningTimes(Retention(count=100))
    times.note_removal(0.0, is_complete=True)
    for _ in range(9):
        times.note_record()
    assert times.is_due(3599.0) is False
    times.note_record()
    assert times.is_due(9.9) is False
    assert times.is_due(10.0) is True
    times.note_removal(10.0, is_complete=False)
    assert times.is_due(20.0) is True
    times.note_removal(20.0, is_complete=True)
    assert times.is_due(30.0) is False


def test_nothing_is_ever_due_without_a_retention() -> None:
    """All records are kept."""
    assert PruningTimes(None).is_due(1e9) is False


def test_count_holds_while_records_come(
    receiver: OTLPReceiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records beyond the count are removed long before an hour is over."""
    monkeypatch.setattr("rocketry_otel._delivery.pruning._SECONDS_BETWEEN_PRUNINGS", HOUR)
    monkeypatch.setattr("rocketry_otel._delivery.pruning._LEAST_SECONDS", 0.0)
    handler = OTelRepoHandler(
        open_repository(f"sqlite:///{tmp_path}/tasks.db"),
        settings=Settings(retention="4", shutdown_timeout=1),
    )
    for hours_ago, run_id in ((5, "a"), (4, "b"), (3, "c"), (2, "d")):
        write(handler, run_id, hours_ago=hours_ago)
    assert handler.flush(LONG) is True
    wait_for_runs(handler, "c", "d")
    handler.close()

"""Runs that dead processes have left open, and crashes that Rocketry logs of runs that go on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redbird.repos import MemoryRepo
from rocketry.log import MinimalRunRecord

from rocketry_otel import OTelRepoHandler, Settings, open_repository
from rocketry_otel._delivery.crash_records import CrashRecords
from rocketry_otel._delivery.schedulers import Schedulers
from rocketry_otel._history.run_lookup import NO_SPAN, fields_of
from rocketry_otel._instrumentation import left_runs as left_runs_module
from rocketry_otel._instrumentation.launched import Launched
from rocketry_otel._model.event import TaskEvent, parse_event
from rocketry_otel.testing import TelemetryCapture, capture_telemetry
from tests.support.records import START, task_record


class Process:
    """One of several processes on one repository: a handler with its providers."""

    def __init__(self, url: str, **settings: Any) -> None:
        self.telemetry = TelemetryCapture()
        self.handler = OTelRepoHandler(
            open_repository(url), settings=Settings(**settings), **self.telemetry.providers
        )
        self.bridge = self.handler._bridge
        self.schedulers: Schedulers = self.bridge.pipeline.worker.schedulers

    def log(self, action: str, seconds: float = 0, run_id: str | None = None) -> None:
        """Log a record as Rocketry does."""
        self.handler.handle(task_record(action, run_id=run_id, created=START + seconds))

    def die(self) -> None:
        """Leave what a process leaves that is killed."""
        lock = self.schedulers._lock
        assert lock is not None
        lock.release()

    def actions(self) -> list[tuple[Any, Any]]:
        """Return the action and the span id of each record."""
        return [(one.action, one.span_id) for one in self.handler.repo.filter_by().all()]

    def endings(self) -> list[str]:
        """Return how each run has ended, by its span."""
        return [str((one.attributes or {})["rocketry.action"]) for one in self.telemetry.spans]

    def look_after(self) -> None:
        """Look after others, and wait until that is over."""
        before = set(threading.enumerate())
        self.bridge.left_runs.look_after(lambda: START + 20)
        for thread in set(threading.enumerate()) - before:
            thread.join(20)


@pytest.fixture(autouse=True)
def _commits_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for no database."""
    monkeypatch.setattr(left_runs_module, "_SECONDS_FOR_COMMITS", 0.0)


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., Process]:
    """Starts processes on one repository."""

    def start(**settings: Any) -> Process:
        return Process(f"sqlite:///{tmp_path}/tasks.db", **settings)

    return start


Start = Callable[..., Process]


def test_crash_of_a_living_process_ends_nothing(start: Start) -> None:
    """Its record bears the sign for that; the run ends later, under its ids."""
    first, second = start(), start()
    first.log("run", 0, "r1")
    second.log("crash", 1)
    assert second.endings() == []
    assert [record.event_name for record in second.telemetry.log_records] == ["rocketry.task.crash"]
    first.log("success", 2, "r1")
    assert first.endings() == ["success"]
    (_, run), (_, crash), (_, success) = first.actions()
    assert run == success
    assert crash == NO_SPAN


def test_crash_of_a_dead_process_ends_its_run(start: Start) -> None:
    """This is what Rocketry means."""
    first, second = start(), start()
    first.log("run", 0, "r1")
    first.die()
    second.log("crash", 1)
    assert second.endings() == ["crash"]
    (_, run), (_, crash) = first.actions()
    assert run == crash


def test_crash_of_an_own_run_that_goes_on_ends_nothing(start: Start) -> None:
    """Another application of this process starts while the run goes on."""
    one = start()
    one.log("run", 0, "r1")
    (run,) = one.bridge.open_runs.all()
    alive = [True]

    class TaskRun:
        task = object()

        def is_alive(self) -> bool:
            return alive[0]

    run.launch = Launched(None, TaskRun(), "key")
    one.log("crash", 1)
    assert one.endings() == []
    alive[0] = False
    one.log("crash", 2)
    assert one.endings() == ["crash"]


def test_crash_of_an_own_run_of_a_bare_handler_ends_it(start: Start) -> None:
    """Without the hooks nothing shows whether it goes on: as before, Rocketry is believed."""
    one = start()
    one.log("run", 0, "r1")
    one.log("crash", 1)
    assert one.endings() == ["crash"]


@pytest.mark.parametrize("since", [None, ""])
def test_runs_of_a_dead_process_are_closed_once(
    start: Start, since: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them but those that have ended, by one of the others; also after a loss of power."""
    dead, living, other = start(), start(), start()
    for number in range(3):
        dead.log("run", number, f"r{number}")
    dead.log("success", 3, "r1")
    living.log("run", 4, "mine")
    dead.die()
    if since is not None:
        (lock,) = tmp_path.glob(f"*/scheduler-{dead.schedulers.name}.lock")
        lock.write_text(since, encoding="ascii")
    living.look_after()
    other.look_after()
    assert living.endings() == ["crash", "crash"]
    assert other.endings() == []
    assert {(span.attributes or {})["rocketry.run_id"] for span in living.telemetry.spans} == {
        "r0",
        "r2",
    }
    assert {span.end_time for span in living.telemetry.spans} == {int((START + 20) * 1e9)}
    assert [action for action, _ in living.actions()] == ["run", "run", "run", "success", "run"]
    # Rocketry starts again, and takes the newest run for crashed.
    monkeypatch.setattr(other.bridge._run_lookup, "find_beginning", find(living, "r2"))
    other.log("crash", 30)
    assert other.endings() == []
    assert other.bridge.pipeline.counters.of("traces", "dropped") == {}


def find(process: Process, run_id: str) -> Callable[[object], TaskEvent]:
    """Return a function that finds the beginning of a run."""
    record = process.handler.repo.filter_by(run_id=run_id, action="run").last()
    return lambda _: parse_event(fields_of(record))


def test_repository_that_cannot_be_read_is_read_later(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dead process stays until its runs are closed."""
    dead, living = start(), start()
    dead.log("run", 0, "r1")
    dead.die()
    with monkeypatch.context() as patch:
        patch.setattr(left_runs_module, "HistoryReader", None)
        living.look_after()
    assert living.endings() == []
    living.look_after()
    assert living.endings() == ["crash"]


def test_machine_without_threads_looks_later(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """No task waits for it."""
    dead, living = start(), start()
    dead.log("run", 0, "r1")
    dead.die()
    with monkeypatch.context() as patch:
        patch.setattr(left_runs_module, "start_thread", lambda *_: None)
        living.look_after()
    living.look_after()
    assert living.endings() == ["crash"]


def test_process_without_open_runs_leaves(start: Start, tmp_path: Path) -> None:
    """Its file stays as long as a run goes on."""
    one = start()
    one.log("run", 0, "r1")
    one.bridge.left_runs.leave()
    assert one.schedulers.is_shown
    one.log("success", 1, "r1")
    one.bridge.left_runs.leave()
    assert not one.schedulers.is_shown
    assert list(tmp_path.glob("*/scheduler-*")) == []


def test_oldest_open_run_is_noted(start: Start, tmp_path: Path) -> None:
    """A later process need not read what is before it."""
    one = start()
    for number in range(2):
        one.log("run", number, f"r{number}")
    one.look_after()
    (path,) = tmp_path.glob("*/scheduler-*")
    minute = 60_000_000_000
    assert path.read_text(encoding="ascii") == str(int(START * 1e9) - minute)
    one.log("success", 2, "r0")
    one.look_after()
    assert path.read_text(encoding="ascii") == str(int((START + 1) * 1e9) - minute)


def test_model_without_room_has_no_lock(tmp_path: Path) -> None:
    """Nothing in its records would name the process."""
    with capture_telemetry() as telemetry:
        handler = OTelRepoHandler(
            MemoryRepo(model=MinimalRunRecord),
            settings=Settings(state_dir=str(tmp_path)),
            **telemetry.providers,
        )
        handler.handle(task_record("run", run_id="r1"))
        handler._bridge.left_runs.look_after(time.time)
        handler._bridge.left_runs.leave()
        handler.handle(task_record("success", run_id="r1", created=START + 1))
        assert telemetry.span("etl").status.is_unset
    assert list(tmp_path.iterdir()) == []


def test_crash_that_cannot_be_kept_is_sent(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The fault is logged once."""

    def fail(*_: object) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(CrashRecords, "add", fail)
    one = start()
    one.log("run", 0, "r1")
    (run,) = one.bridge.open_runs.all()
    assert run.began is not None
    for _ in range(2):
        one.bridge.crash(run.began, run.ids, START + 1)
    assert one.endings() == ["crash"]
    assert [record.getMessage() for record in caplog.records] == [
        "A crash record cannot be kept; further ones are not reported"
    ]

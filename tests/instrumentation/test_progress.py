from __future__ import annotations

import os
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import pytest

from rocketry_otel import Settings, current_run, instrument
from rocketry_otel._instrumentation import progress as module
from rocketry_otel._instrumentation.progress import ProgressBoard, ProgressReporter
from rocketry_otel._model.ids import RunIds
from rocketry_otel.testing import ManualClock, TelemetryCapture
from tests.support.apps import make_app, run_tasks
from tests.support.records import task_record

IDS = RunIds(2**127 + 5, 2**63 + 7)
TASK = {"task_name": "etl"}


def exit_code(pid: int) -> int:
    """Wait for a child."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Reports:
    """The reports of a body, with a clock of the test."""

    def __init__(self, *, is_in_child: bool = False) -> None:
        self.now = 0.0
        self.shown: list[float] = []
        self.sent: list[Any] = []
        self._reporter = ProgressReporter(
            self._send,
            self.shown.append,
            "etl",
            "r1",
            None,
            is_in_child=is_in_child,
            clock=lambda: self.now,
        )

    def _send(self, logger_name: str, signal: Any, context: Any) -> None:
        assert (logger_name, context) == ("rocketry_otel.events", None)
        self.sent.append(signal.attributes["rocketry.progress.done"])

    def report(self, done: Any, now: float) -> None:
        """Report a part of 100."""
        self.now = now
        self._reporter.report(done, 100, 5)


@pytest.mark.parametrize("is_in_child", [False, True])
def test_reports_are_sent_once_a_second_and_at_the_end(*, is_in_child: bool) -> None:
    """The gauge of this process has each value; a child sends as many messages as log records."""
    reports = Reports(is_in_child=is_in_child)
    for done, now in [(1, 0.0), (2, 0.5), (3, 1.0), (4, 1.9), (100, 1.95), (100, 1.96), ("", 9)]:
        reports.report(done, now)
    assert reports.sent == [1, 3, 100]
    all_values = [0.01, 0.02, 0.03, 0.04, 1.0, 1.0]
    assert reports.shown == ([0.01, 0.03, 1.0] if is_in_child else all_values)


def test_error_does_not_reach_the_body() -> None:
    """A provider of the application may raise anything."""

    def send(*_: Any) -> None:
        raise ValueError("no provider")

    ProgressReporter(send, lambda _: None, "etl", None, None).report(1, 2, 5)


def test_board_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The progress that is the longest without a report is forgotten first."""
    monkeypatch.setattr(module, "_MOST_RUNS", 2)
    board = ProgressBoard()
    first, second, third = (RunIds(1, number) for number in (1, 2, 3))
    board.put(first, 0.1)
    board.put(second, 0.2)
    board.put(first, 0.3)
    board.put(third, 0.4)
    assert [board.of(ids) for ids in (first, second, third)] == [0.3, None, 0.4]


def test_forked_child_reports_to_its_parent() -> None:
    """The parent reads the message; the child, which has a copy of the reader, does not."""
    board = ProgressBoard()
    board.send(IDS, 0.1)  # no pipe: nothing happens
    board.open_pipe()
    board.open_pipe()
    board.send(IDS, 0.25)
    pid = os.fork()
    if pid == 0:
        seen = board.of(IDS)
        board.send(IDS, 0.5)
        os._exit(seen is not None)
    assert exit_code(pid) == 0
    assert board.of(IDS) == 0.5
    assert board.writer_to_pickle() is None  # no process is being spawned


def test_child_that_launches_tasks_has_a_pipe_of_its_own() -> None:
    """A web server's worker is forked, and runs a scheduler of its own."""
    board = ProgressBoard()
    board.open_pipe()
    pid = os.fork()
    if pid == 0:
        board.open_pipe()
        board.send(IDS, 0.5)
        os._exit(board.of(IDS) != 0.5)
    assert exit_code(pid) == 0
    assert board.of(IDS) is None


def test_spawned_child_never_waits_for_its_parent() -> None:
    """A full pipe, and a parent that is gone, drop the report."""
    parent, child = ProgressBoard(), ProgressBoard()
    child.use_writer(None)
    parent.open_pipe()
    child.use_writer(parent._writer)
    for _ in range(10_000):
        child.send(IDS, 0.25)
    assert parent.of(IDS) == 0.25
    reader, writer = Pipe(duplex=False)
    assert isinstance(writer, Connection)
    reader.close()
    child.use_writer(writer)
    child.send(IDS, 0.5)
    assert child.of(IDS) is None


@pytest.mark.parametrize("log_lines", [True, False])
def test_run_is_seen_to_live_before_it_ends(
    telemetry: TelemetryCapture, *, log_lines: bool
) -> None:
    """Age and progress are there while the run goes on, by the application's clock."""
    clock = ManualClock(1_000.0)
    app = make_app(time_func=clock)
    seen: list[Any] = []

    def gauges() -> list[Any]:
        names = ("rocketry.task.oldest_active", "rocketry.task.progress")
        return [
            [(dict(point.attributes), point.value) for point in telemetry.metric_points(name)]
            for name in names
        ]

    def body() -> None:
        clock.advance(90)
        seen.append(gauges())
        current_run().progress(0.25)
        seen.append(gauges())

    instrument(app, settings=Settings(log_lines=log_lines), **telemetry.providers)
    app.session.create_task(func=body, name="etl")
    run_tasks(app, "etl")
    age = [(TASK, 90.0)]
    assert seen == [[age, []], [age, [(TASK, 0.25)]]]
    assert gauges() == [[], []]
    (record,) = [one for one in telemetry.log_records if one.event_name == "rocketry.task.progress"]
    span = telemetry.span("etl")
    assert (record.trace_id, record.span_id) == (span.context.trace_id, span.context.span_id)
    assert record.timestamp == record.observed_timestamp == 1_090_000_000_000
    assert record.attributes == {
        "task_name": "etl",
        "rocketry.run_id": span.attributes["rocketry.run_id"],
        "rocketry.progress.done": 0.25,
        "rocketry.progress.total": 1.0,
        "rocketry.progress.ratio": 0.25,
    }


def test_age_survives_a_clock_that_raises(telemetry: TelemetryCapture) -> None:
    """The clock of the machine is used then; excluded tasks have no gauges."""
    clock = ManualClock()
    is_broken: list[bool] = []

    def time_func() -> float:
        if is_broken:
            raise RuntimeError("no clock")
        return clock()

    app = make_app(time_func=time_func)
    seen: list[Any] = []

    def body() -> None:
        current_run().progress(1, 2)
        is_broken.append(True)
        seen.extend(telemetry.metric_points("rocketry.task.oldest_active"))
        is_broken.clear()

    instrument(app, settings=Settings(exclude=("quiet",)), **telemetry.providers)
    app.session.create_task(func=body, name="etl")
    app.session.create_task(func=body, name="quiet")
    run_tasks(app, "etl", "quiet")
    (point,) = seen
    assert point.attributes == TASK
    assert point.value >= 0


def test_forked_child_does_not_show_the_runs_of_its_parent(telemetry: TelemetryCapture) -> None:
    """A metric reader goes on in a child of the application's."""
    app = make_app()
    handler = instrument(app, **telemetry.providers)
    handler.handle(task_record("run", run_id="r1"))
    assert len(telemetry.metric_points("rocketry.task.oldest_active")) == 1
    pid = os.fork()
    if pid == 0:
        os._exit(len(telemetry.metric_points("rocketry.task.oldest_active")))
    assert exit_code(pid) == 0

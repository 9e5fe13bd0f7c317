"""Runs of which Rocketry logs no ending: each is closed once, as a crash."""

from __future__ import annotations

import multiprocessing
import os
import socket
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk._logs import LogRecordProcessor
from opentelemetry.sdk.trace import SpanProcessor
from rocketry.conds import scheduler_running

from rocketry_otel import instrument, replay, uninstrument
from rocketry_otel._settings import Settings
from rocketry_otel.testing import capture_telemetry
from tests.support import apps
from tests.support.apps import OddError, make_app, run_tasks, start_method

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from opentelemetry.sdk._logs import ReadWriteLogRecord
    from opentelemetry.sdk.trace import ReadableSpan
    from rocketry import Rocketry

    from rocketry_otel.testing import TelemetryCapture

LONGEST = "40 seconds"


class _Kill(LogRecordProcessor):
    """Kills child processes as the kernel does, once so many runs have begun.

    A child that is killed while it writes to the common queue would block its siblings.
    """

    def __init__(self, runs: int = 1) -> None:
        self._left = runs

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        self._left -= log_record.log_record.event_name == "rocketry.task.run"
        if self._left == 0:
            for child in multiprocessing.active_children():
                child.kill()

    def shutdown(self) -> None:
        """Do nothing."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Do nothing."""
        del timeout_millis
        return True


class _ShutDown(SpanProcessor):
    """Shuts an application down when so many spans have ended."""

    def __init__(self, app: Rocketry, spans: int) -> None:
        self._app = app
        self._left = spans

    def on_end(self, span: ReadableSpan) -> None:
        del span
        self._left -= 1
        if self._left == 0:
            self._app.session.shut_down()


def run_until_closed(app: Rocketry, telemetry: TelemetryCapture, spans: int = 1) -> None:
    """Run an application until so many spans were made, or it has taken too long."""
    telemetry.tracer_provider.add_span_processor(_ShutDown(app, spans))
    app.session.config.shut_cond = scheduler_running(LONGEST)
    app.run()


def closed(telemetry: TelemetryCapture) -> dict[str, Any]:
    """Return the attributes of the one span, without the run id."""
    span = telemetry.span("etl")
    assert span.attributes is not None
    # Where its code is, and why it began, is tested elsewhere.
    others = ("code.", "rocketry.trigger")
    attributes = {key: its for key, its in span.attributes.items() if not key.startswith(others)}
    assert attributes.pop("rocketry.run_id")
    assert attributes.pop("host.name") == socket.gethostname()
    is_here = attributes.pop("process.pid") == os.getpid()
    assert is_here is (attributes["rocketry.execution"] != "process")
    assert span.start_time is not None
    assert span.end_time is not None
    assert 0 <= span.end_time - span.start_time < 10_000_000_000
    assert [record.event_name for record in telemetry.log_records] == [
        "rocketry.task.run",
        "rocketry.task.crash",
    ]
    assert [point.value for point in telemetry.metric_points("rocketry.task.active")] == [0]
    return attributes


def crash(execution: str, **more: Any) -> dict[str, Any]:
    """Return the attributes of a run that was closed as a crash."""
    return {
        "task_name": "etl",
        "rocketry.execution": execution,
        "rocketry.action": "crash",
        "error.type": "crash",
        "rocketry.end_estimated": True,
        **more,
    }


@pytest.mark.parametrize(
    ("body", "known"),
    [
        (apps.sleep, {"rocketry.crash.signal": "SIGKILL"}),
        (apps.leave, {"process.exit.code": 3}),
        (apps.interrupt, {"process.exit.code": 1}),
        (apps.raise_odd_error, {"process.exit.code": 1}),
    ],
)
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_child_that_ends_without_a_word_is_a_crash(
    method: str, body: Callable[[], None], known: dict[str, Any], telemetry: TelemetryCapture
) -> None:
    """The span has its exit code or signal; Rocketry's own records stay as they are."""
    with start_method(method):
        app = make_app(execution="process")
        app.session.create_task(func=body, name="etl", start_cond="every 1 hour")
        handler = instrument(app, **telemetry.providers)
        if body is apps.sleep:
            telemetry.logger_provider.add_log_record_processor(_Kill())
        run_until_closed(app, telemetry)
    assert closed(telemetry) == crash("process", **known)
    assert [record.action for record in handler.repo.filter_by().all()] == ["run"]


@pytest.mark.parametrize(
    ("execution", "body"),
    [
        ("thread", apps.leave),
        ("thread", apps.interrupt),
        ("thread", apps.raise_odd_error),
        ("async", apps.raise_odd_error),
    ],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_thread_that_ends_without_a_word_is_a_crash(
    execution: Any, body: Callable[[], None], telemetry: TelemetryCapture
) -> None:
    """An asyncio task is no different."""
    app = make_app(execution=execution)
    app.session.create_task(func=body, name="etl", start_cond="every 1 hour")
    handler = instrument(app, **telemetry.providers)
    run_until_closed(app, telemetry)
    assert closed(telemetry) == crash(execution)
    assert [record.action for record in handler.repo.filter_by().all()] == ["run"]


@pytest.mark.parametrize("execution", ["main", "async"])
@pytest.mark.parametrize(
    ("body", "error"),
    [
        (apps.leave, SystemExit),
        (apps.interrupt, KeyboardInterrupt),
        (apps.raise_odd_error, OddError),
    ],
)
def test_error_that_ends_the_scheduler_closes_the_run(
    execution: Any,
    body: Callable[[], None],
    error: type[BaseException],
    telemetry: TelemetryCapture,
) -> None:
    """The error comes out as without us; the run is closed at the end of the scheduler."""
    app = make_app(execution=execution)
    app.session.create_task(func=body, name="etl")
    instrument(app, **telemetry.providers)
    if (execution, error) == ("async", OddError):
        run_tasks(app, "etl", cycles=2)
    else:
        with pytest.raises(error):
            run_tasks(app, "etl", cycles=2)
    assert closed(telemetry) == crash(execution)


def test_child_that_dies_at_the_shutdown_is_a_crash(telemetry: TelemetryCapture) -> None:
    """No cycle comes after it: the end of the scheduler closes it."""
    app = make_app(execution="process")
    app.session.create_task(func=apps.sleep, name="etl", on_shutdown=True)
    telemetry.logger_provider.add_log_record_processor(_Kill())
    instrument(app, **telemetry.providers)
    run_tasks(app)
    assert closed(telemetry) == crash("process", **{"rocketry.crash.signal": "SIGKILL"})


def test_each_of_several_runs_is_closed(telemetry: TelemetryCapture) -> None:
    """Runs of one task that overlap are kept apart."""
    app = make_app(execution="process", config={"max_process_count": 3})
    app.session.create_task(func=apps.sleep, name="etl", multilaunch=True)
    for _ in range(3):
        app.session["etl"].run()
    telemetry.logger_provider.add_log_record_processor(_Kill(3))
    handler = instrument(app, **telemetry.providers)
    run_until_closed(app, telemetry, spans=3)
    assert len({span.context.span_id for span in telemetry.spans}) == 3
    assert {(span.attributes or {})["rocketry.action"] for span in telemetry.spans} == {"crash"}
    assert [point.value for point in telemetry.metric_points("rocketry.task.active")] == [0]
    assert {record.action for record in handler.repo.filter_by().all()} == {"run"}


@pytest.mark.parametrize("kind", ["memory", "sqlite", "csv"])
def test_run_is_closed_once_though_rocketry_logs_a_crash_later(kind: str, tmp_path: Path) -> None:
    """A scheduler that starts again logs a crash of the newest run: the span is sent already."""
    url = {"memory": "memory://"}.get(kind, f"{kind}:///{tmp_path / 'tasks'}")
    app = make_app(execution="process")
    app.session.create_task(func=apps.sleep, name="etl")
    app.session["etl"].run()
    with capture_telemetry() as first:
        first.logger_provider.add_log_record_processor(_Kill())
        handler = instrument(app, repo=url, settings=Settings(links=False), **first.providers)
        run_until_closed(app, first)
        assert first.span("etl").context is not None
        # The second scheduler of this process: Rocketry logs the crash when it starts.
        run_tasks(app)
        assert len(first.spans) == 1
        assert [record.event_name for record in first.log_records] == [
            "rocketry.task.run",
            "rocketry.task.crash",
            "rocketry.task.crash",
        ]
        dropped = [
            point.attributes
            for point in first.metric_points("rocketry.bridge.dropped")
            if point.value
        ]
        assert dropped == []
    records = handler.repo.filter_by().all()
    assert [record.action for record in records] == ["run", "crash"]
    assert len({record.trace_id for record in records}) == 1
    uninstrument(app)


def test_next_process_and_replay_send_no_other_ending(tmp_path: Path) -> None:
    """After a restart, Rocketry's crash changes nothing, and a replay sends what was sent."""
    url = f"sqlite:///{tmp_path / 'tasks.db'}"
    app = make_app(execution="process")
    app.session.create_task(func=apps.sleep, name="etl")
    app.session["etl"].run()
    with capture_telemetry() as first:
        first.logger_provider.add_log_record_processor(_Kill())
        instrument(app, repo=url, **first.providers)
        run_until_closed(app, first)
        uninstrument(app)
    again = make_app(execution="process")
    again.session.create_task(func=apps.sleep, name="etl")
    with capture_telemetry() as second:
        handler = instrument(again, repo=url, **second.providers)
        run_tasks(again)
        assert second.spans == []
        uninstrument(again)
    assert [record.action for record in handler.repo.filter_by().all()] == ["run", "crash"]
    result = replay(handler.repo, dry_run=True)
    assert result.runs == 1

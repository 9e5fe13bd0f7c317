"""The contract on real Rocketry applications, in every mode of execution."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.trace import SpanKind, StatusCode
from rocketry.args import SimpleArg
from rocketry.conds import daily

from rocketry_otel import instrument, open_repository, uninstrument
from tests.support import apps
from tests.support.apps import make_app, run_tasks, start_method
from tests.support.processes import run_python

if TYPE_CHECKING:
    from rocketry_otel.testing import TelemetryCapture

ENDINGS = {
    "main": ["success", "fail", "inaction"],
    "async": ["success", "fail", "inaction", "terminate"],
    "thread": ["success", "fail", "inaction", "terminate"],
    "process": ["success", "fail", "inaction", "terminate"],
}
MODES = [(mode, "fork", ending) for mode, endings in ENDINGS.items() for ending in endings]
MODES += [("process", "spawn", ending) for ending in ENDINGS["process"]]
FUNCTIONS = {"success": apps.succeed, "fail": apps.fail, "inaction": apps.do_nothing}
LONG = {"async": apps.sleep_async, "thread": apps.sleep_until_terminated, "process": apps.sleep}


@pytest.mark.parametrize(("execution", "method", "ending"), MODES)
def test_every_ending_in_every_mode(
    execution: str, method: str, ending: str, telemetry: TelemetryCapture
) -> None:
    """Span, log records and stored records of one run agree, and follow the contract."""
    with start_method(method):
        app = make_app()
        handler = instrument(app, **telemetry.providers)
        function = FUNCTIONS.get(ending) or LONG[execution]
        timeout = 0.1 if ending == "terminate" else None
        app.session.create_task(func=function, name="etl", execution=execution, timeout=timeout)
        run_tasks(app, "etl")
    began, ended = handler.repo.filter_by().all()
    assert (began.action, ended.action) == ("run", ending)
    span = telemetry.span("etl")
    assert (span.name, span.kind, span.parent) == ("run etl", SpanKind.INTERNAL, None)
    assert span.start_time == int(began.created * 1e9)
    assert span.end_time == int(ended.created * 1e9)
    assert f"{span.context.trace_id:032x}" == began.trace_id == ended.trace_id
    assert f"{span.context.span_id:016x}" == began.span_id == ended.span_id
    assert began.trace_id == handler.trace_id_of(began) == handler.trace_id_of(ended)
    expected = {
        "task_name": "etl",
        "rocketry.run_id": began.run_id,
        "rocketry.execution": execution,
        "rocketry.action": ending,
        "host.name": socket.gethostname(),
        "process.pid": began.process,
        "rocketry.trigger": "request",
        "code.function.name": f"{function.__module__}.{function.__qualname__}",
        "code.file.path": function.__code__.co_filename,
        "code.line.number": function.__code__.co_firstlineno,
    }
    assert (began.process == os.getpid()) is (execution != "process")
    error_types = {"fail": "ValueError", "terminate": "timeout"}
    if ending in error_types:
        expected["error.type"] = error_types[ending]
    reason = {"rocketry.termination.reason": "timeout"} if ending == "terminate" else {}
    assert dict(span.attributes) == {**expected, **reason}
    numbers = {key for key, value in span.attributes.items() if type(value) is int}
    assert numbers == {"process.pid", "code.line.number"}
    failed = ending in error_types
    assert span.status.status_code is (StatusCode.ERROR if failed else StatusCode.UNSET)
    if ending == "fail":
        (event,) = span.events
        assert event.name == "exception"
        assert span.start_time <= event.timestamp <= span.end_time < event.timestamp + 2_000
        stacktrace = event.attributes["exception.stacktrace"]
        assert event.attributes["exception.type"] == "ValueError"
        assert event.attributes["exception.message"] == "boom"
        assert "Traceback (most recent call last):" in stacktrace
        assert 'raise ValueError("boom")' in stacktrace
    else:
        assert not span.events
    assert [record.event_name for record in telemetry.log_records] == [
        "rocketry.task.run",
        f"rocketry.task.{ending}",
    ]
    for record, stored in zip(telemetry.log_records, (began, ended), strict=True):
        assert record.trace_id == span.context.trace_id
        assert record.span_id == span.context.span_id
        assert record.timestamp == record.observed_timestamp == int(stored.created * 1e9)
        assert record.body == stored.message
        assert record.attributes["rocketry.action"] == stored.action
    points = {
        tuple(sorted(point.attributes.items())): point
        for point in telemetry.metric_points("rocketry.task.duration")
    }
    ((attributes, point),) = points.items()
    assert dict(attributes)["rocketry.action"] == ending
    assert point.sum == pytest.approx((span.end_time - span.start_time) / 1e9)
    assert [point.value for point in telemetry.metric_points("rocketry.task.active")] == [0]


def test_overlapping_runs_of_one_task_are_traces_of_their_own(telemetry: TelemetryCapture) -> None:
    """Runs that go on at once, and end in another order, each keep their own times."""
    app = make_app()
    handler = instrument(app, **telemetry.providers)
    gates: dict[int, asyncio.Event] = {}

    async def wait(number: int) -> None:
        gates[number] = asyncio.Event()
        if len(gates) == 3:
            gates[2].set()
        await gates[number].wait()
        if number:
            gates[number - 1].set()

    app.session.create_task(func=wait, name="etl", execution="async", multilaunch=True)
    for number in range(3):
        app.session["etl"].run(number=number)
    run_tasks(app, cycles=4)
    assert len(telemetry.spans) == 3
    records = handler.repo.filter_by().all()
    beginnings = {record.run_id: record for record in records if record.action == "run"}
    endings = {record.run_id: record for record in records if record.action == "success"}
    assert max(record.created for record in beginnings.values()) < min(
        record.created for record in endings.values()
    )
    for span in telemetry.spans:
        run_id = span.attributes["rocketry.run_id"]
        assert span.start_time == int(beginnings[run_id].created * 1e9)
        assert span.end_time == int(endings[run_id].created * 1e9)
        assert f"{span.context.trace_id:032x}" == endings[run_id].trace_id
    assert len({span.context.trace_id for span in telemetry.spans}) == 3


def test_early_failure_of_a_thread_is_one_run(
    telemetry: TelemetryCapture,
) -> None:
    """Rocketry logs that failure without a run id: it is the end of the run in that thread."""
    app = make_app()
    handler = instrument(app, **telemetry.providers)

    def hook() -> None:
        raise RuntimeError("hook")

    app.session.create_task(func=apps.succeed, name="etl", execution="thread")
    app.session.hooks.task_execute.append(hook)
    run_tasks(app, "etl")
    began, ended = handler.repo.filter_by().all()
    assert (began.action, ended.action, ended.run_id) == ("run", "fail", None)
    span = telemetry.span("etl")
    assert (span.start_time, span.end_time) == (int(began.created * 1e9), int(ended.created * 1e9))
    assert span.attributes["rocketry.run_id"] == began.run_id
    assert span.attributes["error.type"] == "RuntimeError"
    assert ended.trace_id == began.trace_id


def test_failed_setup_is_a_run(telemetry: TelemetryCapture) -> None:
    """A task whose parameters cannot be made shows its failure as any other."""

    class Broken(SimpleArg):
        def get_value(self, **_: Any) -> Any:
            raise RuntimeError("no value")

    app = make_app()
    app.session.config.silence_task_prerun = True
    instrument(app, **telemetry.providers)
    app.session.create_task(
        func=lambda x: x, name="etl", execution="thread", parameters={"x": Broken(1)}
    )
    run_tasks(app, "etl")
    span = telemetry.span("etl")
    assert span.attributes["rocketry.action"] == "fail"
    assert span.attributes["error.type"] == "RuntimeError"
    assert span.status.status_code is StatusCode.ERROR


def test_records_of_a_body_are_not_stored(telemetry: TelemetryCapture) -> None:
    """A record without action fails no task, is exported with the run's ids, and is no event."""
    app = make_app()
    handler = instrument(app, **telemetry.providers)

    def talk() -> None:
        app.session["etl"].logger.warning("half way")

    app.session.create_task(func=talk, name="etl")
    run_tasks(app, "etl")
    assert [record.action for record in handler.repo.filter_by().all()] == ["run", "success"]
    _, note, _ = telemetry.log_records
    assert (note.event_name, note.body, note.severity_text) == (None, "half way", "WARN")
    run = telemetry.span("etl")
    assert dict(note.attributes) == {
        "task_name": "etl",
        "rocketry.run_id": run.attributes["rocketry.run_id"],
    }
    assert (note.trace_id, note.span_id) == (run.context.trace_id, run.context.span_id)
    assert note.trace_id == telemetry.span("etl").context.trace_id


@pytest.mark.parametrize("scheme", ["csv", "sqlite", "json"])
def test_state_survives_a_restart(scheme: str, tmp_path: Path, telemetry: TelemetryCapture) -> None:
    """Status, times and conditions on the past are read from the chosen repository."""
    # SQLAlchemy's own URLs have one slash more before an absolute path.
    url = f"{scheme}://{'/' if scheme == 'sqlite' else ''}{tmp_path}/tasks"

    def make() -> Any:
        logging.getLogger("rocketry.task").handlers = []
        app = make_app()
        app.session.create_task(func=apps.succeed, name="daily", start_cond=daily)
        app.session.create_task(func=apps.fail, name="failing")
        instrument(app, repo=open_repository(url), **telemetry.providers)
        return app

    first = make()
    run_tasks(first, "failing")
    repo = first.session.get_repo()
    (succeeded,) = repo.filter_by(task_name="daily", action="success").all()
    (failed,) = repo.filter_by(task_name="failing", action="fail").all()
    uninstrument(first)
    second = make()
    run_tasks(second)
    assert second.session["daily"].last_success.timestamp() == pytest.approx(succeeded.created)
    assert second.session["failing"].last_fail.timestamp() == pytest.approx(failed.created)
    assert second.session["failing"].status == "fail"
    assert len(second.session["daily"].logger.filter_by(action="run").all()) == 1


# The script imports the tests' own applications.
IMPORTABLE = {"PYTHONPATH": str(Path(__file__).parents[2])}

KILLED = """
    import os, signal, sys
    from rocketry_otel import instrument, open_repository
    from rocketry_otel.testing import capture_telemetry
    from tests.support.apps import make_app, run_tasks

    def die():
        if sys.argv[2] == "die":
            os.kill(os.getpid(), signal.SIGKILL)

    app = make_app()
    app.session.create_task(func=die, name="etl", execution=sys.argv[3])
    with capture_telemetry() as telemetry:
        handler = instrument(app, repo=open_repository(sys.argv[1]), **telemetry.providers)
        if sys.argv[2] == "die":
            run_tasks(app, "etl")
        else:
            run_tasks(app)
        print(telemetry.spans[0].to_json(indent=None))
        print(telemetry.log_records[0].event_name, telemetry.log_records[0].severity_text)
        print(app.session["etl"].status)
"""


@pytest.mark.parametrize("execution", ["main", "thread"])
def test_run_that_kill_9_cut_off_is_closed_after_the_restart(
    execution: str, tmp_path: Path
) -> None:
    """Rocketry logs ``crash``; the span reaches from the run's record to the crash's."""
    url = f"sqlite:///{tmp_path}/tasks.db"
    died = run_python(KILLED, url, "die", execution, env=IMPORTABLE)
    assert died.returncode == -signal.SIGKILL, died.stderr
    restarted = run_python(KILLED, url, "live", execution, env=IMPORTABLE)
    assert restarted.returncode == 0, restarted.stderr
    lines = restarted.stdout.splitlines()
    span = json.loads(lines[0])
    began, crashed = open_repository(url).filter_by(task_name="etl").all()
    assert (began.action, crashed.action) == ("run", "crash")
    assert span["context"]["trace_id"] == f"0x{began.trace_id}"
    assert span["context"]["span_id"] == f"0x{began.span_id}"
    assert crashed.trace_id == began.trace_id
    # Where its code is, and why it began, is known from its first record.
    attributes = {key: its for key, its in span["attributes"].items() if key[:5] != "code."}
    assert attributes == {
        "task_name": "etl",
        "rocketry.run_id": began.run_id,
        "rocketry.execution": execution,
        "rocketry.trigger": "request",
        "rocketry.action": "crash",
        "host.name": socket.gethostname(),
        "process.pid": began.process,
        "error.type": "crash",
        "rocketry.end_estimated": True,
    }
    assert span["status"]["status_code"] == "ERROR"
    assert lines[1:] == ["rocketry.task.crash ERROR", "crash"]


def test_repository_error_costs_no_telemetry(
    telemetry: TelemetryCapture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with Red Bird's handler the task fails; its span and log records are there."""
    app = make_app()
    app.session.config.silence_task_logging = True
    handler = instrument(app, **telemetry.providers)
    app.session.create_task(func=apps.succeed, name="etl")
    add = type(handler.repo).add

    def refuse_success(repo: Any, item: Any, **kwargs: Any) -> None:
        if item.action == "success":
            raise OSError("disk full")
        add(repo, item, **kwargs)

    monkeypatch.setattr(type(handler.repo), "add", refuse_success)
    run_tasks(app, "etl")
    assert [record.action for record in handler.repo.filter_by().all()][:1] == ["run"]
    assert app.session["etl"].status == "fail"
    assert telemetry.span("etl").attributes["rocketry.action"] == "success"
    assert "rocketry.task.success" in [record.event_name for record in telemetry.log_records]


def test_user_function_for_run_ids_is_obeyed(telemetry: TelemetryCapture) -> None:
    """Ids that come again and again still name runs of their own."""
    app = make_app(func_run_id=lambda task, params: "always")
    handler = instrument(app, **telemetry.providers)
    app.session.create_task(func=apps.succeed, name="etl")
    run_tasks(app, "etl")
    run_tasks(app, "etl")
    assert len(telemetry.spans) == 2
    assert len({span.context.trace_id for span in telemetry.spans}) == 2
    assert {record.run_id for record in handler.repo.filter_by().all()} == {"always"}

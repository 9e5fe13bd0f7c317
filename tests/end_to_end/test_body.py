"""The bodies of tasks, from the view of a collector."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any

import pytest
from opentelemetry import baggage, propagate, trace
from opentelemetry.context import attach, detach
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from redbird.logging import RepoHandler
from redbird.repos import MemoryRepo
from rocketry.args import Task as TaskArgument
from rocketry.args import TerminationFlag
from rocketry.exc import TaskTerminationException
from rocketry.log import MinimalRecord

from rocketry_otel import current_run, instrument, uninstrument
from rocketry_otel._instrumentation.bridge import Bridge
from rocketry_otel._instrumentation.hooks import SchedulerHooks
from rocketry_otel.testing import TelemetryCapture
from tests.support.apps import make_app, run_tasks, start_method, succeed
from tests.support.otlp_receiver import Hang, OTLPReceiver, attributes_of
from tests.support.processes import run_command, run_python

APP = Path(__file__).parents[1] / "support" / "body_app.py"
HERE = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
RATIO = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.5"}
METHODS = ["fork", "spawn", "forkserver"]


@dataclass(frozen=True)
class Body:
    """A span that a body made, with its attributes."""

    name: str
    trace_id: str
    span_id: str
    parent: str
    attributes: dict[str, Any]


@dataclass(frozen=True)
class Seen:
    """The result of an application.

    Attributes:
        report: Its output.
        spans: All spans that the collector was sent.
        logs: All log records, as trace id, span id, body and attributes.
    """

    report: dict[str, Any]
    spans: list[Body]
    logs: list[tuple[str, str, str, dict[str, Any]]]

    @property
    def runs(self) -> dict[str, Body]:
        """The spans of runs, by Rocketry's ids of them."""
        found = [span for span in self.spans if span.name.startswith("run ")]
        runs = {span.attributes["rocketry.run_id"]: span for span in found}
        assert len(runs) == len(found)
        return runs

    def work(self, label: str) -> list[Body]:
        """Return the spans that ``work`` made under a label."""
        return [span for span in self.spans if span.name == f"work {label}"]

    def work_logs(self) -> list[tuple[str, str, str, dict[str, Any]]]:
        """Return the log records that bodies wrote."""
        return [record for record in self.logs if record[2].startswith("log ")]

    def began(self) -> dict[str, dict[str, Any]]:
        """Return the stored records that began runs, by run id."""
        records = self.report["records"]
        return {record["run_id"]: record for record in records if record["action"] == "run"}


def run_app(method: str, scenario: str, **env: str) -> Seen:
    """Run the application with its own receiver."""
    with OTLPReceiver(grpc=False) as receiver:
        env = {**HERE, "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint, **env}
        done = run_command([sys.executable, str(APP), method, scenario], env=env, timeout=100)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return seen_by(receiver, json.loads(done.stdout.splitlines()[-1]))


def seen_by(receiver: OTLPReceiver, report: dict[str, Any]) -> Seen:
    """Return the telemetry of an application at a receiver."""
    assert not receiver.malformed
    return Seen(
        report,
        [
            Body(
                span.name,
                span.trace_id.hex(),
                span.span_id.hex(),
                span.parent_span_id.hex(),
                attributes_of(span.attributes),
            )
            for _, _, span in receiver.spans
        ],
        [
            (
                record.trace_id.hex(),
                record.span_id.hex(),
                record.body.string_value,
                attributes_of(record.attributes),
            )
            for _, _, record in receiver.log_records
        ],
    )


RUNS = {
    "fork": ("fork", "modes", {"ROCKETRY_OTEL_EXCLUDE": "unseen"}),
    "spawn": ("spawn", "modes", {"ROCKETRY_OTEL_EXCLUDE": "unseen"}),
    "forkserver": ("forkserver", "modes", {"ROCKETRY_OTEL_EXCLUDE": "unseen"}),
    "fork sampled": ("fork", "many", RATIO),
    "spawn sampled": ("spawn", "process", RATIO),
    "forkserver sampled": ("forkserver", "process", RATIO),
    "fork own": ("fork", "alone", {"BODY_APP_PROVIDER": "own"}),
    "spawn own": ("spawn", "alone", {"BODY_APP_PROVIDER": "own"}),
}


@pytest.fixture(scope="module")
def apps() -> Iterator[dict[str, Any]]:
    """Every application that tests here look at, run once, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        yield {
            name: pool.submit(run_app, method, scenario, **env)
            for name, (method, scenario, env) in RUNS.items()
        }


LABELS = {"main": 3, "async": 3, "sub_task": 3, "to_thread": 3, "thread": 3, "process": 2}


@pytest.mark.parametrize("method", METHODS)
def test_spans_of_a_body_are_children_of_its_runs_span(method: str, apps: dict[str, Any]) -> None:
    """In every mode, of overlapping runs too, parent and trace id are exactly the run's."""
    seen: Seen = apps[method].result()
    runs = seen.runs
    assert Counter(span.name for span in runs.values()) == {
        "run in_main": 2,
        "run in_async": 3,
        "run in_thread": 3,
        "run in_process": 2,
        "run after": 1,
    }
    for label, count in LABELS.items():
        work = seen.work(label)
        assert len(work) == count
        assert len({span.attributes["run_id"] for span in work}) == count
        for span in work:
            run = runs[span.attributes["run_id"]]
            assert (span.parent, span.trace_id) == (run.span_id, run.trace_id)
            assert span.attributes["run_trace_id"] == run.trace_id
            assert span.attributes["run_span_id"] == run.span_id
            assert run.attributes["task_name"] == span.attributes["task"]
            # Sampled, and with uniform ids, as W3C Trace Context has it.
            assert span.attributes["flags"] == 3
            assert (span.attributes["pid"] == seen.report["pid"]) is (label != "process")
    assert len({span.trace_id for span in runs.values()}) == len(runs)
    assert {span.parent for span in runs.values()} == {""}


@pytest.mark.parametrize("method", METHODS)
def test_runs_that_are_to_overlap_do(method: str, apps: dict[str, Any]) -> None:
    """All runs of a task had begun before the first of them ended."""
    records = apps[method].result().report["records"]
    for task, count in (("in_async", 3), ("in_thread", 3), ("in_process", 2)):
        begun = [
            it["created"] for it in records if (it["task_name"], it["action"]) == (task, "run")
        ]
        ended = [
            it["created"] for it in records if (it["task_name"], it["action"]) == (task, "success")
        ]
        assert len(begun) == len(ended) == count
        assert max(begun) < min(ended)


@pytest.mark.parametrize("method", METHODS)
def test_log_records_of_a_body_carry_the_ids_of_its_run(method: str, apps: dict[str, Any]) -> None:
    """Records of OpenTelemetry's logging handler have the run's trace and span id."""
    seen: Seen = apps[method].result()
    runs = seen.runs
    records = seen.work_logs()
    assert Counter(body for _, _, body, _ in records) == {
        f"log {label}": count for label, count in LABELS.items()
    }
    for trace_id, span_id, _, attributes in records:
        run = runs[attributes["run_id"]]
        assert (trace_id, span_id) == (run.trace_id, run.span_id)


@pytest.mark.parametrize("method", METHODS)
def test_body_leaks_no_run_or_span(method: str, apps: dict[str, Any]) -> None:
    """Neither the scheduler nor a task that is not exported sees any run or span."""
    leaks = apps[method].result().report["leaks"]
    assert len(leaks) >= 2 * 3 + 2
    assert [leak for leak in leaks if any(leak)] == []


@pytest.mark.parametrize("method", METHODS)
def test_baggage_reaches_the_body(method: str, apps: dict[str, Any]) -> None:
    """Baggage of the application is there in every mode."""
    seen: Seen = apps[method].result()
    for label, count in LABELS.items():
        assert [span.attributes["team"] for span in seen.work(label)] == ["blue"] * count


@pytest.mark.parametrize("method", METHODS)
def test_body_adds_to_its_runs_span(method: str, apps: dict[str, Any]) -> None:
    """Attributes come from the body itself, its sub-tasks, its threads and its process."""
    added = {
        "in_main": ["main"],
        "after": ["main"],
        "in_async": ["async", "sub_task", "to_thread"],
        "in_thread": ["thread"],
        "in_process": ["process"],
    }
    for run in apps[method].result().runs.values():
        attributes = {name for name in run.attributes if name.startswith("from ")}
        assert attributes == {f"from {name}" for name in added[run.attributes["task_name"]]}


@pytest.mark.parametrize("method", METHODS)
def test_body_is_sampled_as_its_run_is(method: str, apps: dict[str, Any]) -> None:
    """With a ratio sampler spans of bodies are there for exactly the runs whose span is."""
    seen: Seen = apps[f"{method} sampled"].result()
    began = seen.began()
    expected = 42 if method == "fork" else 2
    assert len(began) == expected
    records = {attributes["run_id"]: attributes for _, _, _, attributes in seen.work_logs()}
    assert set(records) == set(began)
    sampled = {run_id for run_id, attributes in records.items() if attributes["sampled"]}
    assert set(seen.runs) == sampled
    body = [span for span in seen.spans if span.name.startswith("work ")]
    assert sorted(span.attributes["run_id"] for span in body) == sorted(sampled)
    for span in body:
        assert span.parent == seen.runs[span.attributes["run_id"]].span_id
    if method == "fork":
        # All 42 on one side would be a chance of 1 in 2 ** 41.
        assert 0 < len(sampled) < expected
        for trace_id, _, _, attributes in seen.work_logs():
            assert trace_id == began[attributes["run_id"]]["trace_id"]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_applications_own_provider_is_flushed_in_the_child(
    method: str, apps: dict[str, Any]
) -> None:
    """The body's span arrives though the application's processor would wait ten minutes."""
    seen: Seen = apps[f"{method} own"].result()
    (run,) = seen.runs.values()
    (work,) = seen.work("alone")
    assert (work.parent, work.trace_id) == (run.span_id, run.trace_id)
    assert work.attributes["pid"] != seen.report["pid"]


@pytest.mark.parametrize(
    ("method", "provider"), [("fork", "ours"), ("spawn", "ours"), ("fork", "own")]
)
def test_hanging_collector_delays_a_child_briefly(method: str, provider: str) -> None:
    """The child ends soon after the shutdown time-out, with either provider."""
    with OTLPReceiver(grpc=False) as receiver:
        receiver.behave(Hang())
        env = {
            **HERE,
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint,
            "ROCKETRY_OTEL_SHUTDOWN_TIMEOUT": "1",
            "BODY_APP_PROVIDER": provider,
            "BODY_APP_LEAVE": "at once",
        }
        done = run_command([sys.executable, str(APP), method, "alone"], env=env)
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout.splitlines()[-1])
        # It tried to send: otherwise it had no reason to wait.
        assert any(
            span.name == "work alone"
            for request in receiver.requests
            if request.signal == "traces"
            for of_resource in request.message.resource_spans
            for of_scope in of_resource.scope_spans
            for span in of_scope.spans
        )
    began, ended = report["records"]
    assert (began["action"], ended["action"]) == ("run", "success")
    # A request to this collector takes ten seconds; the machine may be busy with other tests.
    assert 0.9 < report["ended"] - ended["created"] < 6


def test_request_of_a_body_continues_its_trace() -> None:
    """Run, body, client and server make one trace, each below the one before, in every mode."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("server")

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the name is http.server's
            context = propagate.extract(dict(self.headers))
            with tracer.start_as_current_span("serve", context, trace.SpanKind.SERVER):
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Print nothing."""

    with ExitStack() as stack:
        server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), Server))
        thread = Thread(target=server.serve_forever)
        thread.start()
        stack.callback(thread.join)
        stack.callback(server.shutdown)
        target = f"http://127.0.0.1:{server.server_port}/"
        seen = run_app("fork", "fetch", BODY_APP_TARGET=target)
    served = exporter.get_finished_spans()
    provider.shutdown()
    spans = {span.span_id: span for span in seen.spans}
    assert len(served) == 4
    tasks = []
    for span in served:
        assert span.context is not None
        assert span.parent is not None
        client = spans[f"{span.parent.span_id:016x}"]
        fetch = spans[client.parent]
        run = spans[fetch.parent]
        assert (client.name, fetch.name, run.parent) == ("GET", "fetch", "")
        assert f"{span.context.trace_id:032x}" == client.trace_id == fetch.trace_id == run.trace_id
        tasks.append(run.attributes["task_name"])
    assert sorted(tasks) == ["async", "main", "process", "thread"]
    # Sending telemetry makes none: each run has its three spans here, and nothing else came.
    assert len(spans) == 3 * 4


GLOBALS = """
    import json, logging, os, sys
    from opentelemetry import metrics, trace, _logs
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk.metrics import MeterProvider
    from redbird.repos import MemoryRepo
    from rocketry_otel import OTelRepoHandler, TaskEventRecord, instrument
    from tests.support.apps import make_app, run_tasks

    def set_own():
        own.update(trace=TracerProvider(), logs=LoggerProvider(), metrics=MeterProvider())
        trace.set_tracer_provider(own["trace"])
        _logs.set_logger_provider(own["logs"])
        metrics.set_meter_provider(own["metrics"])

    def in_force():
        return {"trace": trace.get_tracer_provider(), "logs": _logs.get_logger_provider(),
                "metrics": metrics.get_meter_provider()}

    def unset():
        return [name for name, one in in_force().items() if "Proxy" in type(one).__name__]

    def body():
        with trace.get_tracer("body").start_as_current_span("work") as span:
            recorded.append(span.is_recording())

    def run(case):
        app = make_app()
        app.session.create_task(func=body, name="etl", on_startup="on_startup" in case)
        if case == "hook_before":
            app.session.hooks.scheduler_startup.append(set_own)
        if case == "off":
            os.environ["ROCKETRY_OTEL_GLOBAL_PROVIDERS"] = "false"
        if case == "bare":
            logging.getLogger("rocketry.task").handlers = [
                OTelRepoHandler(MemoryRepo(model=TaskEventRecord))
            ]
        else:
            instrument(app)
        early = unset()
        if "hook_after" in case:
            app.session.hooks.scheduler_startup.append(set_own)
        if case == "before_run":
            set_own()
        run_tasks(app, "etl")
        theirs = [name for name, one in in_force().items() if own.get(name) is one]
        print(json.dumps([case, early, unset(), theirs, recorded]), flush=True)

    own, recorded = {}, []
    for case in sys.argv[1:]:
        # Each has its own global providers, in a process that has only imported so far.
        child = os.fork()
        if not child:
            run(case)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0, case
"""
ALL = ["trace", "logs", "metrics"]
# Which are still unset at the end, which are the application's, and whether bodies are recorded.
GLOBAL_CASES: dict[str, list[Any]] = {
    "plain": [[], [], [True]],
    "on_startup": [[], [], [True]],
    "hook_before": [[], ALL, [True]],
    "hook_after": [[], ALL, [True]],
    "hook_after on_startup": [[], ALL, [True]],
    "before_run": [[], ALL, [True]],
    "off": [ALL, [], [False]],
    "bare": [ALL, [], [False]],
}


@pytest.fixture(scope="module")
def globals_seen() -> dict[str, list[Any]]:
    """The global providers in each case."""
    with OTLPReceiver(grpc=False) as receiver:
        env = {**HERE, "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint}
        done = run_python(GLOBALS, *GLOBAL_CASES, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    return {case: seen for case, *seen in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("case", GLOBAL_CASES)
def test_global_providers_at_the_start(case: str, globals_seen: dict[str, list[Any]]) -> None:
    """Ours become global at the start, unless the application has its own or turns that off."""
    early, *late = globals_seen[case]
    assert early == ALL
    assert late == GLOBAL_CASES[case]


# Where a run began.
ORIGIN = {"host.name", "process.pid"}
CODE = {"code.function.name", "code.file.path", "code.line.number"}
SAID = {"ok": True, "ratio": 0.5, "rows": 4, "team": "blue"}


def say(ending: str) -> None:
    """Say things of the run, and end in a way."""
    run = current_run()
    assert run is not None
    run.set_attribute("rows", 3)
    for key, value in SAID.items():
        run.set_attribute(key, value)
    run.set_attribute("itself", f"{run.task_name} {run.run_id} {run.trace_id} {run.span_id}")
    run.add_event("half", {"n": 1})
    if ending == "fail":
        raise ValueError("boom")


def say_and_end() -> None:
    """Add attributes and events, and succeed."""
    say("success")


def say_and_fail() -> None:
    """Add attributes and events, and fail."""
    say("fail")


def say_until_terminated(flag: Event = TerminationFlag()) -> None:  # noqa: B008
    """Add attributes and events, and end when Rocketry ends it."""
    say("terminate")
    assert flag.wait(60)
    raise TaskTerminationException


async def say_until_cancelled() -> None:
    """Add attributes and events, and go on until cancelled."""
    say("terminate")
    await asyncio.sleep(60)


def say_until_killed() -> None:
    """Add attributes and events, and go on until killed."""
    say("terminate")
    time.sleep(60)


ENDINGS = {"success": say_and_end, "fail": say_and_fail}
LONG = {"async": say_until_cancelled, "thread": say_until_terminated, "process": say_until_killed}
SAYING = [
    (execution, method, ending)
    for ending in ("success", "fail", "terminate")
    for execution, method in (
        ("main", "fork"),
        ("async", "fork"),
        ("thread", "fork"),
        ("process", "fork"),
        ("process", "spawn"),
    )
    if (execution, ending) != ("main", "terminate") and (method == "fork" or ending == "fail")
]


@pytest.mark.parametrize(("execution", "method", "ending"), SAYING)
def test_annotations_are_sent_and_stored(
    execution: str,
    method: str,
    ending: str,
    telemetry: TelemetryCapture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """This holds for each ending; only a killed child loses them."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")  # for a spawned child, which has no capture
    with start_method(method):
        app = make_app()
        handler = instrument(app, **telemetry.providers)
        function = ENDINGS.get(ending) or LONG[execution]
        timeout = 0.1 if ending == "terminate" else None
        app.session.create_task(func=function, name="etl", execution=execution, timeout=timeout)
        run_tasks(app, "etl")
    began, ended = handler.repo.filter_by().all()
    assert (began.action, ended.action) == ("run", ending)
    kept = {key for key in json.loads(began.attributes) if not key.startswith("rocketry.")}
    assert kept == {*ORIGIN, *CODE}
    assert began.events is None
    span = telemetry.span("etl")
    attributes = {
        key: value
        for key, value in (span.attributes or {}).items()
        if key not in {"task_name", "error.type"} | ORIGIN | CODE
        and not key.startswith("rocketry.")
    }
    events = [event for event in span.events if event.name != "exception"]
    if (execution, ending) == ("process", "terminate"):
        assert (attributes, events) == ({}, [])
        assert json.loads(ended.attributes) == {"rocketry.termination.reason": "timeout"}
        assert ended.events is None
        return
    itself = f"etl {began.run_id} {began.trace_id} {began.span_id}"
    assert attributes == {**SAID, "itself": itself}
    reason = {"rocketry.termination.reason": "timeout"} if ending == "terminate" else {}
    assert json.loads(ended.attributes) == {**attributes, **reason}
    assert [type(attributes[key]) for key in SAID] == [type(value) for value in SAID.values()]
    (event,) = events
    assert (event.name, dict(event.attributes or {})) == ("half", {"n": 1})
    assert span.start_time is not None
    assert span.end_time is not None
    assert span.start_time <= event.timestamp <= span.end_time
    assert json.loads(ended.events) == [
        {"name": "half", "time": event.timestamp, "attributes": {"n": 1}}
    ]
    assert not current_run()


class RecordingHook:
    """A user's own hook of tasks, which can be pickled."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    def around(self, task: Any = TaskArgument()) -> Iterator[None]:  # noqa: B008
        """See the body begin and end."""
        run = current_run()
        assert run is not None
        self.steps.append(f"before {task.name} {run.task_name}")
        run.set_attribute("hook", value=True)
        error = yield
        self.steps.append(f"after {error[0] and error[0].__name__}")


def own_run_id(task: Any, params: Any) -> str:
    """Return an id of the user's own."""
    return f"{task.name} no. {len(params)}"


@pytest.mark.parametrize(
    ("execution", "method"), [("main", "fork"), ("thread", "fork"), ("process", "spawn")]
)
def test_users_own_hooks_and_run_ids_keep_working(
    execution: str, method: str, telemetry: TelemetryCapture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are called as ever, inside of the run, and pickled where processes are spawned."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    hook = RecordingHook()
    with start_method(method):
        app = make_app(func_run_id=own_run_id)
        app.session.hooks.task_execute.append(hook.around)
        handler = instrument(app, **telemetry.providers)
        app.session.create_task(func=say_and_fail, name="etl", execution=execution)
        run_tasks(app, "etl")
    if execution != "process":
        assert hook.steps == ["before etl etl", "after ValueError"]
    span = telemetry.span("etl")
    assert span.attributes is not None
    assert span.attributes["hook"] is True
    run_id = span.attributes["rocketry.run_id"]
    assert str(run_id).startswith("etl no. ")
    assert [record.run_id for record in handler.repo.filter_by().all()] == [run_id, run_id]


def test_uninstrument_takes_everything_away(telemetry: TelemetryCapture) -> None:
    """Hooks and the function of run ids are those from before, and bodies see no run."""
    app = make_app(func_run_id=own_run_id)
    hook = RecordingHook()
    app.session.hooks.task_execute.append(hook.around)
    before = {name: list(hooks) for name, hooks in app.session.hooks}
    instrument(app, **telemetry.providers)
    assert dict(app.session.hooks) != before
    assert app.session.config.func_run_id is not own_run_id
    uninstrument(app)
    assert dict(app.session.hooks) == before
    assert app.session.config.func_run_id is own_run_id
    app.session.hooks.task_execute.clear()
    seen = []
    app.session.create_task(func=lambda: seen.append(current_run()), name="etl")
    run_tasks(app, "etl")
    assert [bool(run) for run in seen] == [False]
    assert telemetry.spans == []


def test_function_of_run_ids_that_the_user_sets_later_stays(telemetry: TelemetryCapture) -> None:
    """Uninstrument does not undo changes that the user has made meanwhile."""
    app = make_app()
    instrument(app, **telemetry.providers)
    app.session.config.func_run_id = own_run_id
    app.session.create_task(func=say_and_end, name="etl")
    run_tasks(app, "etl")
    uninstrument(app)
    assert app.session.config.func_run_id is own_run_id
    assert str((telemetry.span("etl").attributes or {})["itself"]).startswith("etl etl no. ")


@pytest.mark.parametrize(
    "broken",
    [
        (SchedulerHooks, "_enter"),
        (SchedulerHooks, "_leave"),
        (SchedulerHooks, "_links"),
        (Bridge, "open_run"),
    ],
)
@pytest.mark.parametrize("execution", ["main", "async", "thread", "process"])
def test_fault_in_our_hooks_never_fails_the_task(
    execution: str,
    broken: tuple[type, str],
    telemetry: TelemetryCapture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The task succeeds, and its span is there, whatever of ours breaks around its body."""

    def fail(*_: Any) -> Any:
        raise RuntimeError("ours")

    monkeypatch.setattr(*broken, fail)
    with start_method("fork"):
        app = make_app()
        handler = instrument(app, **telemetry.providers)
        app.session.create_task(func=succeed, name="etl", execution=execution)
        run_tasks(app, "etl")
    assert [record.action for record in handler.repo.filter_by().all()] == ["run", "success"]
    assert (telemetry.span("etl").attributes or {})["rocketry.action"] == "success"


def test_baggage_that_cannot_be_pickled_fails_no_task(
    telemetry: TelemetryCapture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A spawned process gets the baggage that can be pickled, and runs."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    token = attach(baggage.set_baggage("lock", Lock(), baggage.set_baggage("team", "blue")))
    try:
        with start_method("spawn"):
            app = make_app()
            instrument(app, **telemetry.providers)
            app.session.create_task(func=add_baggage, name="etl", execution="process")
            run_tasks(app, "etl")
    finally:
        detach(token)
    assert (telemetry.span("etl").attributes or {})["baggage"] == "['team']"


def add_baggage() -> None:
    """Add the received baggage to the run."""
    run = current_run()
    assert run is not None
    run.set_attribute("baggage", str(sorted(baggage.get_all())))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_task_with_a_logger_of_its_own_has_its_run_too(
    method: str, telemetry: TelemetryCapture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process task that logs below Rocketry's logger is seen in its child all the same."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    logger = logging.getLogger("rocketry.task.mine")
    monkeypatch.setattr(logger, "handlers", [RepoHandler(MemoryRepo(model=MinimalRecord))])
    with start_method(method):
        app = make_app()
        instrument(app, **telemetry.providers)
        app.session.create_task(
            func=say_and_end, name="etl", execution="process", logger_name="rocketry.task.mine"
        )
        run_tasks(app, "etl")
    assert (telemetry.span("etl").attributes or {})["rows"] == 4

from __future__ import annotations

import logging
import math
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk._logs import LogRecordProcessor, ReadableLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor
from redbird.repos import MemoryRepo
from rocketry.conds import daily
from rocketry.core.condition import Not
from rocketry.exc import TaskTerminationException

from rocketry_otel import OTelRepoHandler, Settings, TaskEventRecord, instrument, uninstrument
from rocketry_otel._instrumentation.links import Awaited
from rocketry_otel._instrumentation.pending_launches import Launch
from rocketry_otel._model.annotations import Annotations, RunEvent, RunLink, read_events
from rocketry_otel._model.ids import ids_of
from rocketry_otel._model.missed import missed_signal
from rocketry_otel.testing import TelemetryCapture, capture_telemetry
from tests.support.apps import make_app, run_tasks, succeed
from tests.support.records import START, raised, task_record

if TYPE_CHECKING:
    from collections.abc import Callable


class Evil:
    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


class EvilError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


def encoded(telemetry: TelemetryCapture) -> tuple[Any, Any]:
    """Encode all captured signals as one batch each, as an exporter would."""
    resource = Resource.get_empty()
    logs = [ReadableLogRecord(record, resource) for record in telemetry.log_records]
    spans = encode_spans(telemetry.spans)
    records = encode_logs(logs)
    spans.SerializeToString()
    records.SerializeToString()
    return spans, records


texts = (
    st.text(st.characters())
    | st.sampled_from(["\ud800", "a\x00b", ""])
    | st.builds(lambda: "x" * 100_000)
)
numbers = st.integers() | st.floats() | st.sampled_from([2**64, -(2**63), 10**400, math.nan, -1.0])
objects = st.builds(Evil) | st.none() | st.binary() | st.lists(st.integers(), max_size=2)
anything = texts | numbers | objects
errors = st.builds(ValueError, texts) | st.builds(EvilError) | st.builds(KeyError, st.builds(Evil))
exc_infos = (
    anything
    | errors
    | st.builds(raised, errors)
    | st.tuples(anything, anything, anything)
    | st.tuples(st.just(ValueError), anything)
    | st.just((None, None, None))
)
actions = st.sampled_from(["run", "success", "fail", "terminate", "inaction", "crash"]) | anything
records = st.fixed_dictionaries(
    {"action": actions, "task_name": anything, "created": anything},
    optional={
        "run_id": anything,
        "exc_info": exc_infos,
        "exc_text": anything,
        "exc_type": anything,
        "exc_message": anything,
        "execution": anything,
        "attributes": anything | st.dictionaries(texts | numbers, anything, max_size=2),
        "links": anything,
        "process": anything,
        "thread": anything,
        "start": anything,
        "runtime": anything,
        "level": st.integers(-5, 100),
    },
)


@settings(max_examples=300)
@given(st.lists(records, min_size=1, max_size=4))
def test_odd_record_costs_no_neighbour(odd: list[dict[str, Any]]) -> None:
    """Records with any content encode as one batch, and nothing is missing."""
    with capture_telemetry() as telemetry:
        handler = OTelRepoHandler(MemoryRepo(model=dict), **telemetry.providers)
        # The repository and the formatter may raise, as with Red Bird's own handler.
        logged = 0
        for fields in [{"action": "run", "task_name": "before", "created": START}, *odd]:
            record = task_record(None, None)
            vars(record).update(fields)
            logged += 1
            try:
                handler.emit(record)
            except Exception:  # noqa: BLE001
                assert len(telemetry.log_records) == logged
        handler.emit(task_record("success", "before", created=START + 1))
        assert handler._bridge.pipeline.counters.of("logs", "dropped") == {}
        assert handler._bridge.pipeline.counters.total("traces", "dropped") == (
            handler._bridge.pipeline.counters.of("traces", "dropped").get("repeated_ending", 0)
        )
        spans, logs = encoded(telemetry)
        assert len(telemetry.log_records) == logged + 1
        names = [
            span.name for scopes in spans.resource_spans for scope in scopes.scope_spans
            for span in scope.spans
        ]  # fmt: skip
        assert "run before" in names
        assert len(names) == len(telemetry.spans)
        count = sum(len(scope.log_records) for of in logs.resource_logs for scope in of.scope_logs)
        assert count == logged + 1


def test_huge_exception_is_sent_shortened(
    telemetry: TelemetryCapture,
) -> None:
    """It is stored whole; a collector would refuse the whole batch around it."""
    handler = OTelRepoHandler(MemoryRepo(model=dict), **telemetry.providers)
    handler.handle(task_record("fail", exc_info=raised(ValueError("x" * 10_000_000))))
    spans, logs = encoded(telemetry)
    assert len(spans.SerializeToString()) < 100_000
    assert len(logs.SerializeToString()) < 100_000
    (row,) = handler.repo.filter_by().all()
    assert len(row["exc_text"]) > 10_000_000


class Breaking(SpanProcessor):
    def on_end(self, span: Any) -> None:
        raise RuntimeError("a processor of the user's")


def test_broken_processor_costs_no_other_signal(
    telemetry: TelemetryCapture, caplog: pytest.LogCaptureFixture
) -> None:
    """Log records and metrics are sent, the loss is counted, and the fault is logged once."""
    telemetry.tracer_provider.add_span_processor(Breaking())
    handler = OTelRepoHandler(MemoryRepo(model=dict), **telemetry.providers)
    for number in range(2):
        handler.handle(task_record("success", run_id=f"r{number}"))
    assert len(telemetry.log_records) == 2
    assert handler._bridge.pipeline.counters.of("traces", "dropped") == {"error": 2}
    assert len([record for record in caplog.records if record.name == "rocketry_otel"]) == 1


@pytest.mark.parametrize(
    "step",
    [
        "_instrumentation.bridge.live_event",
        "_telemetry.emitter.log_signal",
        "_delivery.pipeline.resolve",
    ],
)
def test_our_fault_never_reaches_the_task(
    step: str, telemetry: TelemetryCapture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record is stored all the same, and the loss is counted."""

    def broken(*_: Any) -> Any:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(f"rocketry_otel.{step}", broken)
    handler = OTelRepoHandler(MemoryRepo(model=dict), **telemetry.providers)
    logger = logging.getLogger("rocketry_otel")
    monkeypatch.setattr(logger, "disabled", True)
    handler.handle(task_record("run", run_id="r1"))
    assert [row["action"] for row in handler.repo.filter_by().all()] == ["run"]
    assert handler._bridge.pipeline.counters.of("logs", "dropped") == {"error": 1}


def test_given_up_and_repeated_runs_are_counted(
    telemetry: TelemetryCapture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are in the bridge's metrics with their reason, and ``active`` stays exact."""
    monkeypatch.setattr("rocketry_otel._model.runs.OPEN_RUNS_LIMIT", 1)
    handler = OTelRepoHandler(MemoryRepo(model=dict), **telemetry.providers)
    handler._bridge.open_runs._tracker._limit = 1
    handler.handle(task_record("run", run_id="r1"))
    handler.handle(task_record("run", run_id="r2"))
    handler.handle(task_record("success", run_id="r2"))
    handler.handle(task_record("fail", run_id="r2"))
    points = telemetry.metric_points("rocketry.bridge.dropped")
    assert {
        (point.attributes["signal"], point.attributes["reason"], point.value) for point in points
    } == {
        ("traces", "never_ended", 1),
        ("traces", "repeated_ending", 1),
    }
    assert [point.value for point in telemetry.metric_points("rocketry.task.active")] == [0]
    assert len(telemetry.spans) == 1
    assert len(telemetry.log_records) == 4
    assert telemetry.log_records[3].trace_id == telemetry.spans[0].context.trace_id


def test_run_is_encoded_the_same_each_time() -> None:
    """Two handlers with the same records send the same bytes."""

    def send(replay: Callable[[Any], None]) -> bytes:
        with capture_telemetry() as telemetry:
            handler = OTelRepoHandler(MemoryRepo(model=dict), **telemetry.providers)
            replay(handler)
            spans, logs = encoded(telemetry)
        return spans.SerializeToString() + logs.SerializeToString()

    error = raised(ValueError("boom"))

    def replay(handler: Any) -> None:
        handler.handle(task_record("run", run_id="r1"))
        handler.handle(task_record("fail", run_id="r1", created=START + 1, exc_info=error))

    assert send(replay) == send(replay)


def bridge_of(telemetry: TelemetryCapture, repo: Any = None) -> tuple[OTelRepoHandler, Any]:
    """Return a handler and its bridge."""
    repo = MemoryRepo(model=TaskEventRecord) if repo is None else repo
    handler = OTelRepoHandler(repo, **telemetry.providers)
    return handler, handler._bridge


def nanoseconds(seconds: float) -> int:
    """Return the time of a record as in events."""
    return int(seconds * 1e9)


def test_open_run_is_found_with_its_context(telemetry: TelemetryCapture) -> None:
    """The context is made at the first call; after the ending the run is not found."""
    handler, bridge = bridge_of(telemetry)
    assert bridge.open_run("etl", "r1") is None
    handler.handle(task_record("run", run_id="r1"))
    run = bridge.open_run("etl", "r1")
    assert run.ids == ids_of("etl", "r1", nanoseconds(START))
    assert trace.get_current_span(run.context).get_span_context()[:2] == run.ids
    handler.handle(task_record("success", run_id="r1"))
    assert bridge.open_run("etl", "r1") is None
    handler.handle(task_record("run", run_id="r2"))
    handler._bridge.pipeline.close(0.0)
    assert bridge.open_run("etl", "r2") is None


def test_run_is_found_before_the_first_signal(telemetry: TelemetryCapture) -> None:
    """A handler whose first record was taken over then finds its providers."""
    handler, bridge = bridge_of(telemetry)
    handler.take_over({"task_name": "etl", "action": "run", "created": START, "run_id": "r1"})
    assert bridge.pipeline.providers is None
    assert bridge.open_run("etl", "r1").context is not None
    assert bridge.pipeline.providers is not None


def test_launch_gives_links_and_context(telemetry: TelemetryCapture) -> None:
    """The run record gets its links, the body its context; both are used once."""
    handler, bridge = bridge_of(telemetry)
    context = Context({"by": "launcher"})
    bridge.pending_launches.put("etl", "r1", Launch(context, (RunLink(10, 11, "dependency"),)))
    bridge.pending_launches.put("etl", "r2", Launch(context, ()))
    for run_id in ("r1", "r2", "r3"):
        handler.handle(task_record("run", run_id=run_id))
    runs = [bridge.open_run("etl", run_id) for run_id in ("r1", "r2", "r3")]
    assert [run.launched_in for run in runs] == [context, context, None]
    assert [len(run.began.links) for run in runs] == [1, 0, 0]
    assert [bool(record.links) for record in handler.repo.filter_by().all()] == [True, False, False]
    for run_id in ("r1", "r2", "r3"):
        handler.handle(task_record("success", run_id=run_id))
    assert [len(span.links) for span in telemetry.spans] == [1, 0, 0]


def test_hook_overrides_the_body(telemetry: TelemetryCapture) -> None:
    """Both add attributes; those that an application puts on the record do not count."""
    handler, bridge = bridge_of(telemetry)
    handler.enrich(None, lambda *_: {"c": "hook"})
    handler.handle(task_record("run", run_id="r1"))
    run = bridge.open_run("etl", "r1")
    run.annotations = Annotations()
    for key in "bc":
        run.annotations.set_attribute(key, "body")
    run.annotations.add_event("second", 2, {})
    handler.handle(
        task_record(
            "success", run_id="r1",
            attributes={"a": "record", "b": "record", "c": "record"},
            events=[{"name": "strange", "time": 1, "attributes": {}}],
        )
    )  # fmt: skip
    span = telemetry.span("etl")
    assert {key: span.attributes[key] for key in "bc"} == {"b": "body", "c": "hook"}
    assert "a" not in span.attributes
    assert [(event.name, event.timestamp) for event in span.events] == [("second", 2)]
    stored = handler.repo.filter_by(action="success").last()
    assert stored.attributes == '{"b": "body", "c": "hook"}'
    assert read_events(stored.events) == (RunEvent("second", 2),)


def test_latest_run_is_known_live(telemetry: TelemetryCapture) -> None:
    """Its last beginning and its newest awaited ending have the ids of its span."""
    handler, bridge = bridge_of(telemetry)
    assert bridge.latest_runs.beginning("etl") == 0
    assert bridge.latest_runs.ending(Awaited("etl", ("success", "fail"))) is None
    for number, action in enumerate(["success", "fail", "success"]):
        handler.handle(task_record("run", run_id=f"r{number}", created=START + number))
        handler.handle(task_record(action, run_id=f"r{number}", created=START + number + 0.5))
    handler.handle(task_record("run", run_id="r3", created=START + 3))
    assert bridge.latest_runs.beginning("etl") == nanoseconds(START + 3)
    ids = [(span.context.trace_id, span.context.span_id) for span in telemetry.spans]
    ended = [nanoseconds(START + number + 0.5) for number in range(3)]
    assert bridge.latest_runs.ending(Awaited("etl", ("success",))) == (ids[2], ended[2])
    assert bridge.latest_runs.ending(Awaited("etl", ("fail",))) == (ids[1], ended[1])
    for actions in (("success", "fail"), ("fail", "success")):
        assert bridge.latest_runs.ending(Awaited("etl", actions)) == (ids[2], ended[2])
    assert bridge.latest_runs.ending(Awaited("other", ("success",))) is None


def test_latest_run_is_known_after_a_restart(telemetry: TelemetryCapture) -> None:
    """The repository has it, so a later run links to an earlier ending."""
    repo = MemoryRepo(model=TaskEventRecord)
    earlier, _ = bridge_of(telemetry, repo)
    earlier.handle(task_record("run", run_id="r1"))
    earlier.handle(task_record("fail", run_id="r1", created=START + 1))
    _, bridge = bridge_of(telemetry, repo)
    context = telemetry.span("etl").context
    assert bridge.latest_runs.beginning("etl") == nanoseconds(START)
    assert bridge.latest_runs.ending(Awaited("etl", ("success", "fail"))) == (
        (context.trace_id, context.span_id),
        nanoseconds(START + 1),
    )


def test_ending_that_never_came_is_looked_up_once(telemetry: TelemetryCapture) -> None:
    """If this process runs the task: else each launch after it would read the repository."""
    queries: list[Any] = []

    class Watched(MemoryRepo):
        def query_data(self, query: Any) -> Any:
            queries.append(query)
            return super().query_data(query)

    repo = Watched(model=TaskEventRecord)
    handler, bridge = bridge_of(telemetry, repo)
    awaited = Awaited("etl", ("fail", "terminate"))
    # Another process may run it, and its endings are in the repository.
    assert bridge.latest_runs.ending(awaited) is None
    repo.add(TaskEventRecord(task_name="etl", action="run", created=START, run_id="r0"))
    repo.add(TaskEventRecord(task_name="etl", action="fail", created=START + 1, run_id="r0"))
    theirs = bridge.latest_runs.ending(awaited)
    assert theirs is not None
    assert theirs[1] == nanoseconds(START + 1)

    handler.handle(task_record("run", run_id="r1", created=START + 2))
    handler.handle(task_record("success", run_id="r1", created=START + 3))
    assert bridge.latest_runs.ending(awaited) == theirs
    queries.clear()
    for _ in range(3):
        assert bridge.latest_runs.ending(awaited) == theirs
    assert queries == []

    handler.handle(task_record("run", run_id="r2", created=START + 4))
    handler.handle(task_record("terminate", run_id="r2", created=START + 5))
    ending = bridge.latest_runs.ending(awaited)
    assert ending is not None
    assert ending[1] == nanoseconds(START + 5)


def test_failed_look_for_an_ending_is_repeated(
    telemetry: TelemetryCapture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the repository cannot be read, nothing is known of the ending."""
    repo = MemoryRepo(model=TaskEventRecord)
    handler, bridge = bridge_of(telemetry, repo)
    handler.handle(task_record("run", run_id="r1"))
    repo.add(TaskEventRecord(task_name="etl", action="fail", created=START, run_id="r1"))
    awaited = Awaited("etl", ("fail",))
    with monkeypatch.context() as patch:
        patch.setattr(MemoryRepo, "query_data", Unreadable.query_data)
        assert bridge.latest_runs.ending(awaited) is None
    assert bridge.latest_runs.ending(awaited) is not None


def test_latest_runs_are_bounded(
    telemetry: TelemetryCapture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tasks under ever new names do not pile up; the repository has all of them."""
    monkeypatch.setattr("rocketry_otel._instrumentation.latest_runs._LIMIT", 3)
    handler, bridge = bridge_of(telemetry)
    for number in range(10):
        handler.handle(task_record("run", f"t{number}", created=START + number))
        assert len(bridge.latest_runs._known) <= 3
    assert [bridge.latest_runs.beginning(f"t{number}") for number in range(10)] == [
        nanoseconds(START + number) for number in range(10)
    ]


class Unreadable(MemoryRepo):
    def query_data(self, query: Any) -> Any:
        raise OSError("unreadable")


def test_unreadable_repository_costs_only_links(telemetry: TelemetryCapture) -> None:
    """Live runs are known all the same, and nothing is raised."""
    handler, bridge = bridge_of(telemetry, Unreadable(model=TaskEventRecord))
    assert bridge.latest_runs.beginning("etl") == 0
    assert bridge.latest_runs.ending(Awaited("etl", ("success",))) is None
    bridge.start(["etl"])
    assert telemetry.metric_points("rocketry.task.last_success") == []
    handler.handle(task_record("run", run_id="r1"))
    assert bridge.latest_runs.beginning("etl") == nanoseconds(START)


def test_ending_without_its_run_is_no_link(
    telemetry: TelemetryCapture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link that leads nowhere is worse than a missing link."""
    repo = MemoryRepo(model=TaskEventRecord)
    repo.add(TaskEventRecord(task_name="etl", action="success", created=START))
    _, bridge = bridge_of(telemetry, repo)
    awaited = Awaited("etl", ("success",))
    assert bridge.latest_runs.ending(awaited) is not None

    def broken(_: Any) -> Any:
        raise OSError("unreadable")

    monkeypatch.setattr(bridge._run_lookup, "ids_of", broken)
    assert bridge.latest_runs.ending(awaited) is None


def test_failed_start_raises_nothing(
    telemetry: TelemetryCapture,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is logged, and the scheduler starts."""

    def broken(*_: Any) -> Any:
        raise RuntimeError("a fault of ours")

    _, bridge = bridge_of(telemetry)
    monkeypatch.setattr("rocketry_otel._delivery.pipeline.resolve", broken)
    bridge.start(["etl"])
    assert [record.getMessage() for record in caplog.records] == [
        "The providers could not be found at the start; further ones are not reported"
    ]


def nested_too_deep() -> Any:
    """Return a task with a condition that is nested deeper than Python can follow."""
    deep: Any = daily
    for _ in range(2 * sys.getrecursionlimit()):
        deep = Not(deep)
    return make_app().session.create_task(func=succeed, name="odd", start_cond=deep)


class Raising:
    """A task of a class that raises when it is looked at."""

    @property
    def name(self) -> str:
        """Raise."""
        raise RuntimeError("a fault of the application's")


@pytest.mark.parametrize("make_odd", [nested_too_deep, Raising])
def test_odd_task_costs_no_neighbour_its_preparation(
    telemetry: TelemetryCapture, caplog: pytest.LogCaptureFixture, make_odd: Callable[[], Any]
) -> None:
    """The condition of the other task is known."""
    odd = make_odd()
    etl = make_app().session.create_task(func=succeed, name="etl", start_cond=daily)
    _, bridge = bridge_of(telemetry)
    with caplog.at_level(logging.DEBUG, "rocketry_otel"):
        bridge.prepare([odd, etl])
    assert [record.getMessage() for record in caplog.records] == ["a start condition is not known"]
    assert [task for task, _ in bridge.conditions._parsed.items()] == [etl]


def test_missed_slot_of_an_excluded_task_is_not_sent(telemetry: TelemetryCapture) -> None:
    """It is not counted either; that of another task is."""
    repo = MemoryRepo(model=TaskEventRecord)
    handler = OTelRepoHandler(repo, settings=Settings(exclude="etl"), **telemetry.providers)
    for name in ("etl", "report"):
        signal = missed_signal(name, START, START + 1, "blocked", None, 1)
        handler._bridge.schedule.report_missed(name, "blocked", "rocketry_otel.events", signal)
    points = telemetry.metric_points("rocketry.task.missed")
    assert [dict(point.attributes) for point in points] == [
        {"task_name": "report", "rocketry.missed.reason": "blocked"}
    ]
    assert [record.attributes["task_name"] for record in telemetry.log_records] == ["report"]


def test_termination_by_the_body_itself_has_no_reason(telemetry: TelemetryCapture) -> None:
    """Nothing has asked for it."""

    def body() -> None:
        raise TaskTerminationException

    app = make_app()
    app.session.create_task(func=body, name="etl")
    instrument(app, **telemetry.providers)
    run_tasks(app, "etl")
    uninstrument(app)
    attributes = telemetry.span("etl").attributes
    assert attributes["rocketry.action"] == "terminate"
    assert attributes["error.type"] == "terminated"
    assert "rocketry.termination.reason" not in attributes


def test_start_shows_no_excluded_task(telemetry: TelemetryCapture) -> None:
    """Its numbers stay on the machine, as its spans do."""
    repo = MemoryRepo(model=TaskEventRecord)
    repo.add(TaskEventRecord(task_name="etl", action="success", created=START))
    handler = OTelRepoHandler(repo, settings=Settings(exclude="etl"), **telemetry.providers)
    handler._bridge.start(["etl"])
    assert telemetry.metric_points("rocketry.task.last_success") == []


class BrokenLogs(LogRecordProcessor):
    def on_emit(self, log_record: Any) -> None:
        raise RuntimeError("a processor of the user's")

    def shutdown(self) -> None: ...

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True


@pytest.mark.parametrize("signal", ["logs", "metrics"])
def test_each_signal_fails_alone(
    signal: str, telemetry: TelemetryCapture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are sent, and the loss is counted under the signal's name."""
    handler, bridge = bridge_of(telemetry)
    monkeypatch.setattr(logging.getLogger("rocketry_otel"), "disabled", True)
    if signal == "logs":
        telemetry.logger_provider.add_log_record_processor(BrokenLogs())
    else:

        def broken(*_: Any) -> None:
            raise RuntimeError("a view of the user's")

        monkeypatch.setattr("rocketry_otel._telemetry.metrics.TaskMetrics.count", broken)
    handler.handle(task_record("success", run_id="r1"))
    assert len(telemetry.spans) == 1
    assert len(telemetry.log_records) == 1
    assert bridge.pipeline.counters.of(signal, "dropped") == {"error": 1}
    points = telemetry.metric_points("rocketry.task.duration")
    assert len(points) == (1 if signal == "logs" else 0)


def test_providers_are_found_once(telemetry: TelemetryCapture) -> None:
    """The second of two threads gets the providers of the first."""
    handler, bridge = bridge_of(telemetry)
    handler.handle(task_record("run", run_id="r1"))
    found = bridge.pipeline.providers
    bridge.pipeline.connect()
    assert bridge.pipeline.providers is found
    assert bridge.pipeline.shutdown_timeout == 5.0

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from redbird.repos import MemoryRepo
from rocketry.args import Return
from rocketry.conds import after_success
from rocketry.log import MinimalRecord, MinimalRunRecord

from rocketry_otel import (
    OTelRepoHandler,
    TaskEventRecord,
    current_run,
    instrument,
    open_repository,
    uninstrument,
)
from rocketry_otel._history.run_lookup import RunLookup
from rocketry_otel._history.streams.base import fields_of
from rocketry_otel._model.annotations import RunEvent, RunLink
from rocketry_otel._model.event import parse_event
from rocketry_otel._model.ids import ids_of
from rocketry_otel._model.runs import Observation, Run, RunTracker, Step
from rocketry_otel._model.signals import SpanSignal, span_signal
from tests.support.apps import make_app, run_tasks
from tests.support.records import task_record

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from rocketry_otel._model.ids import RunIds
    from rocketry_otel.testing import TelemetryCapture


def run_lookup(*rows: tuple[str, str | None, float], model: Any = dict) -> RunLookup:
    """Return runs in a repository in memory: action, run id and time of each record."""
    repo = MemoryRepo(model=model)
    for action, run_id, created in rows:
        fields: dict[str, Any] = {"task_name": "etl", "action": action, "created": created}
        if model is not MinimalRecord:
            fields["run_id"] = run_id
        repo.add(model(**fields))
    return RunLookup(repo)


def ending(action: str = "success", run_id: str | None = "r1", at: float = 9.0) -> Any:
    """Return an ending of the task etl."""
    return parse_event({"task_name": "etl", "action": action, "run_id": run_id, "created": at})


@pytest.mark.parametrize(
    ("model", "kept"),
    [
        (dict, {"run_id": True, "attributes": True, "anything": True}),
        (TaskEventRecord, {"run_id": True, "attributes": True, "anything": False}),
        (MinimalRecord, {"run_id": False, "attributes": False, "anything": False}),
    ],
)
def test_model_shows_its_fields(model: Any, kept: dict[str, bool]) -> None:
    """A model without declared fields stores every field."""
    runs = run_lookup(model=model)
    assert {field: runs.keeps(field) for field in kept} == kept


def test_model_of_rocketry_gets_no_more_fields() -> None:
    """The fields of Rocketry's own models are written as they are."""
    event = ending()._replace(attributes=(("rows", 1),))
    observation = Observation(event, Step(None, "none"))
    for model in (dict, MinimalRecord, MinimalRunRecord):
        fields = {"task_name": "etl"}
        run_lookup(model=model).complete(fields, observation)
        assert fields == {"task_name": "etl"}


def test_columns_have_the_annotations() -> None:
    """Attributes, events and links are JSON; a record without a run has no ids."""
    event = ending()._replace(
        attributes=(("rows", 1),),
        events=(RunEvent("e", 5),),
        links=(RunLink(10, 11, "dependency"),),
    )
    fields = {"execution": "its own", "attributes": "as logged", "links": 5}
    run_lookup(model=TaskEventRecord).complete(fields, Observation(event, Step(None, "none")))
    assert fields == {
        "trace_id": None,
        "span_id": None,
        "execution": None,
        "exc_type": None,
        "exc_message": None,
        "message": "Task 'etl' status: 'success'",
        "exc_text": None,
        "attributes": '{"rows": 1}',
        "events": '[{"name": "e", "time": 5, "attributes": {}}]',
        "links": f'[{{"trace_id": "{10:032x}", "span_id": "{11:016x}", "link": "dependency"}}]',
    }


def test_ids_are_those_of_the_run() -> None:
    """They are hexadecimal digits, as in Jaeger's search box."""
    ids = ids_of("etl", "r1", 1)
    fields: dict[str, Any] = {}
    step = Step(Run(ids, None), "ended")
    run_lookup(model=TaskEventRecord).complete(fields, Observation(ending(), step))
    assert (fields["trace_id"], fields["span_id"]) == (ids.trace_hex, ids.span_hex)
    assert (fields["attributes"], fields["events"], fields["links"]) == (None, None, None)


def test_newest_event_is_the_one_that_rocketry_reads() -> None:
    """It is the last of an action and a task, or None."""
    runs = run_lookup(("run", "a", 1.0), ("success", "a", 2.0), ("success", "b", 3.0))
    newest = runs.newest("etl", "success")
    assert newest is not None
    assert (newest.run_id, newest.created) == ("b", 3_000_000_000)
    assert runs.newest("etl", "fail") is None
    assert runs.newest("other", "success") is None


@pytest.mark.parametrize(
    ("rows", "its_ending", "began"),
    [
        ([("run", "r1", 1.0), ("run", "r2", 2.0)], ending(), ("r1", 1)),
        ([("run", "r1", 3.0), ("run", "r1", 1.0)], ending(), ("r1", 3)),
        ([("run", "r1", 1.0), ("run", "r1", 10.0)], ending(), ("r1", 1)),
        ([("run", "r1", 1.0), ("run", "r2", 2.0)], ending("fail", None), ("r2", 2)),
        ([], ending(), ("r1", 9)),
        ([("run", "r2", 1.0)], ending(), ("r1", 9)),
    ],
)
def test_ending_has_the_ids_of_its_beginning(
    rows: list[Any], its_ending: Any, began: tuple[str, int]
) -> None:
    """The beginning is found by run id, else by order; without one the ending has its own."""
    run_id, at = began
    ids = run_lookup(*rows).ids_of(its_ending)
    assert ids == ids_of("etl", run_id, at * 1_000_000_000)


def test_model_without_run_ids_gives_the_sent_ids(telemetry: TelemetryCapture) -> None:
    """Links lead to the span that was sent, with any model."""
    for model in (MinimalRecord, MinimalRunRecord, TaskEventRecord):
        telemetry.clear()
        repo = MemoryRepo(model=model)
        handler = OTelRepoHandler(repo, **telemetry.providers)
        handler.handle(task_record("run", run_id="r1"))
        handler.handle(task_record("success", run_id="r1", created=1_700_000_009.0))
        runs = RunLookup(repo)
        event = runs.newest("etl", "success")
        assert event is not None
        context = telemetry.span("etl").context
        assert runs.ids_of(event) == (context.trace_id, context.span_id)


def test_beginning_is_found_by_run_id() -> None:
    """A crash ends the newest run; another ending that of its run id, if it is open."""
    runs = run_lookup(
        ("run", "r1", 1.0), ("run", "r2", 2.0), ("success", "r2", 3.0), ("run", "r3", 4.0)
    )
    found = [
        runs.find_beginning(one)
        for one in (ending("crash", None), ending(), ending(run_id="r2"), ending(run_id=None))
    ]
    assert [one and one.run_id for one in found] == ["r3", "r1", None, None]


@pytest.mark.parametrize("model", [dict, MinimalRunRecord, MinimalRecord])
def test_crash_of_an_ended_run_stands_alone(model: Any) -> None:
    """After its clock was set back, Rocketry logs a crash of an ended run."""
    runs = run_lookup(("run", "r1", 1.0), ("success", "r1", 3.0), model=model)
    assert runs.find_beginning(ending("crash", None)) is None


class WithTraceId(MinimalRecord):
    """A model that keeps the trace of a run, and not its span."""

    run_id: str
    trace_id: str


@pytest.mark.parametrize("model", [TaskEventRecord, WithTraceId])
def test_trace_ids_find_an_ending_after_a_clock_was_set_back(model: type[MinimalRecord]) -> None:
    """The ids of a run count, not the time of its end."""
    ids = ids_of("etl", "r1", 5_000_000_000)
    repo = MemoryRepo(model=model)
    for action, created in (("run", 5.0), ("success", 1.0)):
        fields = {"task_name": "etl", "action": action, "run_id": "r1", "created": created}
        repo.add(model(**fields, trace_id=ids.trace_hex, span_id=ids.span_hex))
    assert RunLookup(repo).find_beginning(ending("crash", None)) is None
    assert run_lookup(("run", None, 1.0), model=MinimalRecord).find_beginning(ending()) is None
    assert run_lookup().find_beginning(ending("crash", None)) is None


def load() -> str:
    """Add attributes and events, and return something."""
    run = current_run()
    assert run is not None
    run.set_attribute("rows", 1200)
    run.set_attribute("odd \x00", float("nan"))
    run.add_event("downloaded", {"bytes": 52_000, "from": "\ud800"})
    run.add_event("done")
    return "loaded"


def report(loaded: str = Return("load")) -> None:
    """Add the return value of the other task."""
    run = current_run()
    assert run is not None
    run.set_attribute("read", loaded)


def broken() -> None:
    """Add something, and fail."""
    run = current_run()
    assert run is not None
    run.set_attribute("rows", 0)
    raise ValueError("boom")


@pytest.mark.parametrize("url", ["memory://", "csv://{}/tasks.csv", "sqlite:///{}/tasks.db"])
@pytest.mark.parametrize("execution", ["main", "async", "thread"])
def test_stored_records_give_the_same_span(
    url: str,
    execution: Any,
    telemetry: TelemetryCapture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All annotations by a body, hooks and dependencies are replayed."""
    live: dict[str, SpanSignal] = {}

    def remember(run: Run, ended: Any, detail: Any) -> SpanSignal:
        signal = live[ended.task_name] = span_signal(run, ended, detail)
        return signal

    monkeypatch.setattr("rocketry_otel._telemetry.emitter.span_signal", remember)

    def name_span(task: Any, record: Mapping[str, Any], outcome: str) -> str:
        return f"{task.name} {outcome} at {record['created']}"

    def enrich(task: Any, record: Mapping[str, Any], outcome: str) -> dict[str, object]:
        return {"team": "data", "priority": task.priority, "rows": 3}

    app = make_app(execution=execution)
    app.session.create_task(func=load, name="load")
    app.session.create_task(func=report, name="report", start_cond=after_success("load"))
    app.session.create_task(func=broken, name="broken", start_cond=after_success("report"))
    repo = open_repository(url.format(tmp_path))
    instrument(app, repo=repo, name_span=name_span, enrich=enrich, **telemetry.providers)
    run_tasks(app, "load", cycles=60)
    uninstrument(app)
    assert set(live) == {"load", "report", "broken"}
    assert len(telemetry.spans) == 3

    tracker = RunTracker()
    replayed: dict[str, SpanSignal] = {}
    for item in sorted(repo.filter_by().all(), key=lambda item: float(item.created)):
        event = parse_event(fields_of(item))
        step = tracker.observe(event)
        if step.change == "ended" and step.run is not None:
            replayed[event.task_name or ""] = span_signal(step.run, event, "full")
            assert fields_of(item)["trace_id"] == step.run.ids.trace_hex
    assert replayed == live

    signal = replayed["load"]
    assert signal.name.startswith("load success at 1")
    assert {key: signal.attributes[key] for key in ("rows", "odd \\x00", "team", "priority")} == {
        "rows": 3, "odd \\x00": "nan", "team": "data", "priority": 0,
    }  # fmt: skip
    assert [(event.name, event.attributes) for event in signal.events] == [
        ("downloaded", (("bytes", 52_000), ("from", "\\ud800"))),
        ("done", ()),
    ]
    assert signal.links == ()
    context = telemetry.span("load").context
    assert replayed["report"].links == (RunLink(context.trace_id, context.span_id, "dependency"),)
    assert replayed["report"].attributes["read"] == "loaded"
    context = telemetry.span("report").context
    assert replayed["broken"].links == (RunLink(context.trace_id, context.span_id, "dependency"),)
    assert replayed["broken"].error == "ValueError: boom"


class _Unreadable(MemoryRepo):
    """A repository of Red Bird's, whose reading ends at a row of another program."""

    def query_items(self, query: Any) -> Any:
        """Yield one item, and raise at the next row."""
        yield {"task_name": "etl", "action": "run", "run_id": "r1", "created": 5.0}
        raise ValueError("no record")


def test_span_of_a_run_has_all_of_its_records() -> None:
    """Also a crash, which has no run id, and a record beside the repository; by both ids."""
    ids, other = (ids_of("etl", run_id, 1_000_000_000) for run_id in ("r1", "r2"))
    repo = MemoryRepo(model=TaskEventRecord)

    def fields(action: str, run_id: str | None, created: float, its: RunIds) -> dict[str, Any]:
        hexes = {"trace_id": its.trace_hex, "span_id": its.span_hex}
        return {"task_name": "etl", "action": action, "run_id": run_id, "created": created, **hexes}

    for one in (
        fields("run", "r2", 0.5, other),
        fields("run", "r1", 1.0, ids),
        fields("crash", None, 3.0, ids),
        fields("success", "r2", 4.0, other),
    ):
        repo.add(TaskEventRecord(**one))
    beside = [fields("crash", None, 2.0, ids), fields("crash", None, 5.5, other)]
    found = RunLookup(repo)
    for id_ in ("r1", ids.trace_hex):
        assert found.span_of(id_, beside) == (1_000_000_000, 3_000_000_000)
    assert found.span_of("r2", beside) == (500_000_000, 5_500_000_000)
    assert found.span_of("r", beside) is None
    repo.add(TaskEventRecord(**fields("run", "r3", 6.0, ids_of("etl", "r3", 6_000_000_000))))
    assert found.span_of("r3", beside) == (6_000_000_000, None)
    assert run_lookup(("run", None, 1.0), model=MinimalRecord).span_of("r1") is None


def test_row_of_another_program_hides_no_beginning() -> None:
    """If Red Bird's own reading ends early, the records are read one by one."""
    repo = _Unreadable(model=dict)
    rows = [("run", "r0", 1.0), ("run", "r1", 5.0), ("success", "r0", 6.0)]
    for action, run_id, created in rows:
        repo.insert({"task_name": "etl", "action": action, "run_id": run_id, "created": created})
    lookup = RunLookup(repo)
    began = lookup.find_beginning(ending())
    assert began is not None
    assert (began.run_id, began.created) == ("r1", 5_000_000_000)
    assert lookup.find_beginning(ending(run_id="r0")) is None
    newest = lookup.newest("etl", "run")
    assert newest is not None
    assert newest.run_id == "r1"
    assert lookup.newest("etl", "crash") is None


def test_repository_that_is_away_is_an_error_of_a_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its error is no row of another program."""
    lookup = run_lookup()

    def fail(*_: object) -> None:
        raise OSError("away")

    monkeypatch.setattr(MemoryRepo, "query_data", fail)
    with pytest.raises(OSError, match="away"):
        lookup.newest("etl", "run")

"""Links of runs: to dependencies, and to the span that asked for the run."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from rocketry import Rocketry
from rocketry.conditions.api import (
    after_all_fail,
    after_all_finish,
    after_all_success,
    after_any_fail,
    after_any_finish,
    after_any_success,
    after_fail,
    after_finish,
    after_success,
)
from rocketry.core import Task

from rocketry_otel import Settings, instrument, open_repository, uninstrument
from rocketry_otel.testing import TelemetryCapture
from tests.support import apps
from tests.support.apps import make_app, run_tasks

SUPPLIERS = {"load": apps.succeed, "extract": apps.succeed, "bad": apps.fail}
CONDITIONS = {
    "after_success": (after_success("load"), {"load"}),
    "after_fail": (after_fail("bad"), {"bad"}),
    "after_finish, of a success": (after_finish("load"), {"load"}),
    "after_finish, of a failure": (after_finish("bad"), {"bad"}),
    "after_all_success": (after_all_success("load", "extract"), {"load", "extract"}),
    "after_all_fail": (after_all_fail("bad"), {"bad"}),
    "after_all_finish": (after_all_finish("load", "bad"), {"load", "bad"}),
    "after_any_success": (after_any_success("load", "bad"), {"load"}),
    "after_any_fail": (after_any_fail("load", "bad"), {"bad"}),
    "after_any_finish": (after_any_finish("load", "bad"), {"load", "bad"}),
    "and": (after_success("load") & after_fail("bad"), {"load", "bad"}),
    "or": (after_success("load") | after_success("bad"), {"load"}),
    "and not": (after_success("load") & ~after_success("bad"), {"load"}),
    "not": (~after_success("bad"), set()),
    "not not": (~(~after_success("load")), {"load"}),
    "nested": (
        after_fail("load")
        | (after_success("extract") & (after_finish("bad") | ~after_fail("load"))),
        {"extract", "bad"},
    ),
}


def add_tasks(app: Rocketry, condition: Any, execution: str = "main", **options: Any) -> None:
    """Add the tasks that are waited for, and the one that waits, which looks last."""
    for name, function in SUPPLIERS.items():
        app.session.create_task(func=function, name=name, execution="main")
    app.session.create_task(
        func=apps.succeed,
        name="report",
        execution=execution,
        start_cond=condition,
        priority=-1,
        **options,
    )


def links_of(span: ReadableSpan) -> dict[tuple[int, int], str]:
    """Return the links of a span, with their kinds."""
    found = {
        (link.context.trace_id, link.context.span_id): dict(link.attributes or {})
        for link in span.links
    }
    assert len(found) == len(span.links)
    assert all(set(attributes) == {"rocketry.link"} for attributes in found.values())
    return {ids: str(attributes["rocketry.link"]) for ids, attributes in found.items()}


def ids(span: ReadableSpan) -> tuple[int, int]:
    """Return trace and span id."""
    assert span.context is not None
    return span.context.trace_id, span.context.span_id


def stored_links(handler: Any, task: str = "report") -> list[dict[tuple[int, int], str]]:
    """Return the links in the run records of a task."""
    return [
        {
            (int(link["trace_id"], 16), int(link["span_id"], 16)): link["link"]
            for link in json.loads(record.links or "[]")
        }
        for record in handler.repo.filter_by(task_name=task, action="run").all()
    ]


@pytest.mark.parametrize("execution", ["main", "process"])
@pytest.mark.parametrize("case", CONDITIONS)
def test_run_links_to_its_dependencies(
    case: str, execution: str, telemetry: TelemetryCapture
) -> None:
    """Exactly the runs that let it start are linked, on its span and in its stored record."""
    condition, expected = CONDITIONS[case]
    app = make_app()
    handler = instrument(app, **telemetry.providers)
    add_tasks(app, condition, execution)
    run_tasks(app, "load", "extract", "bad")
    span = telemetry.span("report")
    assert links_of(span) == {ids(telemetry.span(name)): "dependency" for name in expected}
    assert stored_links(handler) == [links_of(span)]
    for name in SUPPLIERS:
        assert telemetry.span(name).links == ()


@pytest.mark.parametrize("execution", ["async", "thread", "process"])
def test_dependency_of_any_mode_is_linked(execution: str, telemetry: TelemetryCapture) -> None:
    """A dependency may run in any mode, and be named by its function."""
    app = make_app()
    handler = instrument(app, **telemetry.providers)
    app.session.create_task(func=apps.succeed, name="load", execution=execution)

    @app.task(after_success("load"), name="middle")
    def middle() -> None:
        """Wait for the load by its name."""

    @app.task(after_success(middle), name="report")
    def report() -> None:
        app.session.shut_down()

    app.session["load"].run()
    app.run()
    load, its, last = (telemetry.span(name) for name in ("load", "middle", "report"))
    assert links_of(its) == {ids(load): "dependency"}
    assert links_of(last) == {ids(its): "dependency"}
    assert stored_links(handler, "middle") == [links_of(its)]


def test_run_links_to_the_newest_dependency(
    telemetry: TelemetryCapture,
) -> None:
    """The second report comes of the second load, not of the first."""
    app = make_app()
    instrument(app, **telemetry.providers)
    add_tasks(app, after_success("load"))
    run_tasks(app, "load")
    run_tasks(app, "load")
    by_name: dict[str, list[ReadableSpan]] = {"run load": [], "run report": []}
    for span in telemetry.spans:
        by_name[span.name].append(span)
    assert len(by_name["run load"]) == len(by_name["run report"]) == 2
    for load, report in zip(*by_name.values(), strict=True):
        assert links_of(report) == {ids(load): "dependency"}


def test_old_dependency_is_not_linked_again(telemetry: TelemetryCapture) -> None:
    """Of two that may let a run start, only the one that ended since its last run did."""
    app = make_app()
    instrument(app, **telemetry.providers)
    add_tasks(app, after_any_success("load", "extract"))
    run_tasks(app, "load")
    run_tasks(app, "extract")
    first, second = (span for span in telemetry.spans if span.name == "run report")
    assert links_of(first) == {ids(telemetry.span("load")): "dependency"}
    assert links_of(second) == {ids(telemetry.span("extract")): "dependency"}


@pytest.mark.parametrize("execution", ["main", "process"])
def test_dependency_that_ran_before_a_restart_is_linked(
    execution: str, tmp_path: Path, telemetry: TelemetryCapture
) -> None:
    """Its ids are those that the repository and the trace of back then show."""
    url = f"sqlite:////{tmp_path}/tasks"
    first = make_app()
    handler = instrument(first, repo=open_repository(url), **telemetry.providers)
    add_tasks(first, None)
    run_tasks(first, "load", "bad")
    (ended,) = handler.repo.filter_by(task_name="load", action="success").all()
    uninstrument(first)
    logging.getLogger("rocketry.task").handlers = []
    second = make_app()
    handler = instrument(second, repo=open_repository(url), **telemetry.providers)
    add_tasks(second, after_success("load") & after_finish("bad"), execution)
    run_tasks(second)
    load, bad, report = (telemetry.span(name) for name in ("load", "bad", "report"))
    assert ids(load) == (int(ended.trace_id, 16), int(ended.span_id, 16))
    assert links_of(report) == {ids(load): "dependency", ids(bad): "dependency"}
    assert stored_links(handler) == [links_of(report)]


@pytest.mark.parametrize("execution", ["main", "async", "thread", "process"])
def test_requested_run_links_to_the_request(execution: str, telemetry: TelemetryCapture) -> None:
    """Each of several requests has its own span, and other causes have none."""
    app = make_app()
    handler = instrument(app, **telemetry.providers)
    add_tasks(app, after_success("load"), execution, multilaunch=True)
    tracer = telemetry.tracer_provider.get_tracer("user")
    asking = []
    for number in range(2):
        with tracer.start_as_current_span(f"asking {number}") as span:
            app.session["report"].run()
            asking.append(ids(span))
    app.session["report"].run()

    def stop() -> None:
        # Rocketry runs a few processes at a time.
        if len(handler.repo.filter_by(task_name="report", action="run").all()) >= 3:
            app.session.shut_down()

    app.session.hooks.scheduler_cycle.append(stop)
    run_tasks(app, "load", cycles=1_000_000)
    reports = [span for span in telemetry.spans if span.name == "run report"]
    # Children may begin in another order than they were started in.
    links = [links_of(span) for span in reports]
    assert sorted(stored_links(handler), key=str) == sorted(links, key=str)
    for wanted in ({asking[0]: "request"}, {asking[1]: "request"}, {}):
        links.remove(wanted)
    # The fourth run is the one that followed the load.
    for later in links:
        assert later == {ids(telemetry.span("load")): "dependency"}


def test_request_of_a_body_links_to_its_run(
    telemetry: TelemetryCapture,
) -> None:
    """In a body the run's own span is the active one."""
    app = make_app()
    instrument(app, **telemetry.providers)
    add_tasks(app, None)

    def ask() -> None:
        app.session["report"].run()

    app.session.create_task(func=ask, name="asker")
    run_tasks(app, "asker", cycles=2)
    assert links_of(telemetry.span("report")) == {ids(telemetry.span("asker")): "request"}


def test_task_with_its_own_run_ids_is_linked(
    telemetry: TelemetryCapture,
) -> None:
    """Rocketry calls that function instead of the session's: the links are the same."""
    app = make_app()
    handler = instrument(app, **telemetry.providers)
    numbers = iter(range(10))
    add_tasks(
        app,
        after_success("load"),
        func_run_id=lambda task, params=None: f"{task.name} {next(numbers)}",
    )
    run_tasks(app, "load")
    with telemetry.tracer_provider.get_tracer("user").start_as_current_span("asking") as asking:
        app.session["report"].run()
    run_tasks(app)
    first, second = (span for span in telemetry.spans if span.name == "run report")
    assert links_of(first) == {ids(telemetry.span("load")): "dependency"}
    assert links_of(second) == {ids(asking): "request"}
    records = handler.repo.filter_by(task_name="report", action="run").all()
    assert [record.run_id for record in records] == ["report 0", "report 1"]


def test_one_setting_turns_links_off(
    telemetry: TelemetryCapture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a dependency nor a request is linked with ROCKETRY_OTEL_LINKS=false."""
    monkeypatch.setenv("ROCKETRY_OTEL_LINKS", "false")
    app = make_app()
    handler = instrument(app, **telemetry.providers)
    add_tasks(app, after_success("load"))
    with telemetry.tracer_provider.get_tracer("user").start_as_current_span("asking"):
        app.session["bad"].run()
    run_tasks(app, "load")
    assert [span.name for span in telemetry.spans].count("run report") == 1
    assert [span.links for span in telemetry.spans] == [()] * len(telemetry.spans)
    assert stored_links(handler) == [{}]


def test_requests_of_another_time_are_forgotten(telemetry: TelemetryCapture) -> None:
    """A request from before the instrumentation causes no link later."""
    apps.unwatch_all_sessions()
    run, get_run_id = Task.run, Task.get_run_id
    app = make_app()
    instrument(app, **telemetry.providers)
    add_tasks(app, after_success("load"))
    assert Task.run is not run
    tracer = telemetry.tracer_provider.get_tracer("user")
    with tracer.start_as_current_span("asking"):
        app.session["report"].run()
        uninstrument(app)
        assert (Task.run, Task.get_run_id) == (run, get_run_id)
        app.session["report"].run()
    run_tasks(app, cycles=2)
    assert [span.name for span in telemetry.spans] == ["asking"]
    instrument(app, settings=Settings(), **telemetry.providers)
    run_tasks(app, "load")
    assert links_of(telemetry.span("report")) == {ids(telemetry.span("load")): "dependency"}

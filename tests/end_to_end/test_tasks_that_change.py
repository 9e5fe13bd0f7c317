"""Tasks that are renamed or deleted while they run, and tasks of two applications with one name."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from rocketry.args import Session, Task

from rocketry_otel import Settings, instrument
from rocketry_otel._replay.replay import replay
from rocketry_otel.testing import TelemetryCapture, capture_telemetry
from tests.support.apps import make_app, run_tasks
from tests.support.otlp_receiver import OTLPReceiver, attributes_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.sdk.trace import ReadableSpan
    from rocketry import Rocketry

MODES = ["main", "async", "thread"]


@pytest.fixture
def other() -> Iterator[TelemetryCapture]:
    """Telemetry of another application, captured in memory."""
    with capture_telemetry() as capture:
        yield capture


def rename(task: Any = Task()) -> None:  # noqa: B008  # Rocketry reads the argument from there
    """Give the own task another name."""
    task.name = "renamed"


async def rename_async(task: Any = Task()) -> None:  # noqa: B008
    """Do the same in an async task."""
    rename(task)
    await asyncio.sleep(0)


def delete(task: Any = Task(), session: Any = Session()) -> None:  # noqa: B008
    """Remove the own task."""
    session.remove_task(task)


async def delete_async(task: Any = Task(), session: Any = Session()) -> None:  # noqa: B008
    """Do the same in an async task."""
    delete(task, session)
    await asyncio.sleep(0)


def app_with(function: Any, execution: str) -> Rocketry:
    """Return an application with a task."""
    app = make_app()
    app.session.create_task(func=function, name="etl", execution=execution)
    return app


def name_of(task: Any, *_: Any) -> dict[str, object]:
    """Return an attribute for the span of a task's run."""
    return {"name": task.name}


def of_span(span: ReadableSpan) -> tuple[Any, ...]:
    """Return the name of a span, how its run ended and in which mode, and an added attribute."""
    keys = ("task_name", "rocketry.action", "rocketry.execution", "name")
    return (span.name, *(dict(span.attributes or {}).get(key) for key in keys))


@pytest.mark.parametrize("execution", MODES)
def test_renamed_task_ends_the_run_that_it_began(
    execution: str, telemetry: TelemetryCapture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is one span under the name that it began with; a replay sends the same."""
    app = app_with(rename_async if execution == "async" else rename, execution)
    handler = instrument(app, enrich=name_of, **telemetry.providers)
    run_tasks(app, "etl", cycles=3)
    (span,) = telemetry.spans
    assert of_span(span) == ("run etl", "etl", "success", execution, "renamed")
    began, ended = handler.repo.filter_by().all()
    assert (began.task_name, ended.task_name) == ("etl", "renamed")
    assert (began.trace_id, began.span_id) == (ended.trace_id, ended.span_id)
    points = telemetry.metric_points("rocketry.task.active")
    assert {(dict(it.attributes)["task_name"], it.value) for it in points} == {("etl", 0)}
    with OTLPReceiver(grpc=False) as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.http_endpoint)
        assert replay(handler.repo).complete
        (sent,) = (it.span for it in receiver.spans)
    assert sent.span_id.hex() == began.span_id
    assert attributes_of(sent.attributes) == dict(span.attributes or {})


@pytest.mark.parametrize("execution", MODES)
def test_deleted_task_ends_its_run_in_its_own_application(
    execution: str, telemetry: TelemetryCapture, other: TelemetryCapture
) -> None:
    """No session has a task of that name any more; another application has its own settings."""
    instrument(make_app(), settings=Settings(span_kind="server"), **other.providers)
    app = app_with(delete_async if execution == "async" else delete, execution)
    handler = instrument(app, enrich=name_of, **telemetry.providers)
    run_tasks(app, "etl", cycles=3)
    (span,) = telemetry.spans
    assert of_span(span) == ("run etl", "etl", "success", execution, "etl")
    assert [one.execution for one in handler.repo.filter_by().all()] == [execution] * 2
    assert other.spans == []


def test_task_that_is_deleted_before_its_launch_has_a_mode(telemetry: TelemetryCapture) -> None:
    """Rocketry runs it in the same cycle all the same."""
    app = app_with(lambda: None, "thread")
    session = app.session
    remove = lambda: session.remove_task("etl")  # noqa: E731
    session.create_task(func=remove, name="first", execution="main", priority=1)
    handler = instrument(app, **telemetry.providers)
    run_tasks(app, "first", "etl")
    assert of_span(telemetry.span("etl"))[:4] == ("run etl", "etl", "success", "thread")
    rows = handler.repo.filter_by(task_name="etl").all()
    assert [(one.action, one.execution) for one in rows] == [
        ("run", "thread"),
        ("success", "thread"),
    ]


def test_tasks_of_one_name_have_each_its_own_mode(telemetry: TelemetryCapture) -> None:
    """Two applications share the handler and the repository."""
    apps = {mode: app_with(lambda: None, mode) for mode in ("thread", "main")}
    for app in apps.values():
        handler = instrument(app, **telemetry.providers)
    for app in apps.values():
        run_tasks(app, "etl")
    assert [of_span(span)[3] for span in telemetry.spans] == ["thread", "main"]
    rows = handler.repo.filter_by().all()
    assert [one.execution for one in rows] == ["thread", "thread", "main", "main"]

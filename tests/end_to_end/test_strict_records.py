"""Records that Rocketry's own handler keeps do not fail an instrumented application."""

from __future__ import annotations

import datetime as dt
import logging
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rocketry_otel import TaskEventRecord, instrument, open_repository
from rocketry_otel.testing import TelemetryCapture
from tests.support.apps import make_app, run_tasks

OURS = sorted(set(TaskEventRecord.__fields__) - {"task_name", "action", "created", "run_id"})
# Rocketry or `logging` sets these itself, and reads them again.
SET_BY_OTHERS = {"process", "thread", "message", "exc_text", "start", "end", "runtime"}
ODD_VALUES = [object(), {"a": 1}, [1, 2], 3, "text", "0" * 32]


@pytest.mark.parametrize(
    "make_run_id",
    [
        uuid.uuid4,
        lambda: ("a", 1),
        lambda: dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc),
        lambda: 7,
        lambda: b"x",
    ],
    ids=["uuid", "tuple", "datetime", "int", "bytes"],
)
def test_run_id_of_any_type_is_stored_as_text(
    make_run_id: Callable[[], Any], telemetry: TelemetryCapture
) -> None:
    """The run goes on and is seen, under the id as Python prints it."""
    made = []

    def func_run_id(_: Any, __: Any) -> Any:
        made.append(make_run_id())
        return made[-1]

    app = make_app()
    app.session.config.func_run_id = func_run_id
    app.session.create_task(func=lambda: None, name="etl", execution="main")
    handler = instrument(app, repo=open_repository("memory://"), **telemetry.providers)
    run_tasks(app, "etl")
    assert [record.action for record in handler.repo.filter_by().all()] == ["run", "success"]
    assert {record.run_id for record in handler.repo.filter_by().all()} == {str(made[0])}
    assert telemetry.span("etl").attributes["rocketry.run_id"] == str(made[0])


@pytest.fixture(params=ODD_VALUES, ids=lambda value: type(value).__name__ + str(value)[:2])
def strangers(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Have an application put a value on every log record, under each name of ours."""
    before = logging.getLogRecordFactory()

    def make(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = before(*args, **kwargs)
        for name in OURS:
            if name not in SET_BY_OTHERS:
                setattr(record, name, request.param)
        return record

    logging.setLogRecordFactory(make)
    yield request.param
    logging.setLogRecordFactory(before)


@pytest.mark.parametrize("url", ["memory://", "sqlite:///{}/tasks.db", "csv://{}/tasks.csv"])
def test_stranger_under_our_name_is_neither_trusted_nor_fatal(
    strangers: Any, url: str, telemetry: TelemetryCapture, tmp_path: Any
) -> None:
    """What is stored and sent is ours."""
    app = make_app()
    app.session.create_task(func=lambda: 1 / 0, name="etl", execution="main")
    handler = instrument(app, repo=open_repository(url.format(tmp_path)), **telemetry.providers)
    run_tasks(app, "etl")
    began, ended = handler.repo.filter_by().all()
    assert (began.action, ended.action) == ("run", "fail")
    span = telemetry.span("etl")
    assert ended.trace_id == f"{span.context.trace_id:032x}"
    assert ended.execution == "main"
    assert (ended.exc_type, ended.exc_message) == ("ZeroDivisionError", "division by zero")
    assert span.attributes["error.type"] == "ZeroDivisionError"
    assert (ended.attributes, ended.events, ended.links) == (None, None, None)
    assert span.links == ()
    (event,) = span.events
    assert event.name == "exception"

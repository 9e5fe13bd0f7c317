from __future__ import annotations

import gc
import logging
from typing import TYPE_CHECKING, Any

import pytest
from redbird.logging import RepoHandler
from redbird.repos import CSVFileRepo, MemoryRepo
from rocketry import Session
from rocketry.log import LogRecord, MinimalRecord, RunRecord

from rocketry_otel import Settings, TaskEventRecord, current_run, instrument, uninstrument
from rocketry_otel.testing import TelemetryCapture, capture_telemetry
from tests.support import apps
from tests.support.apps import make_app, run_tasks
from tests.support.records import START, task_record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rocketry import Rocketry

LOGGER = logging.getLogger("rocketry.task")


@pytest.fixture
def other() -> Iterator[TelemetryCapture]:
    """Telemetry of another application, captured in memory."""
    with capture_telemetry() as capture:
        yield capture


def app_with(name: str = "etl", **kwargs: Any) -> Rocketry:
    """Return an application with a task."""
    app = make_app(**kwargs)
    app.session.create_task(func=apps.succeed, name=name)
    return app


def names_in(telemetry: TelemetryCapture) -> list[Any]:
    """Return the names of the tasks whose spans were captured."""
    return [span.attributes["task_name"] for span in telemetry.spans]


@pytest.mark.parametrize("model", [LogRecord, RunRecord, MinimalRecord])
def test_repository_in_a_variable_is_the_user_s(model: Any, telemetry: TelemetryCapture) -> None:
    """That holds also for the class and the model of Rocketry's own."""
    mine = MemoryRepo(model=model)
    app = app_with(logger_repo=mine)
    handler = instrument(app, **telemetry.providers)
    run_tasks(app, "etl")
    assert handler.repo is app.session.get_repo() is mine
    assert [record.action for record in mine.filter_by().all()] == ["run", "success"]
    assert len(telemetry.spans) == 1


def test_unreferenced_repository_is_rocketry_s(telemetry: TelemetryCapture) -> None:
    """It would grow without end, so one of ours replaces it and keeps its records."""
    app = app_with()
    run_tasks(app, "etl")
    assert len(app.session.get_repo().filter_by().all()) == 2
    handler = instrument(app, **telemetry.providers)
    assert handler.repo.model is TaskEventRecord
    assert len(handler.repo.filter_by().all()) == 2


def test_second_application_has_no_history(
    telemetry: TelemetryCapture, other: TelemetryCapture
) -> None:
    """A notebook cell that is run again runs its tasks again, each time with its providers."""
    ran = []
    for capture in (telemetry, other):
        app = make_app()
        app.session.create_task(func=lambda: ran.append(1), name="etl", start_cond="every 1 hour")
        handler = instrument(app, **capture.providers)
        run_tasks(app, cycles=2)
        assert len(handler.repo.filter_by().all()) == 2
    assert len(ran) == 2
    assert len(telemetry.spans) == len(other.spans) == 1
    assert LOGGER.handlers == [handler]


def test_applications_on_a_logger_share_the_handler(
    telemetry: TelemetryCapture, other: TelemetryCapture
) -> None:
    """They share history as without us; each has its own providers, settings and hooks."""
    first = app_with("a")
    handler = instrument(first, **telemetry.providers)
    second = app_with("b")
    settings = Settings(span_kind="server")
    assert instrument(
        second, settings=settings, name_span=lambda *_: "named", **other.providers
    ) is handler  # fmt: skip
    run_tasks(second, "b")
    run_tasks(first, "a")
    assert first.session.get_repo() is second.session.get_repo() is handler.repo
    assert [record.task_name for record in handler.repo.filter_by().all()] == ["b", "b", "a", "a"]
    assert (names_in(telemetry), names_in(other)) == (["a"], ["b"])
    assert (telemetry.spans[0].name, other.spans[0].name) == ("run a", "named")
    assert (telemetry.spans[0].kind.name, other.spans[0].kind.name) == ("INTERNAL", "SERVER")
    assert len(telemetry.log_records) == len(other.log_records) == 2


@pytest.mark.parametrize("execution", ["main", "async", "thread", "process"])
def test_run_goes_to_the_launching_application(
    execution: Any, telemetry: TelemetryCapture, other: TelemetryCapture
) -> None:
    """Two applications may have a task of one name; the body is in the run's trace."""
    for capture in (telemetry, other):
        app = make_app(execution=execution)
        app.session.create_task(func=apps.add_numbers, name="etl")
        instrument(app, **capture.providers)
        run_tasks(app, "etl", cycles=1)
    for capture in (telemetry, other):
        assert capture.span("etl").attributes["level"] == 3
        assert len(capture.log_records) == 2


def test_separate_loggers_have_separate_handlers(
    telemetry: TelemetryCapture, other: TelemetryCapture
) -> None:
    """They share nothing."""
    first = app_with("a")
    logger = logging.getLogger("elsewhere.task")
    second = app_with("b", config={"task_logger_basename": "elsewhere.task"})
    handlers = [instrument(first, **telemetry.providers), instrument(second, **other.providers)]
    assert handlers[0] is not handlers[1]
    run_tasks(first, "a")
    run_tasks(second, "b")
    assert (names_in(telemetry), names_in(other)) == (["a"], ["b"])
    assert [len(handler.repo.filter_by().all()) for handler in handlers] == [2, 2]
    uninstrument(second)
    logger.handlers = []


def test_other_repository_is_still_written(telemetry: TelemetryCapture, tmp_path: Path) -> None:
    """As without us, Rocketry reads the newest one, and each handler writes."""
    kept = CSVFileRepo(filename=tmp_path / "kept.csv", model=TaskEventRecord)
    handler = instrument(app_with("a", logger_repo=kept), **telemetry.providers)
    mine = MemoryRepo(model=RunRecord)
    second = app_with("b", logger_repo=mine)
    assert instrument(second, **telemetry.providers) is handler
    run_tasks(second, "b")
    assert handler.repo is second.session.get_repo() is mine
    assert [record.action for record in kept.filter_by().all()] == ["run", "success"]
    assert [type(one).__name__ for one in LOGGER.handlers] == ["OTelRepoHandler", "RepoHandler"]
    assert telemetry.span("b").attributes["rocketry.action"] == "success"


def test_one_url_is_one_repository(
    telemetry: TelemetryCapture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second application continues the history of its variable."""
    monkeypatch.setenv("ROCKETRY_OTEL_REPO", f"csv://{tmp_path}/tasks.csv")
    handler = instrument(app_with("a"), **telemetry.providers)
    repo = handler.repo
    assert instrument(app_with("b"), **telemetry.providers) is handler
    assert handler.repo is repo
    third = app_with("c")
    instrument(third, repo=f"csv://{tmp_path}/other.csv", **telemetry.providers)
    run_tasks(third, "c")
    assert handler.repo is not repo
    assert (tmp_path / "other.csv").read_text().count("\n") == 3
    assert len(LOGGER.handlers) == 2


def test_argument_names_the_repository_of_all(telemetry: TelemetryCapture) -> None:
    """The same repository again changes nothing."""
    mine = MemoryRepo(model=TaskEventRecord)
    handler = instrument(app_with("a"), **telemetry.providers)
    instrument(app_with("b"), repo=mine, **telemetry.providers)
    bridge = handler._bridge
    assert handler.repo is mine
    instrument(app_with("c"), repo=mine, **telemetry.providers)
    assert handler._bridge is bridge
    assert LOGGER.handlers == [handler]


def test_bare_session_shares_the_repository(telemetry: TelemetryCapture) -> None:
    """It has no repository of its own, and Rocketry reads the one on the logger."""
    handler = instrument(app_with("a"), **telemetry.providers)
    repo = handler.repo
    assert instrument(Session(execution="main"), **telemetry.providers) is handler
    assert handler.repo is repo


def test_equal_settings_share_a_bridge(
    telemetry: TelemetryCapture, other: TelemetryCapture
) -> None:
    """Threads and connections are made once for each destination."""
    keep = [app_with(name) for name in "ab"]
    handler = instrument(keep[0], **telemetry.providers)
    instrument(keep[1], **telemetry.providers)
    assert len(handler._routes.pipelines) == 1
    keep.append(app_with("c"))
    instrument(keep[2], **other.providers)
    keep.append(app_with("d"))
    instrument(keep[3], **other.providers)
    assert len(handler._routes.pipelines) == 2
    assert handler.flush(5)
    assert handler.delivery.traces.delivered == 0


def test_deleted_application_leaves_nothing(
    telemetry: TelemetryCapture, other: TelemetryCapture
) -> None:
    """Its own threads and connections are closed when the next application comes."""
    keep = app_with("a")
    handler = instrument(keep, **telemetry.providers)
    gone = app_with("b")
    instrument(gone, **other.providers)
    run_tasks(gone, "b")
    Session().set_as_default()
    del gone
    gc.collect()
    with capture_telemetry() as third:
        last = app_with("c")
        instrument(last, **third.providers)
        assert len(handler._routes.pipelines) == 2
        assert len(handler._hooks) == 2


def test_record_of_unknown_task_goes_to_the_first(
    telemetry: TelemetryCapture, other: TelemetryCapture
) -> None:
    """So does a record without a task, and one that raises."""
    keep = [app_with("a"), app_with("b")]
    handler = instrument(keep[0], **telemetry.providers)
    keep.append(app_with("b"))
    instrument(keep[2], **other.providers)
    handler.handle(task_record("run", "unknown"))
    handler.handle(task_record(None, None))
    handler.handle(task_record("run", "b", run_id="r1"))
    handler.handle(task_record("success", "b", run_id="r1", created=START + 1))
    assert len(telemetry.log_records) == 2
    assert names_in(other) == ["b"]
    assert isinstance(handler, RepoHandler)


def test_user_hooks_are_not_shared(telemetry: TelemetryCapture) -> None:
    """Another application with the same providers keeps the names of its own spans."""
    keep = [app_with("a")]
    handler = instrument(keep[0], name_span=lambda *_: "named", **telemetry.providers)
    keep.append(app_with("b"))
    assert instrument(keep[1], **telemetry.providers) is handler
    run_tasks(keep[0], "a")
    run_tasks(keep[1], "b")
    assert [span.name for span in telemetry.spans] == ["named", "run b"]
    assert not current_run()

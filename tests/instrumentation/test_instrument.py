from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
from redbird.logging import RepoHandler
from redbird.repos import CSVFileRepo, MemoryRepo
from rocketry import Rocketry, Session
from rocketry.log import MinimalRecord

from rocketry_otel import (
    OTelRepoHandler,
    RepositoryURLError,
    Settings,
    SettingsError,
    TaskEventRecord,
    instrument,
    uninstrument,
)
from tests.support import apps
from tests.support.apps import make_app, run_tasks
from tests.support.records import task_record

if TYPE_CHECKING:
    from pathlib import Path

    from rocketry_otel.testing import TelemetryCapture

LOGGER = logging.getLogger("rocketry.task")


def test_handler_replaces_the_memory_handler(telemetry: TelemetryCapture) -> None:
    """Rocketry then reads our repository, and handlers of other kinds stay in place."""
    app = make_app()
    before, after = logging.NullHandler(), logging.NullHandler()
    LOGGER.handlers = [before, *LOGGER.handlers, after]
    handler = instrument(app, **telemetry.providers)
    assert LOGGER.handlers == [before, handler, after]
    assert app.session.get_repo() is handler.repo


def test_second_call_changes_nothing(telemetry: TelemetryCapture) -> None:
    """It returns the same handler, for application or session."""
    app = make_app()
    handler = instrument(app, **telemetry.providers)
    assert instrument(app) is handler
    assert instrument(app.session, repo=MemoryRepo(model=TaskEventRecord)) is handler
    assert LOGGER.handlers == [handler]


def test_bare_session_can_be_instrumented(telemetry: TelemetryCapture) -> None:
    """It has no handler yet, and its logger drops the records."""
    LOGGER.setLevel(logging.NOTSET)
    session = Session(execution="main")
    handler = instrument(session, **telemetry.providers)
    assert LOGGER.handlers == [handler]
    session.create_task(func=apps.succeed, name="etl")
    session["etl"].run()
    session.config.shut_cond = True
    session.run("etl")
    assert telemetry.span("etl").attributes["rocketry.execution"] == "main"


def test_default_session_is_not_used(telemetry: TelemetryCapture) -> None:
    """Every session has a class attribute that holds Rocketry's default session."""
    default = Session(execution="main")
    default.set_as_default()
    other = Session(execution="main", task_logger_basename="rocketry.task.other")
    handler = instrument(other, **telemetry.providers)
    try:
        assert logging.getLogger("rocketry.task.other").handlers == [handler]
        assert LOGGER.handlers == []
    finally:
        uninstrument(other)
        logging.getLogger("rocketry.task.other").handlers = []


def test_logger_lets_info_through(telemetry: TelemetryCapture) -> None:
    """A high level or a disabled logger, as after ``logging.config``, stops no record."""
    app = make_app()
    LOGGER.setLevel(logging.ERROR)
    LOGGER.disabled = True
    instrument(app, **telemetry.providers)
    assert LOGGER.isEnabledFor(logging.INFO)
    assert not LOGGER.disabled


def test_lower_level_is_kept(telemetry: TelemetryCapture) -> None:
    """A logger with a lower level keeps it."""
    app = make_app()
    LOGGER.setLevel(logging.DEBUG)
    instrument(app, **telemetry.providers)
    assert LOGGER.level == logging.DEBUG


def test_existing_records_are_carried_over(telemetry: TelemetryCapture) -> None:
    """Records of Rocketry's memory repository are in ours with their ids, and not sent."""
    app = make_app()
    app.session.create_task(func=apps.succeed, name="etl")
    run_tasks(app, "etl")
    old = app.session.get_repo().filter_by().all()
    handler = instrument(app, **telemetry.providers)
    records = handler.repo.filter_by().all()
    assert [(record.action, record.created) for record in records] == [
        (record.action, record.created) for record in old
    ]
    assert records[0].trace_id == records[1].trace_id == handler.trace_id_of(records[0])
    assert not telemetry.spans
    assert app.session["etl"].logger.filter_by(action="success").all() == [records[1]]


def test_run_begun_before_is_closed(telemetry: TelemetryCapture) -> None:
    """A scheduler that is instrumented during a run shows the whole run."""
    app = make_app(execution="async")
    handlers: list[OTelRepoHandler] = []
    app.session.create_task(
        func=lambda: handlers.append(instrument(app, **telemetry.providers)), name="etl"
    )
    run_tasks(app, "etl", cycles=3)
    began, ended = handlers[0].repo.filter_by().all()
    span = telemetry.span("etl")
    assert (span.start_time, span.end_time) == (int(began.created * 1e9), int(ended.created * 1e9))


def test_application_s_repository_is_used(telemetry: TelemetryCapture, tmp_path: Path) -> None:
    """``Rocketry(logger_repo=...)`` is the user's choice, and nothing is written twice."""
    repo = CSVFileRepo(filename=tmp_path / "tasks.csv", model=TaskEventRecord)
    app = make_app(logger_repo=repo)
    handler = instrument(app, **telemetry.providers)
    assert handler.repo is repo
    assert LOGGER.handlers == [handler]
    app.session.create_task(func=apps.succeed, name="etl")
    run_tasks(app, "etl")
    assert [record.action for record in repo.filter_by().all()] == ["run", "success"]


def test_memory_repository_of_other_model_is_kept(telemetry: TelemetryCapture) -> None:
    """Rocketry itself inserts only memory repositories of its own two models."""
    repo = MemoryRepo(model=TaskEventRecord)
    assert instrument(make_app(logger_repo=repo), **telemetry.providers).repo is repo


def test_environment_names_the_repository(
    telemetry: TelemetryCapture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It wins over the application's own, whose handler stays behind ours."""
    monkeypatch.setenv("ROCKETRY_OTEL_REPO", f"csv://{tmp_path}/tasks.csv")
    users = MemoryRepo(model=TaskEventRecord)
    app = make_app(logger_repo=users)
    handler = instrument(app, **telemetry.providers)
    assert app.session.get_repo() is handler.repo
    assert [type(one) for one in LOGGER.handlers] == [OTelRepoHandler, RepoHandler]
    app.session.create_task(func=apps.succeed, name="etl")
    run_tasks(app, "etl")
    assert (tmp_path / "tasks.csv").read_text().count("\n") == 3
    assert len(users.filter_by().all()) == 2


def test_argument_names_the_repository(
    telemetry: TelemetryCapture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It wins over the environment."""
    monkeypatch.setenv("ROCKETRY_OTEL_REPO", "csv:///nowhere/tasks.csv")
    repo = MemoryRepo(model=TaskEventRecord)
    assert instrument(make_app(), repo=repo, **telemetry.providers).repo is repo


def test_settings_name_the_repository(telemetry: TelemetryCapture, tmp_path: Path) -> None:
    """Given settings replace those of the environment."""
    settings = Settings(repo=f"csv://{tmp_path}/tasks.csv")
    handler = instrument(make_app(), settings=settings, **telemetry.providers)
    assert handler.settings is settings
    assert isinstance(handler.repo, CSVFileRepo)


def test_default_is_a_bounded_memory_repository(telemetry: TelemetryCapture) -> None:
    """Rocketry's own would grow without end."""
    handler = instrument(make_app(), **telemetry.providers)
    assert isinstance(handler.repo, MemoryRepo)
    assert handler.repo.model is TaskEventRecord


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [("REPO", "nowhere://x", RepositoryURLError), ("SPAN_KIND", "x", SettingsError)],
)
def test_bad_environment_changes_nothing(
    name: str, value: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error comes at once, and Rocketry stays as it was."""
    app = make_app()
    before = list(LOGGER.handlers)
    monkeypatch.setenv(f"ROCKETRY_OTEL_{name}", value)
    with pytest.raises(error):
        instrument(app)
    assert LOGGER.handlers == before


def test_handler_added_by_hand_is_put_in_front(telemetry: TelemetryCapture) -> None:
    """The handbook's recipe leaves it behind the memory handler."""
    app = make_app()
    handler = OTelRepoHandler(MemoryRepo(model=TaskEventRecord), **telemetry.providers)
    LOGGER.addHandler(handler)
    assert instrument(app) is handler
    assert LOGGER.handlers == [handler]
    assert app.session.get_repo() is handler.repo


def test_plain_handler_behind_ours_is_logged(
    telemetry: TelemetryCapture, caplog: pytest.LogCaptureFixture
) -> None:
    """It still writes; the log line has the cure, because Rocketry does not read it."""
    app = make_app()
    theirs = RepoHandler(MemoryRepo(model=MinimalRecord, collection=[]))
    theirs.repo = CSVFileRepo(filename="never-written.csv", model=MinimalRecord)
    LOGGER.addHandler(theirs)
    with caplog.at_level(logging.INFO, "rocketry_otel"):
        handler = instrument(app, **telemetry.providers)
    assert LOGGER.handlers == [handler, theirs]
    assert "instrument(app, repo=that_repository)" in caplog.text


def test_new_application_on_the_same_logger(telemetry: TelemetryCapture) -> None:
    """Each ``Rocketry()`` inserts another memory handler, and ours comes to the front again."""
    handler = instrument(make_app(), **telemetry.providers)
    second = Rocketry(execution="main")
    assert LOGGER.handlers[0] is not handler
    assert instrument(second) is handler
    assert LOGGER.handlers == [handler]


def test_uninstrument_leaves_a_plain_handler(telemetry: TelemetryCapture) -> None:
    """It has the same repository, and nothing more is sent."""
    app = make_app()
    handler = instrument(app, **telemetry.providers)
    handler.setLevel(logging.INFO)
    handler.addFilter(keep := (lambda record: True))
    handler.setFormatter(formatter := logging.Formatter("%(message)s"))
    uninstrument(app)
    (plain,) = LOGGER.handlers
    assert type(plain) is RepoHandler
    assert plain.repo is handler.repo
    assert (plain.level, plain.filters, plain.formatter) == (logging.INFO, [keep], formatter)
    app.session.create_task(func=apps.succeed, name="etl")
    run_tasks(app, "etl")
    assert [record.action for record in handler.repo.filter_by().all()] == ["run", "success"]
    assert not telemetry.spans
    uninstrument(app)
    assert LOGGER.handlers == [plain]


def test_same_variable_is_the_same_repository(
    telemetry: TelemetryCapture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After ``uninstrument`` no record is written twice."""
    monkeypatch.setenv("ROCKETRY_OTEL_REPO", f"csv://{tmp_path}/tasks.csv")
    app = make_app()
    first = instrument(app, **telemetry.providers)
    uninstrument(app)
    second = instrument(app, **telemetry.providers)
    assert second.repo is first.repo
    assert LOGGER.handlers == [second]
    app.session.create_task(func=apps.succeed, name="etl")
    run_tasks(app, "etl")
    assert [record.action for record in second.repo.filter_by().all()] == ["run", "success"]


def test_shared_records_are_carried_over_once(
    telemetry: TelemetryCapture,
) -> None:
    """Each application has a memory handler, and both have the same records."""
    make_app()
    app = make_app()
    app.session.create_task(func=apps.succeed, name="etl")
    run_tasks(app, "etl")
    handler = instrument(app, **telemetry.providers)
    assert [record.action for record in handler.repo.filter_by().all()] == ["run", "success"]
    assert LOGGER.handlers == [handler]


def test_second_application_carries_nothing_over(telemetry: TelemetryCapture) -> None:
    """The handler already has the records since its start."""
    first = make_app()
    handler = instrument(first, **telemetry.providers)
    second = make_app()
    second.session.create_task(func=apps.succeed, name="etl")
    run_tasks(second, "etl")
    assert instrument(second) is handler
    assert [record.action for record in handler.repo.filter_by().all()] == ["run", "success"]


def test_failed_carry_over_changes_nothing(
    telemetry: TelemetryCapture,
) -> None:
    """The error comes at once, and Rocketry goes on with its own handler."""

    class Full(MemoryRepo):
        def insert(self, item: Any) -> None:
            raise OSError("disk full")

    app = make_app()
    app.session.create_task(func=apps.succeed, name="etl")
    run_tasks(app, "etl")
    before = list(LOGGER.handlers)
    with pytest.raises(OSError, match="disk full"):
        instrument(app, repo=Full(model=TaskEventRecord), **telemetry.providers)
    assert LOGGER.handlers == before


def test_minimal_memory_repository_is_kept(
    telemetry: TelemetryCapture,
) -> None:
    """``Rocketry()`` itself makes none of that model; a bare session does."""
    repo = MemoryRepo(model=MinimalRecord)
    assert instrument(make_app(logger_repo=repo), **telemetry.providers).repo is repo


def test_second_call_logs_unused_arguments(
    telemetry: TelemetryCapture, caplog: pytest.LogCaptureFixture
) -> None:
    """A test that forgot to uninstrument finds out why it captures nothing."""
    app = make_app()
    instrument(app, **telemetry.providers)
    with caplog.at_level(logging.INFO, "rocketry_otel"):
        instrument(app, **telemetry.providers)
    assert "instrumented already" in caplog.text


@pytest.mark.parametrize("app", [None, "app", logging])
def test_other_object_is_refused(app: Any) -> None:
    """The error names the types that are accepted."""
    with pytest.raises(TypeError, match="a Rocketry or a Session is needed, not "):
        instrument(app)


def test_instrument_works_again(telemetry: TelemetryCapture) -> None:
    """The repository of before is now the application's own."""
    app = make_app()
    first = instrument(app, **telemetry.providers)
    uninstrument(app)
    second = instrument(app, **telemetry.providers)
    assert second is not first
    assert second.repo is first.repo


@pytest.mark.parametrize("execution", ["main", "async", "thread"])
def test_default_execution_mode_is_known(execution: Any, telemetry: TelemetryCapture) -> None:
    """A task without its own mode has the session's."""
    app = make_app(execution=execution)
    handler = instrument(app, **telemetry.providers)
    app.session.create_task(func=apps.succeed, name="etl")
    run_tasks(app, "etl")
    assert {record.execution for record in handler.repo.filter_by().all()} == {execution}


def test_user_hooks_get_the_real_task(telemetry: TelemetryCapture) -> None:
    """All that the application knows of a task can be on the spans of its runs."""
    app = make_app()
    task = app.session.create_task(func=apps.succeed, name="etl", priority=7)
    seen: list[Any] = []

    def enrich(its_task: Any, record: Any, outcome: str) -> dict[str, object]:
        seen.append((its_task, record["action"], outcome))
        return {"priority": its_task.priority}

    instrument(
        app, name_span=lambda its_task, *_: its_task.name.upper(), enrich=enrich,
        **telemetry.providers,
    )  # fmt: skip
    run_tasks(app, "etl")
    assert seen == [(task, "success", "success")]
    (span,) = telemetry.spans
    assert (span.name, span.attributes["priority"]) == ("ETL", 7)


@pytest.mark.parametrize("hook", ["name_span", "enrich"])
def test_user_hooks_can_be_set_later(hook: str, telemetry: TelemetryCapture) -> None:
    """A second call with a hook sets it, and one without keeps it."""
    app = make_app()
    app.session.create_task(func=apps.succeed, name="etl")
    handler = instrument(app, **telemetry.providers)
    hooks: Any = {hook: lambda *_: {"name_span": "named", "enrich": {"team": "data"}}[hook]}
    assert instrument(app, **hooks) is handler
    assert instrument(app) is handler
    run_tasks(app, "etl")
    (span,) = telemetry.spans
    assert (span.name, span.attributes.get("team")) == {
        "name_span": ("named", None),
        "enrich": ("run etl", "data"),
    }[hook]


def test_second_application_has_hooks(
    telemetry: TelemetryCapture,
) -> None:
    """Each is hooked into once, and ``uninstrument`` removes all hooks."""
    apps_ = [make_app(), make_app()]
    for app in [*apps_, *apps_]:
        instrument(app, **telemetry.providers)
    assert [len(app.session.hooks.task_execute) for app in apps_] == [1, 1]
    uninstrument(apps_[0])
    assert [len(app.session.hooks.task_execute) for app in apps_] == [0, 0]


@pytest.mark.parametrize("allowed", [True, False])
def test_only_instrument_makes_providers_global(
    telemetry: TelemetryCapture, monkeypatch: pytest.MonkeyPatch, *, allowed: bool
) -> None:
    """They are found at the first record; a handler put in place by hand sets none."""
    made_global: list[Any] = []
    monkeypatch.setattr("rocketry_otel._delivery.pipeline.make_global", made_global.append)
    bare = OTelRepoHandler(MemoryRepo(model=TaskEventRecord), **telemetry.providers)
    bare.handle(task_record("run"))
    assert made_global == []
    app = make_app()
    app.session.create_task(func=apps.succeed, name="etl")
    settings = Settings(global_providers=allowed)
    handler = instrument(app, settings=settings, **telemetry.providers)
    assert made_global == []
    run_tasks(app, "etl")
    assert made_global == ([handler._bridge.pipeline.providers] if allowed else [])

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


def test_it_takes_the_place_of_the_memory_handler(telemetry: TelemetryCapture) -> None:
    """Rocketry then reads what we write, and handlers of other kinds stay where they were."""
    app = make_app()
    before, after = logging.NullHandler(), logging.NullHandler()
    LOGGER.handlers = [before, *LOGGER.handlers, after]
    handler = instrument(app, **telemetry.providers)
    assert LOGGER.handlers == [before, handler, after]
    assert app.session.get_repo() is handler.repo


def test_a_second_call_changes_nothing(telemetry: TelemetryCapture) -> None:
    """The same handler comes back, whether application or session is named."""
    app = make_app()
    handler = instrument(app, **telemetry.providers)
    assert instrument(app) is handler
    assert instrument(app.session, repo=MemoryRepo(model=TaskEventRecord)) is handler
    assert LOGGER.handlers == [handler]


def test_a_bare_session_can_be_instrumented(telemetry: TelemetryCapture) -> None:
    """A session has no handler yet, and a logger that lets nothing through."""
    LOGGER.setLevel(logging.NOTSET)
    session = Session(execution="main")
    handler = instrument(session, **telemetry.providers)
    assert LOGGER.handlers == [handler]
    session.create_task(func=apps.succeed, name="etl")
    session["etl"].run()
    session.config.shut_cond = True
    session.run("etl")
    assert telemetry.span("etl").attributes["rocketry.execution"] == "main"


def test_the_default_session_is_not_taken_for_another(telemetry: TelemetryCapture) -> None:
    """Every session has a class attribute that holds Rocketry's default one."""
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


def test_the_logger_lets_info_through(telemetry: TelemetryCapture) -> None:
    """Neither a level nor logging.config's habit of disabling loggers keeps records away."""
    app = make_app()
    LOGGER.setLevel(logging.ERROR)
    LOGGER.disabled = True
    instrument(app, **telemetry.providers)
    assert LOGGER.isEnabledFor(logging.INFO)
    assert not LOGGER.disabled


def test_a_lower_level_is_kept(telemetry: TelemetryCapture) -> None:
    """A logger that lets more through goes on to do so."""
    app = make_app()
    LOGGER.setLevel(logging.DEBUG)
    instrument(app, **telemetry.providers)
    assert LOGGER.level == logging.DEBUG


def test_records_that_are_there_are_carried_over(telemetry: TelemetryCapture) -> None:
    """What Rocketry's memory repository held is in ours, with its ids, and is not sent."""
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


def test_a_run_that_began_before_is_closed_after(telemetry: TelemetryCapture) -> None:
    """A scheduler that is instrumented while a task runs shows the whole run."""
    app = make_app(execution="async")
    handlers: list[OTelRepoHandler] = []
    app.session.create_task(
        func=lambda: handlers.append(instrument(app, **telemetry.providers)), name="etl"
    )
    run_tasks(app, "etl", cycles=3)
    began, ended = handlers[0].repo.filter_by().all()
    span = telemetry.span("etl")
    assert (span.start_time, span.end_time) == (int(began.created * 1e9), int(ended.created * 1e9))


def test_the_repository_that_the_application_was_given_is_used(
    telemetry: TelemetryCapture, tmp_path: Path
) -> None:
    """``Rocketry(logger_repo=...)`` is the user's word; nothing is written twice."""
    repo = CSVFileRepo(filename=tmp_path / "tasks.csv", model=TaskEventRecord)
    app = make_app(logger_repo=repo)
    handler = instrument(app, **telemetry.providers)
    assert handler.repo is repo
    assert LOGGER.handlers == [handler]
    app.session.create_task(func=apps.succeed, name="etl")
    run_tasks(app, "etl")
    assert [record.action for record in repo.filter_by().all()] == ["run", "success"]


def test_a_memory_repository_of_another_model_is_the_users(telemetry: TelemetryCapture) -> None:
    """Rocketry itself inserts only memory repositories of its own two models."""
    repo = MemoryRepo(model=TaskEventRecord)
    assert instrument(make_app(logger_repo=repo), **telemetry.providers).repo is repo


def test_the_environment_names_the_repository(
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


def test_an_argument_names_the_repository(
    telemetry: TelemetryCapture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It wins over the environment."""
    monkeypatch.setenv("ROCKETRY_OTEL_REPO", "csv:///nowhere/tasks.csv")
    repo = MemoryRepo(model=TaskEventRecord)
    assert instrument(make_app(), repo=repo, **telemetry.providers).repo is repo


def test_settings_may_name_the_repository(telemetry: TelemetryCapture, tmp_path: Path) -> None:
    """Settings that are given stand in the place of the environment."""
    settings = Settings(repo=f"csv://{tmp_path}/tasks.csv")
    handler = instrument(make_app(), settings=settings, **telemetry.providers)
    assert handler.settings is settings
    assert isinstance(handler.repo, CSVFileRepo)


def test_without_any_word_it_is_a_bounded_memory_repository(telemetry: TelemetryCapture) -> None:
    """Rocketry's own would grow without end."""
    handler = instrument(make_app(), **telemetry.providers)
    assert isinstance(handler.repo, MemoryRepo)
    assert handler.repo.model is TaskEventRecord


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [("REPO", "nowhere://x", RepositoryURLError), ("SPAN_KIND", "x", SettingsError)],
)
def test_a_bad_environment_changes_nothing(
    name: str, value: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error comes at once, and Rocketry is left as it was."""
    app = make_app()
    before = list(LOGGER.handlers)
    monkeypatch.setenv(f"ROCKETRY_OTEL_{name}", value)
    with pytest.raises(error):
        instrument(app)
    assert LOGGER.handlers == before


def test_a_handler_that_was_added_by_hand_is_put_in_front(telemetry: TelemetryCapture) -> None:
    """The handbook's recipe leaves it behind the memory handler: instrument puts it right."""
    app = make_app()
    handler = OTelRepoHandler(MemoryRepo(model=TaskEventRecord), **telemetry.providers)
    LOGGER.addHandler(handler)
    assert instrument(app) is handler
    assert LOGGER.handlers == [handler]
    assert app.session.get_repo() is handler.repo


def test_a_plain_handler_behind_the_memory_handler_stays_and_is_told_of(
    telemetry: TelemetryCapture, caplog: pytest.LogCaptureFixture
) -> None:
    """It goes on to write; that Rocketry does not read it is said, with the cure."""
    app = make_app()
    theirs = RepoHandler(MemoryRepo(model=MinimalRecord, collection=[]))
    theirs.repo = CSVFileRepo(filename="never-written.csv", model=MinimalRecord)
    LOGGER.addHandler(theirs)
    with caplog.at_level(logging.INFO, "rocketry_otel"):
        handler = instrument(app, **telemetry.providers)
    assert LOGGER.handlers == [handler, theirs]
    assert "instrument(app, repo=that_repository)" in caplog.text


def test_a_new_application_on_the_same_logger(telemetry: TelemetryCapture) -> None:
    """Each ``Rocketry()`` inserts another memory handler; ours comes to the front again."""
    handler = instrument(make_app(), **telemetry.providers)
    second = Rocketry(execution="main")
    assert LOGGER.handlers[0] is not handler
    assert instrument(second) is handler
    assert LOGGER.handlers == [handler]


def test_uninstrument_leaves_rocketry_a_handler_to_read(telemetry: TelemetryCapture) -> None:
    """A plain handler with the same repository stands in its place, and nothing more is sent."""
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


def test_it_can_be_instrumented_again_with_the_same_variable(
    telemetry: TelemetryCapture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ``uninstrument`` left is taken up again: no record is written twice."""
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


def test_what_two_applications_have_seen_is_carried_over_once(
    telemetry: TelemetryCapture,
) -> None:
    """Each has put a memory handler there, and both have seen the same."""
    make_app()
    app = make_app()
    app.session.create_task(func=apps.succeed, name="etl")
    run_tasks(app, "etl")
    handler = instrument(app, **telemetry.providers)
    assert [record.action for record in handler.repo.filter_by().all()] == ["run", "success"]
    assert LOGGER.handlers == [handler]


def test_a_second_application_carries_nothing_over(telemetry: TelemetryCapture) -> None:
    """What it has seen since it came the handler has seen too."""
    first = make_app()
    handler = instrument(first, **telemetry.providers)
    second = make_app()
    second.session.create_task(func=apps.succeed, name="etl")
    run_tasks(second, "etl")
    assert instrument(second) is handler
    assert [record.action for record in handler.repo.filter_by().all()] == ["run", "success"]


def test_records_that_cannot_be_carried_over_leave_all_as_it_was(
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


def test_a_minimal_memory_repository_of_an_application_is_the_users(
    telemetry: TelemetryCapture,
) -> None:
    """``Rocketry()`` itself makes none of that model; a bare session does."""
    repo = MemoryRepo(model=MinimalRecord)
    assert instrument(make_app(logger_repo=repo), **telemetry.providers).repo is repo


def test_what_else_is_given_to_a_second_call_is_said_to_be_unused(
    telemetry: TelemetryCapture, caplog: pytest.LogCaptureFixture
) -> None:
    """A test that forgot to uninstrument finds out why it captures nothing."""
    app = make_app()
    instrument(app, **telemetry.providers)
    with caplog.at_level(logging.INFO, "rocketry_otel"):
        instrument(app, **telemetry.providers)
    assert "instrumented already" in caplog.text


@pytest.mark.parametrize("app", [None, "app", logging])
def test_what_is_no_application_is_refused(app: Any) -> None:
    """With an error that says what is needed."""
    with pytest.raises(TypeError, match="a Rocketry or a Session is needed, not "):
        instrument(app)


def test_it_can_be_instrumented_again(telemetry: TelemetryCapture) -> None:
    """The repository of before is then the one that the application was given."""
    app = make_app()
    first = instrument(app, **telemetry.providers)
    uninstrument(app)
    second = instrument(app, **telemetry.providers)
    assert second is not first
    assert second.repo is first.repo


@pytest.mark.parametrize("execution", ["main", "async", "thread"])
def test_the_execution_mode_is_known_though_a_task_has_none_of_its_own(
    execution: Any, telemetry: TelemetryCapture
) -> None:
    """A task without one has the session's."""
    app = make_app(execution=execution)
    handler = instrument(app, **telemetry.providers)
    app.session.create_task(func=apps.succeed, name="etl")
    run_tasks(app, "etl")
    assert {record.execution for record in handler.repo.filter_by().all()} == {execution}


def test_hooks_of_the_user_are_given_the_real_task(telemetry: TelemetryCapture) -> None:
    """Whatever the application knows of a task can stand on the spans of its runs."""
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
def test_hooks_of_the_user_can_be_given_later(hook: str, telemetry: TelemetryCapture) -> None:
    """A second call with one sets it, a second call without any keeps it."""
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


def test_a_second_application_on_the_same_logger_is_hooked_into_too(
    telemetry: TelemetryCapture,
) -> None:
    """Each once; ``uninstrument`` takes all of them away."""
    apps_ = [make_app(), make_app()]
    for app in [*apps_, *apps_]:
        instrument(app, **telemetry.providers)
    assert [len(app.session.hooks.task_execute) for app in apps_] == [1, 1]
    uninstrument(apps_[0])
    assert [len(app.session.hooks.task_execute) for app in apps_] == [0, 0]


@pytest.mark.parametrize("allowed", [True, False])
def test_ours_may_be_the_global_providers_after_instrument_alone(
    telemetry: TelemetryCapture, monkeypatch: pytest.MonkeyPatch, *, allowed: bool
) -> None:
    """When they are found, at the first record; the bare handler never does it."""
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

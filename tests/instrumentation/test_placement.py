from __future__ import annotations

import logging
import logging.config
import pickle
from typing import TYPE_CHECKING, Any

import pytest
from redbird.logging import RepoHandler
from redbird.repos import MemoryRepo
from rocketry import Session
from rocketry.args import TaskLogger
from rocketry.log import MinimalRunRecord

from rocketry_otel import (
    OTelRepoHandler,
    TaskEventRecord,
    current_run,
    instrument,
    open_repository,
    uninstrument,
)
from rocketry_otel._instrumentation.placement import Placement
from tests.support import apps
from tests.support.apps import make_app, run_tasks
from tests.support.otlp_receiver import OTLPReceiver, attributes_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from rocketry import Rocketry

    from rocketry_otel.testing import TelemetryCapture

LOGGER = logging.getLogger("rocketry.task")

# Rocketry's warning about a logger without a repository, which this test makes on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:Logger .*rocketry.task:UserWarning")


@pytest.fixture(autouse=True)
def _same_loggers() -> Iterator[None]:
    """Undo the changes of logging beyond the task logger."""
    known, root = logging.Logger.manager.loggerDict, logging.getLogger()
    deleted = {name: one for name, one in known.items() if name.startswith("rocketry.task")}
    loggers = [one for one in known.values() if isinstance(one, logging.Logger)]
    disabled = [one.disabled for one in loggers]
    level, handlers = root.level, list(root.handlers)
    yield
    known.update(deleted)
    for logger, before in zip(loggers, disabled, strict=True):
        logger.disabled = before
    root.setLevel(level)
    root.handlers = handlers


def set_repo(logger: Any = TaskLogger()) -> None:  # noqa: B008
    """Choose a repository as Rocketry's handbook has it."""
    logger.set_repo(MemoryRepo(model=MinimalRunRecord))


def configure() -> None:
    """Configure logging anew, with a handler of another kind for the tasks."""
    logging.config.dictConfig(
        {
            "version": 1,
            "handlers": {"none": {"class": "logging.NullHandler"}},
            "loggers": {"rocketry.task": {"level": "INFO", "handlers": ["none"]}},
        }
    )


def configure_without_handlers() -> None:
    """Configure logging anew, with no handler for the tasks."""
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "loggers": {"rocketry.task": {"level": "INFO"}},
        }
    )


def configure_others() -> None:
    """Configure logging anew, which disables the loggers that are not named."""
    logging.config.dictConfig({"version": 1})


def replace_list() -> None:
    """Clear the list of handlers, and choose a repository by hand."""
    LOGGER.handlers.clear()
    LOGGER.addHandler(RepoHandler(MemoryRepo(model=MinimalRunRecord)))


def delete_loggers() -> None:
    """Delete the loggers, as an option of Rocketry's does."""
    Session(delete_existing_loggers=True)


def raise_level() -> None:
    """Let the logger of the tasks pass on only errors."""
    LOGGER.setLevel(logging.ERROR)


def empty() -> None:
    """Remove all handlers."""
    LOGGER.handlers.clear()


def remove_ours() -> None:
    """Remove our handler, and leave one of another kind."""
    LOGGER.handlers = [logging.NullHandler()]


TAKEN_BY_OTHERS: list[Callable[..., None]] = [
    set_repo,
    configure,
    configure_without_handlers,
    configure_others,
    replace_list,
    delete_loggers,
    raise_level,
    remove_ours,
]


def app_with(setup: Callable[..., None]) -> Rocketry:
    """Return an application with a task and a hook at its start."""
    app = make_app()
    app.session.create_task(func=apps.succeed, name="etl")
    app.setup(setup)
    return app


@pytest.mark.parametrize("setup", TAKEN_BY_OTHERS)
def test_setup_hook_cannot_end_telemetry(
    setup: Callable[..., None], telemetry: TelemetryCapture
) -> None:
    """It may change the logger; later runs are stored and sent."""
    app = app_with(setup)
    instrument(app, **telemetry.providers)
    run_tasks(app, "etl")
    assert telemetry.span("etl").attributes["rocketry.action"] == "success"
    assert len(telemetry.log_records) == 2
    assert [record.action for record in app.session.get_repo().filter_by().all()] == [
        "run",
        "success",
    ]


@pytest.mark.parametrize("setup", [set_repo, replace_list])
def test_repository_of_a_setup_hook_is_used(
    setup: Callable[..., None], telemetry: TelemetryCapture
) -> None:
    """The handler of ``instrument`` writes to the application's choice."""
    app = app_with(setup)
    handler = instrument(app, repo=MemoryRepo(model=TaskEventRecord), **telemetry.providers)
    run_tasks(app, "etl")
    assert LOGGER.handlers == [handler]
    assert handler.repo is app.session.get_repo()
    assert handler.repo.model is MinimalRunRecord
    assert handler.trace_id_of(handler.repo.filter_by().last()) == (
        f"{telemetry.span('etl').context.trace_id:032x}"
    )


@pytest.mark.parametrize("is_instrumented_first", [True, False])
def test_startup_task_uses_the_chosen_repository(
    telemetry: TelemetryCapture, *, is_instrumented_first: bool
) -> None:
    """Tasks of the start run after all its hooks, in any order of these."""
    app = make_app()
    app.session.create_task(func=apps.succeed, name="first", on_startup=True)
    if is_instrumented_first:
        instrument(app, **telemetry.providers)
    app.setup(set_repo)
    handler = instrument(app, **telemetry.providers)
    run_tasks(app)
    assert len(handler.repo.filter_by(task_name="first").all()) == 2
    assert telemetry.span("first").attributes["rocketry.action"] == "success"


def test_each_scheduler_start_is_new(telemetry: TelemetryCapture) -> None:
    """A set-up hook runs at each start, and may set a repository each time."""
    app = app_with(set_repo)
    handler = instrument(app, **telemetry.providers)
    for _ in range(3):
        run_tasks(app, "etl")
    assert len(telemetry.spans) == 3
    assert len(handler.repo.filter_by().all()) == 2


@pytest.mark.parametrize("take", TAKEN_BY_OTHERS)
def test_running_scheduler_puts_the_handler_back(
    take: Callable[..., None], telemetry: TelemetryCapture, caplog: pytest.LogCaptureFixture
) -> None:
    """The next cycle notices it; one line has the cause and the repository."""
    app = make_app()
    app.session.create_task(func=apps.succeed, name="etl")
    arguments = [app.session["etl"].logger] if take is set_repo else []
    app.session.create_task(func=lambda: take(*arguments), name="take", priority=-1)
    instrument(app, **telemetry.providers)
    with caplog.at_level(logging.INFO, "rocketry_otel"):
        # Configuring logging takes away pytest's own handler, and disables our logger.
        app.session.hooks.scheduler_cycle.insert(0, lambda: restore(caplog.handler))
        run_tasks(app, "take", "etl", "etl", cycles=3)
    spans = [span for span in telemetry.spans if span.attributes["task_name"] == "etl"]
    assert len(spans) == 2
    lines = [one for one in caplog.records if "it is in force again" in one.getMessage()]
    assert [one.levelname for one in lines] == ["INFO"]


def restore(handler: logging.Handler) -> None:
    """Let a test read our log again."""
    ours, root = logging.getLogger("rocketry_otel"), logging.getLogger()
    ours.disabled = False
    if handler not in root.handlers:
        root.addHandler(handler)


def test_open_run_keeps_its_trace(telemetry: TelemetryCapture) -> None:
    """It begins in one repository and ends in another, as one span with its annotations."""
    app = make_app(execution="async")

    def body() -> None:
        current_run().set_attribute("rows", 5)
        app.session["etl"].logger.set_repo(MemoryRepo(model=MinimalRunRecord))
        app.session.hooks.scheduler_cycle[-1]()

    app.session.create_task(func=body, name="etl")
    first = MemoryRepo(model=TaskEventRecord)
    handler = instrument(app, repo=first, **telemetry.providers)
    run_tasks(app, "etl", cycles=3)
    span = telemetry.span("etl")
    (began,) = first.filter_by().all()
    (ended,) = handler.repo.filter_by().all()
    assert (began.action, ended.action) == ("run", "success")
    assert began.trace_id == f"{span.context.trace_id:032x}"
    assert span.attributes["rows"] == 5
    points = telemetry.metric_points("rocketry.task.active")
    assert [point.value for point in points] == [0]


def test_own_providers_go_on_with_a_new_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Items of the first repository and records of the second both arrive."""
    with OTLPReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.http_endpoint)
        app = make_app()
        app.session.create_task(func=apps.succeed, name="before")
        app.session.create_task(func=apps.succeed, name="after")
        repo = open_repository(f"sqlite:///{tmp_path}/tasks.db")
        handler = instrument(app)
        run_tasks(app, "before")
        app.session["before"].logger.set_repo(repo)
        run_tasks(app, "after")
        assert handler.repo is repo
        assert handler.flush(10)
        assert handler.delivery.traces.delivered == 1
        assert receiver.wait_for(lambda it: len(it.spans) == 2)
        names = {attributes_of(it.span.attributes)["task_name"] for it in receiver.spans}
        assert names == {"before", "after"}
        assert (tmp_path / "tasks.db.delivery").is_dir()
        uninstrument(app)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_process_task_runs_after_configuration(start: str, telemetry: TelemetryCapture) -> None:
    """Loggers that are not named are disabled, also the one for a child's records."""
    with apps.start_method(start):
        app = make_app(execution="process")
        app.session.create_task(func=apps.succeed, name="etl")
        app.setup(configure_others)
        instrument(app, **telemetry.providers)
        run_tasks(app, "etl")
    assert telemetry.span("etl").attributes["rocketry.action"] == "success"


@pytest.mark.parametrize("take", [empty, lambda: LOGGER.removeHandler(LOGGER.handlers[0])])
def test_emptied_list_stays_empty(
    take: Callable[[], None], telemetry: TelemetryCapture, caplog: pytest.LogCaptureFixture
) -> None:
    """It counts as intended; one warning names the proper way."""
    app = make_app()
    app.session.create_task(func=apps.succeed, name="etl")
    handler = instrument(app, **telemetry.providers)
    take()
    run_tasks(app, "etl", cycles=3)
    run_tasks(app, "etl", cycles=3)
    assert handler not in LOGGER.handlers
    assert not telemetry.spans
    (line,) = [one for one in caplog.records if one.name == "rocketry_otel"]
    assert line.levelname == "WARNING"
    assert "rocketry_otel.uninstrument(app)" in line.getMessage()


@pytest.mark.parametrize("take", [remove_ours, raise_level])
def test_second_removal_is_final(
    take: Callable[[], None], telemetry: TelemetryCapture, caplog: pytest.LogCaptureFixture
) -> None:
    """The handler is put back once for each cause."""
    handler = instrument(make_app(), **telemetry.providers)
    placement = handler.placement
    assert placement is not None
    take()
    assert placement.verify()
    take()
    assert not placement.verify()
    assert not placement.verify()
    (line,) = [one for one in caplog.records if one.levelname == "WARNING"]
    assert "uninstrument" in line.getMessage()


def test_each_cause_counts_once(telemetry: TelemetryCapture) -> None:
    """Two causes put the handler back twice in a run of the scheduler."""
    handler = instrument(make_app(), **telemetry.providers)
    placement = handler.placement
    assert placement is not None
    for take in (remove_ours, raise_level, configure, replace_list):
        take()
        assert placement.verify()
        assert handler in LOGGER.handlers


def test_instrument_replaces_a_removed_handler(telemetry: TelemetryCapture) -> None:
    """The removed handler is closed, and leaves no hook."""
    app = make_app()
    app.session.create_task(func=apps.succeed, name="etl")
    removed = instrument(app, **telemetry.providers)
    LOGGER.handlers = []
    handler = instrument(app, **telemetry.providers)
    assert handler is not removed
    assert len(app.session.hooks.task_execute) == 1
    run_tasks(app, "etl")
    assert telemetry.span("etl").attributes["rocketry.action"] == "success"
    assert LOGGER.handlers == [handler]


def test_uninstrument_ends_a_removed_handler(telemetry: TelemetryCapture) -> None:
    """It removes the hooks, though the logger has lost the handler."""
    app = make_app()
    instrument(app, **telemetry.providers)
    LOGGER.handlers = []
    uninstrument(app)
    assert app.session.hooks.task_execute == []
    assert LOGGER.handlers == []
    uninstrument(app)


def test_our_fault_does_not_stop_the_scheduler(
    telemetry: TelemetryCapture, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repository that raises costs telemetry and one line."""

    def raise_error(self: OTelRepoHandler, repo: Any) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(OTelRepoHandler, "use_repository", raise_error)
    app = app_with(set_repo)
    instrument(app, **telemetry.providers)
    run_tasks(app, "etl")
    assert app.session["etl"].status == "success"
    assert "The handler could not be put back" in caplog.text


def test_same_repository_keeps_the_bridge(telemetry: TelemetryCapture) -> None:
    """A plain handler around the repository in use gives way to ours."""
    app = make_app()
    handler = instrument(app, **telemetry.providers)
    bridge = handler._bridge
    LOGGER.handlers = [RepoHandler(handler.repo)]
    assert Placement(handler, LOGGER).verify()
    assert LOGGER.handlers == [handler]
    assert handler._bridge is bridge


def test_child_process_has_no_placement(telemetry: TelemetryCapture) -> None:
    """The pickled hooks leave it out, because a child has no handler."""
    app = make_app()
    handler = instrument(app, **telemetry.providers)
    hooks = pickle.loads(pickle.dumps(handler._hooks[0][0]))  # noqa: S301  # our own
    LOGGER.handlers = []
    next(hooks.started())
    hooks.verifying()
    assert LOGGER.handlers == []

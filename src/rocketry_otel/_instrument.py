"""Putting the combined handler where Rocketry reads its own state."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from redbird.logging import RepoHandler
from redbird.repos import MemoryRepo

from ._handler import OTelRepoHandler
from ._repositories import open_repository
from ._scope import NAME
from ._settings import Settings
from ._stored import fields_of
from ._tasks import Session

if TYPE_CHECKING:
    from opentelemetry._logs import LoggerProvider
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider
    from redbird import BaseRepo

    from ._tasks import Application

_logger = logging.getLogger(NAME)

_DEFAULT_REPOSITORY = "memory://"


def instrument(
    app: Application | Session,
    *,
    repo: BaseRepo | None = None,
    settings: Settings | None = None,
    tracer_provider: TracerProvider | None = None,
    logger_provider: LoggerProvider | None = None,
    meter_provider: MeterProvider | None = None,
) -> OTelRepoHandler:
    """Record what the tasks of an application do, in a repository and with OpenTelemetry.

    The combined handler takes the place of the memory handler that Rocketry inserts into its
    task logger, so that Rocketry reads its own state (what ran before a restart, what crashed)
    from the chosen repository. Records that the memory repository already holds are carried
    over. Handlers of other kinds stay. The logger is made to let records of level INFO
    through. A second call changes nothing and returns the same handler.

    Args:
        app: A ``rocketry.Rocketry`` or a ``rocketry.Session``.
        repo: The repository. Without it: the one that ``ROCKETRY_OTEL_REPO`` names, else the
            one that the application was given (``Rocketry(logger_repo=...)``), else one in
            memory that keeps the newest 100,000 records.
        settings: Our own settings; without them, those of the environment.
        tracer_provider: See ``OTelRepoHandler``, as for the two others.
        logger_provider: See ``OTelRepoHandler``.
        meter_provider: See ``OTelRepoHandler``.

    Returns:
        The handler, now in force.

    Raises:
        SettingsError: If the environment has a bad value.
        RepositoryError: If the repository cannot be opened; nothing has changed then.
    """
    session = _session_of(app)
    logger = logging.getLogger(session.config.task_logger_basename)
    handler = _handler_in(logger)
    if handler is None:
        settings = settings or Settings()
        handler = OTelRepoHandler(
            _choose_repository(logger, repo, settings),
            settings=settings,
            tracer_provider=tracer_provider,
            logger_provider=logger_provider,
            meter_provider=meter_provider,
        )
    _put_in_front(logger, handler)
    _let_records_through(logger)
    handler.tasks.add(session)
    return handler


def uninstrument(app: Application | Session) -> None:
    """Undo ``instrument``: send what waits, within the shutdown time-out, and nothing more.

    A plain ``redbird.logging.RepoHandler`` with the same repository takes the handler's place,
    so that Rocketry goes on to read its state. An application that is not instrumented is left
    as it is.

    Args:
        app: What was given to ``instrument``.
    """
    logger = logging.getLogger(_session_of(app).config.task_logger_basename)
    handler = _handler_in(logger)
    if handler is None:
        return
    index = logger.handlers.index(handler)
    plain = RepoHandler(handler.repo, level=handler.level)
    plain.setFormatter(handler.formatter)
    for its_filter in handler.filters:
        plain.addFilter(its_filter)
    logger.handlers[index] = plain
    handler.close()


def _session_of(app: Application | Session) -> Session:
    # A session has a ``session`` too: Rocketry's default one, which may be another.
    return app if isinstance(app, Session) else app.session


def _handler_in(logger: logging.Logger) -> OTelRepoHandler | None:
    return next((one for one in logger.handlers if isinstance(one, OTelRepoHandler)), None)


def _choose_repository(
    logger: logging.Logger, repo: BaseRepo | None, settings: Settings
) -> BaseRepo:
    if repo is not None:
        return repo
    if settings.repo is not None:
        return open_repository(settings.repo)
    first = next((one for one in logger.handlers if _repo_of(one) is not None), None)
    if first is not None and not _is_rocketrys_own(first):
        return _repo_of(first)
    return open_repository(_DEFAULT_REPOSITORY)


def _is_rocketrys_own(handler: logging.Handler) -> bool:
    """Return whether Rocketry inserted a handler of its own accord, not at the user's word."""
    repo = _repo_of(handler)
    if type(handler) is not RepoHandler or repo is None or type(repo) is not MemoryRepo:
        return False
    model = repo.model
    return model.__module__ == "rocketry.log.log_record" and model.__name__ in {
        "LogRecord",
        "MinimalRecord",
    }


def _put_in_front(logger: logging.Logger, handler: OTelRepoHandler) -> None:
    """Make ``handler`` the first with a repository, in the place of what it replaces."""
    old = list(logger.handlers)
    replaced = [
        other
        for other in old
        if other is not handler and (_is_rocketrys_own(other) or _repo_of(other) is handler.repo)
    ]
    kept = [other for other in old if other is not handler and other not in replaced]
    place = next((i for i, other in enumerate(old) if _repo_of(other) is not None), len(old))
    # Whoever logs meanwhile waits, so that records carried over come before new ones.
    handler.acquire()
    try:
        logger.handlers = [*kept[:place], handler, *kept[place:]]
        for other in replaced:
            repo = _repo_of(other)
            if repo is not None and repo is not handler.repo:
                _carry_over(repo, handler)
    finally:
        handler.release()
    for other in kept[place:]:
        if type(other) is RepoHandler:
            _logger.info(
                "The logger %r has another handler with a repository, %r; Rocketry does not "
                "read that one. To make it the one: instrument(app, repo=that_repository).",
                logger.name,
                type(_repo_of(other)).__name__,
            )


def _carry_over(repo: BaseRepo, handler: OTelRepoHandler) -> None:
    for item in repo.filter_by().all():
        handler.take_over(fields_of(item))


def _repo_of(handler: logging.Handler) -> BaseRepo | None:
    return getattr(handler, "repo", None)


def _let_records_through(logger: logging.Logger) -> None:
    # logging.config disables the loggers that it does not name.
    logger.disabled = False
    if logger.getEffectiveLevel() > logging.INFO:
        logger.setLevel(logging.INFO)

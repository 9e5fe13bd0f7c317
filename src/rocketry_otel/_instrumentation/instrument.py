"""Instruments an application: the combined handler goes where Rocketry reads its own state.

In: an application, and the arguments of the user. Out: the handler on the application's task
logger, with its hooks in the session.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from redbird.logging import RepoHandler

from rocketry_otel._delivery.pipeline import GivenProviders
from rocketry_otel._errors import RepositoryError
from rocketry_otel._repositories.memory_repo import BoundedMemoryRepo
from rocketry_otel._repositories.open_repository import open_repository
from rocketry_otel._runtime.scope import NAME
from rocketry_otel._settings import PREFIX, Settings

from .arguments import check_options, check_repository_or_url
from .handler import OTelRepoHandler, handler_of
from .placement import (
    LEFT_BEHIND,
    Placement,
    is_rocketrys_own,
    let_records_through,
    put_in_front,
    repo_of,
)
from .tasks import Session

if TYPE_CHECKING:
    from opentelemetry._logs import LoggerProvider
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider
    from redbird import BaseRepo

    from .tasks import Application
    from .user_hooks import Enrich, NameSpan

_logger = logging.getLogger(NAME)

_DEFAULT_REPOSITORY = "memory://"


def instrument(
    app: Application | Session,
    *,
    repo: BaseRepo | str | None = None,
    settings: Settings | None = None,
    tracer_provider: TracerProvider | None = None,
    logger_provider: LoggerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    name_span: NameSpan | None = None,
    enrich: Enrich | None = None,
) -> OTelRepoHandler:
    """Record what the tasks of an application do, in a repository and with OpenTelemetry.

    The combined handler takes the place of the memory handler that Rocketry inserts into its
    task logger. So Rocketry reads its own state (runs before a restart, crashes) from the chosen
    repository. Records that the memory repository already holds are carried over. Handlers of
    other kinds stay. The logger is set to let records of level INFO through. Hooks around the
    body of each task make the run's span the parent of all spans inside it. A second call changes
    nothing and returns the same handler.

    Args:
        app: A ``rocketry.Rocketry`` or a ``rocketry.Session``.
        repo: The repository, or its URL (see ``open_repository``). Without it:
            ``ROCKETRY_OTEL_REPO``, else the application's own (``Rocketry(logger_repo=...)``),
            else one in memory that keeps the newest 100,000 records.
        settings: Our own settings; without them, those of the environment.
        tracer_provider: See ``OTelRepoHandler``.
        logger_provider: See ``OTelRepoHandler``.
        meter_provider: See ``OTelRepoHandler``.
        name_span: Called with the task, the fields of the record that ended its run, and the
            outcome; returns the name of the run's span.
        enrich: Called with the same arguments; returns attributes for the run's span. If either
            function raises, the error is logged once and counted; no telemetry is lost.

    Returns:
        The handler, now in force.

    Raises:
        TypeError: If an argument has another type; nothing has changed then.
        SettingsError: If the environment has a bad value.
        RepositoryError: If the repository cannot be opened; nothing has changed then.
    """
    session = session_of(app)
    check_repository_or_url(repo)
    check_options(
        settings=settings,
        tracer_provider=tracer_provider,
        logger_provider=logger_provider,
        meter_provider=meter_provider,
        name_span=name_span,
        enrich=enrich,
    )
    logger = logging.getLogger(session.config.task_logger_basename)
    handler = _handler_in(logger)
    given = GivenProviders(tracer_provider, logger_provider, meter_provider)
    is_bare, is_new, its_settings = session is app, handler is None, None
    if handler is None:
        settings = settings or Settings()
        removed = handler_of(session)
        chosen = _choose_repository(logger, repo, settings, is_bare=is_bare)
        handler = _new_handler(chosen, settings, given)
        if removed is not None:
            # Other code than ``uninstrument`` has removed it from the logger.
            removed.unhook()
            removed.close()
    elif handler.placement is not None and session not in handler.tasks:
        its_settings = settings or Settings()
        is_new = _follow(handler, logger, repo, its_settings, is_bare=is_bare)
    elif (repo, settings, *given) != (None,) * 5:
        _logger.info(
            "The logger %r is instrumented already: what else was given to instrument is not used.",
            logger.name,
        )
    put_in_front(logger, handler, is_bare=is_bare, is_new=is_new)
    let_records_through(logger)
    if handler.placement is None:
        handler.placement = Placement(handler, logger)
    handler.placement.renew(logger)
    if session not in handler.tasks:
        handler.tasks.add(session)
        handler.hook_into(session, its_settings, given)
    if name_span is not None or enrich is not None:
        handler.enrich(name_span, enrich, session)
    return handler


def uninstrument(app: Application | Session) -> None:
    """Undo ``instrument``: send the queues, within the shutdown time-out, and nothing later.

    A plain ``redbird.logging.RepoHandler`` with the same repository takes the handler's place, so
    that Rocketry still reads its state. Other applications on the same logger share the handler,
    and lose it too. An application that is not instrumented is left as it is.

    Args:
        app: The argument of ``instrument``.
    """
    session = session_of(app)
    logger = logging.getLogger(session.config.task_logger_basename)
    handler = _handler_in(logger)
    if handler is None:
        handler = handler_of(session)
        if handler is not None:
            handler.unhook()
            handler.close()
        return
    index = logger.handlers.index(handler)
    plain = RepoHandler(handler.repo, level=handler.level)
    # The next ``instrument`` finds the repository by it.
    vars(plain)[LEFT_BEHIND] = handler.url
    plain.setFormatter(handler.formatter)
    for its_filter in handler.filters:
        plain.addFilter(its_filter)
    logger.handlers[index] = plain
    handler.close()
    handler.unhook()


def arguments_of(app: Application | Session) -> dict[str, Any] | None:
    """Return the arguments with which ``instrument`` instruments an application again.

    Args:
        app: The argument of ``instrument``.

    Returns:
        The keyword arguments; ``None`` if the application is not instrumented.
    """
    session = session_of(app)
    handler = handler_of(session)
    if handler is None:
        return None
    repo = None if handler.is_own_memory else handler.url or handler.repo
    return {"repo": repo, **handler.arguments_of(session)}


def session_of(app: Application | Session) -> Session:
    # A session has a ``session`` too: Rocketry's default one, which may be another.
    session = app if isinstance(app, Session) else getattr(app, "session", None)
    if not isinstance(session, Session):
        raise TypeError(f"a Rocketry or a Session is needed, not {type(app).__name__}")
    return session


def _handler_in(logger: logging.Logger) -> OTelRepoHandler | None:
    return next((one for one in logger.handlers if isinstance(one, OTelRepoHandler)), None)


class _Chosen(NamedTuple):
    """A repository, with the URL that opened it, and whether it is our own in memory."""

    repo: BaseRepo
    url: str | None = None
    is_own_memory: bool = False


def _new_handler(chosen: _Chosen, settings: Settings, given: GivenProviders) -> OTelRepoHandler:
    handler = OTelRepoHandler(
        chosen.repo,
        settings=settings,
        tracer_provider=given.tracer,
        logger_provider=given.logger,
        meter_provider=given.meter,
    )
    handler.url, handler.is_own_memory = chosen.url, chosen.is_own_memory
    return handler


def _follow(
    handler: OTelRepoHandler,
    logger: logging.Logger,
    repo: BaseRepo | str | None,
    settings: Settings,
    *,
    is_bare: bool,
) -> bool:
    """Let a handler use the repository of another application on its logger.

    As without us, all applications on a logger read the repository of the newest one. The
    repositories of the others are still written.

    Returns:
        Whether the handler has another repository than before.
    """
    first = next((one for one in logger.handlers if repo_of(one) is not None), None)
    url = repo if isinstance(repo, str) else settings.repo
    if repo is None and first is handler:
        return False  # a bare session has no repository of its own
    is_named = url is not None and (repo is None or isinstance(repo, str))
    if is_named and url == handler.url and not handler.is_own_memory:
        return False
    before, is_kept = handler.repo, not handler.is_own_memory
    chosen = _choose_repository(logger, repo, settings, is_bare=is_bare)
    if chosen.repo is before:
        return False
    handler.use_repository(chosen.repo, chosen.url, is_own_memory=chosen.is_own_memory)
    if is_kept:
        logger.handlers = [*logger.handlers, RepoHandler(before)]
    return True


def _source_of(url: str) -> str:
    """Return the name of the variable or setting that the URL comes from."""
    variable = f"{PREFIX}REPO"
    return variable if os.environ.get(variable, "").strip() == url else "the setting repo"


def _opened(url: str, source: str) -> BaseRepo:
    try:
        return open_repository(url)
    except RepositoryError as error:
        raise type(error)(f"{source} cannot be used: {error}") from error.__cause__


def _choose_repository(
    logger: logging.Logger, repo: BaseRepo | str | None, settings: Settings, *, is_bare: bool
) -> _Chosen:
    if repo is not None and not isinstance(repo, str):
        return _Chosen(repo)
    url = repo or settings.repo
    first = next((one for one in logger.handlers if repo_of(one) is not None), None)
    if url is not None:
        if first is not None and vars(first).get(LEFT_BEHIND) == url:
            return _Chosen(repo_of(first), url)
        opened = _opened(url, "the argument repo" if repo else _source_of(url))
        return _Chosen(opened, url, isinstance(opened, BoundedMemoryRepo))
    if first is not None and not is_rocketrys_own(first, is_bare=is_bare):
        return _Chosen(repo_of(first))
    return _Chosen(open_repository(_DEFAULT_REPOSITORY), is_own_memory=True)

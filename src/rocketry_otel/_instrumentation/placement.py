"""The place of the handler on the task logger: found, taken, and kept.

In: a logger. Out: its list of handlers, with ours where Rocketry reads its own state.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any
from weakref import ref

from redbird.logging import RepoHandler
from redbird.repos import MemoryRepo

from rocketry_otel._history.streams.base import fields_of
from rocketry_otel._runtime.scope import NAME

if TYPE_CHECKING:
    from redbird import BaseRepo

    from .handler import OTelRepoHandler

_logger = logging.getLogger(NAME)

# The attribute of a handler that ``uninstrument`` has left: the URL of its repository.
LEFT_BEHIND = "_rocketry_otel_url"

_APPLICATIONS_OWN = frozenset({"LogRecord"})
_SESSIONS_OWN = frozenset({"MinimalRecord"})

_ANOTHER_REPOSITORY = "another repository was set"
_CONFIGURED = "logging was configured anew"
_ANOTHER_LOGGER = "the logger was replaced"
_REMOVED = "the handler was removed"
_SILENCED = "the logger was disabled or its level was raised"


def repo_of(handler: logging.Handler) -> BaseRepo | None:
    """Return the repository of a handler; Rocketry too recognises readable handlers by it."""
    return getattr(handler, "repo", None)


def is_rocketrys_own(handler: logging.Handler, *, is_bare: bool) -> bool:
    """Return whether Rocketry inserted a handler by default, not because the user asked for it.

    Args:
        handler: A handler of the task logger.
        is_bare: Whether the session has no application: Rocketry gives it a repository of another
            model.
    """
    return _is_default_of(handler, _APPLICATIONS_OWN | (_SESSIONS_OWN if is_bare else frozenset()))


def _is_default_of(handler: Any, models: frozenset[str]) -> bool:
    if type(handler) is not RepoHandler or type(handler.repo) is not MemoryRepo:
        return False
    model = handler.repo.model
    if model.__module__ != "rocketry.log.log_record" or model.__name__ not in models:
        return False
    return not _is_held_elsewhere(handler)


def _is_held_elsewhere(handler: Any) -> bool:
    """Return whether any object besides a handler refers to its repository.

    A repository of the user may have the same class and model as Rocketry's. Only the user's is in
    a variable somewhere. Rocketry's is reached only by its handler.
    """
    alone = RepoHandler(MemoryRepo(model=handler.repo.model))
    return sys.getrefcount(handler.repo) > sys.getrefcount(alone.repo)


def put_in_front(
    logger: logging.Logger, handler: OTelRepoHandler, *, is_bare: bool, is_new: bool
) -> None:
    """Make a handler the first with a repository, in the place of those that it replaces.

    Args:
        logger: The task logger.
        handler: The handler.
        is_bare: See ``is_rocketrys_own``.
        is_new: Whether the handler, or its repository, lacks the records of Rocketry's own.
    """
    old = list(logger.handlers)
    defaults = [one for one in old if is_rocketrys_own(one, is_bare=is_bare)]
    replaced = [
        one
        for one in old
        if one is not handler
        and (one in defaults or LEFT_BEHIND in vars(one) or repo_of(one) is handler.repo)
    ]
    kept = [one for one in old if one is not handler and one not in replaced]
    place = next((i for i, one in enumerate(old) if repo_of(one) is not None), len(old))
    # Threads that log meanwhile wait, so that records carried over come before new ones.
    handler.acquire()
    try:
        carried = repo_of(defaults[-1]) if defaults else None
        if is_new and carried is not None and carried is not handler.repo:
            # Each application inserts its handler in front: the last one has seen all records.
            _carry_over(carried, handler)
        logger.handlers = [*kept[:place], handler, *kept[place:]]
    finally:
        handler.release()
    for one in kept[place:]:
        if type(one) is RepoHandler:
            _logger.info(
                "The logger %r has another handler with a repository, %r; Rocketry does not "
                "read that one. To make it the one: instrument(app, repo=that_repository).",
                logger.name,
                type(repo_of(one)).__name__,
            )


def _carry_over(repo: Any, handler: OTelRepoHandler) -> None:
    for item in repo.filter_by().all():
        handler.take_over(fields_of(item))


def let_records_through(logger: logging.Logger) -> None:
    """Let a logger pass on the records of tasks."""
    # logging.config disables the loggers that it does not name.
    logger.disabled = False
    if logger.getEffectiveLevel() > logging.INFO:
        logger.setLevel(logging.INFO)


class Placement:
    """Keeps the handler of an application on its task logger.

    Other code may remove it without meaning telemetry: ``set_repo`` and ``logging.config`` replace
    all handlers. The handler is put back once for each cause while a scheduler runs. An emptied
    list, or a second removal, counts as intended.

    Args:
        handler: The handler.
        logger: The task logger, which has the handler.
    """

    def __init__(self, handler: OTelRepoHandler, logger: logging.Logger) -> None:
        # If the handler is off the logger, this may be the only reference to it.
        self._handler = handler
        self._name = logger.name
        self._causes: set[str] = set()
        self._is_given_up = False
        self._note(logger)

    @property
    def handler(self) -> OTelRepoHandler | None:
        """The handler; ``None`` if it was taken off the logger for good."""
        return None if self._is_given_up else self._handler

    def renew(self, logger: logging.Logger) -> None:
        """Begin anew: ``instrument`` has put the handler on the logger."""
        self._is_given_up = False
        self.begin()
        self._note(logger)

    def _note(self, logger: logging.Logger) -> None:
        self._known_logger = ref(logger)
        self._configuration = _ConfigurationMark()

    def begin(self) -> None:
        """Put the handler back again for each cause: a scheduler starts."""
        self._causes.clear()

    def verify(self) -> bool:
        """Put the handler back if it is gone; return whether it was gone."""
        if self._is_given_up:
            return False
        handler = self._handler
        logger = logging.getLogger(self._name)
        is_there = handler in logger.handlers
        if is_there and not logger.disabled and logger.getEffectiveLevel() <= logging.INFO:
            return False
        cause = _SILENCED if is_there else self._cause(logger)
        if cause is None or cause in self._causes:
            self._give_up()
            return False
        self._causes.add(cause)
        if not is_there:
            self._put_back(logger, handler)
        let_records_through(logger)
        self._note(logger)
        _logger.info(
            "The handler of the logger %r was out of use, since %s; it is in force again, with "
            "the repository %r.",
            self._name,
            cause,
            type(handler.repo).__name__,
        )
        return True

    def _cause(self, logger: logging.Logger) -> str | None:
        """Return why the handler is gone; ``None`` if the list was emptied."""
        if logger is not self._known_logger():
            return _ANOTHER_LOGGER
        if self._configuration.is_over:
            return _CONFIGURED
        # Rocketry itself gives an emptied list a repository of this model.
        left = [one for one in logger.handlers if not _is_default_of(one, _SESSIONS_OWN)]
        if not left:
            return None
        return _REMOVED if all(repo_of(one) is None for one in left) else _ANOTHER_REPOSITORY

    @staticmethod
    def _put_back(logger: logging.Logger, handler: OTelRepoHandler) -> None:
        first = next((one for one in logger.handlers if repo_of(one) is not None), None)
        if first is not None and not is_rocketrys_own(first, is_bare=True):
            handler.use_repository(repo_of(first))
        put_in_front(logger, handler, is_bare=True, is_new=True)

    def _give_up(self) -> None:
        self._is_given_up = True
        _logger.warning(
            "The handler was taken off the logger %r, or the logger was silenced: no telemetry "
            "is sent any more. If this is intended, call rocketry_otel.uninstrument(app) in its "
            "place; if not, rocketry_otel.instrument(app) puts the handler back.",
            self._name,
        )


class _ConfigurationMark(logging.Handler):
    """Notices ``logging.config``, which closes all existing handlers."""

    is_over = False

    def close(self) -> None:
        self.is_over = True
        super().close()

"""Keeps the terminal free for the demo, and restores the process after it."""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

import rocketry

from rocketry_otel._runtime.scope import NAME

from .tasks import LOGGER

if TYPE_CHECKING:
    from collections.abc import Iterator

TASK_LOGGER = "rocketry.task"

_SILENT = (TASK_LOGGER, "rocketry.scheduler", "rocketry", LOGGER)
_OURS = (NAME, "opentelemetry")


class RunCounter(logging.Handler):
    """Counts runs by their records.

    Attributes:
        ended: How many runs have ended.
        in_flight: How many runs go on.
        tasks: The names of the tasks of which a run has ended.
    """

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.tasks: set[str] = set()
        self.ended = 0
        self.in_flight = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Count a record."""
        if getattr(record, "action", None) == "run":
            self.in_flight += 1
        else:
            # A crash that Rocketry finds at its start ends a run of an earlier process.
            self.in_flight = max(self.in_flight - 1, 0)
            self.ended += 1
            self.tasks.add(getattr(record, "task_name", ""))


class Warnings(logging.Handler):
    """Keeps the texts of warnings, each once."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._texts: dict[str, None] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the text of a record."""
        self._texts[record.getMessage()] = None

    @property
    def texts(self) -> list[str]:
        """The texts, in order."""
        return list(self._texts)


@contextmanager
def quiet() -> Iterator[Warnings]:
    """Keep logs and warnings off the terminal, and undo global changes of Rocketry.

    Yields:
        The warnings of rocketry-otel and OpenTelemetry.
    """
    kept = Warnings()
    loggers = [logging.getLogger(name) for name in (*_SILENT, *_OURS)]
    before = [(one, one.handlers, one.level, one.propagate, one.disabled) for one in loggers]
    default_session = rocketry.session
    for logger in loggers:
        # Without a handler, logging itself would print warnings and errors.
        logger.handlers = [kept] if logger.name in _OURS else [logging.NullHandler()]
        logger.propagate = False
        logger.disabled = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield kept
    finally:
        default_session.set_as_default()
        for logger, handlers, level, propagate, disabled in before:
            logger.handlers = handlers
            logger.setLevel(level)
            logger.propagate = propagate
            logger.disabled = disabled

"""What all tests share: a clean environment, and clean loggers."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import pytest

from rocketry_otel.testing import TelemetryCapture, capture_telemetry
from tests.support.repositories import (  # noqa: F401  # fixtures
    make_repo,
    make_url,
    mongo_server,
    postgresql,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the variables of whoever runs the tests."""
    for name in list(os.environ):
        if name.startswith(("OTEL_", "ROCKETRY_OTEL_")):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _clean_loggers() -> Iterator[None]:
    """Leave Rocketry's loggers as they were found."""
    loggers = [logging.getLogger(name) for name in ("rocketry.task", "rocketry.task._process")]
    before = [(logger.handlers, logger.level, logger.disabled) for logger in loggers]
    for logger in loggers:
        logger.handlers = []
    yield
    for logger in loggers:
        # A session with a clock of its own has them made with its time.
        for name in ("makeRecord", "__rocketry_wrapped__"):
            vars(logger).pop(name, None)
    for logger, (handlers, level, disabled) in zip(loggers, before, strict=True):
        for handler in logger.handlers:
            handler.close()
        logger.handlers, logger.disabled = handlers, disabled
        logger.setLevel(level)


@pytest.fixture
def telemetry() -> Iterator[TelemetryCapture]:
    """Telemetry captured in memory."""
    with capture_telemetry() as capture:
        yield capture

"""Fixtures of all tests: a clean environment, and clean loggers."""

from __future__ import annotations

import logging
import os
import posix
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from rocketry_otel import _settings
from rocketry_otel._export import otel_env
from rocketry_otel._instrumentation.log_lines import log_lines
from rocketry_otel.testing import TelemetryCapture, capture_telemetry
from tests.support.exits import uninterrupted
from tests.support.repositories import (  # noqa: F401  # fixtures
    ferretdb,
    make_repo,
    make_url,
    mariadb,
    mongo_server,
    postgresql,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


CALL_HANDLERS = logging.Logger.callHandlers
STACK = Path(__file__).with_name("stack")
NOTEBOOK = Path(__file__).with_name("notebook")

# No test may depend on the speed of the machine. CI judges each change by the same examples; other
# runs look for new ones.
settings.register_profile(
    "any machine",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="REQUIRE_ALL_TESTS" in os.environ,
)
settings.load_profile("any machine")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the tests that need the real stack be asked for."""
    parser.addoption("--stack", action="store_true", help="run tests/stack too: `make test-stack`")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out the tests that need more than this environment, unless they are asked for."""
    is_left_out = {
        STACK: not config.getoption("--stack"),  # programs in Go
        NOTEBOOK: "NOTEBOOK_PYTHON" not in os.environ,  # an environment with ipykernel
    }
    return is_left_out.get(collection_path) or None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Report the tests that were left out."""
    if not terminalreporter.config.getoption("--stack"):
        terminalreporter.write_line(
            "Left out: tests/stack, which runs a real collector, Jaeger and Prometheus; "
            "see `make stack` and `make test-stack`."
        )
    if "NOTEBOOK_PYTHON" not in os.environ:
        terminalreporter.write_line(
            "Left out: tests/notebook, which runs a notebook's kernel; see `make test-notebook`."
        )


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the environment variables of the user, and options of pytest from children."""
    for name in list(os.environ):
        if name.startswith(("OTEL_", "ROCKETRY_OTEL_", "PYTEST_ADDOPTS")):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _nothing_warned() -> None:
    """Let each test see the warnings that a process logs once."""
    otel_env.warn_once.cache_clear()
    _settings._warn_once.cache_clear()


@pytest.fixture(autouse=True)
def _clean_loggers() -> Iterator[None]:
    """Leave Rocketry's loggers as they were found."""
    loggers = [logging.getLogger(name) for name in ("rocketry.task", "rocketry.task._process")]
    before = [(logger.handlers, logger.level, logger.disabled) for logger in loggers]
    for logger in loggers:
        logger.handlers = []
    yield
    for logger in loggers:
        # A session with its own clock lets them make records with its time.
        for name in ("makeRecord", "__rocketry_wrapped__"):
            vars(logger).pop(name, None)
    # An application that a test has not uninstrumented leaves it wrapped.
    logging.Logger.callHandlers = CALL_HANDLERS  # type: ignore[method-assign]
    log_lines._schedulers = []
    for logger, (handlers, level, disabled) in zip(loggers, before, strict=True):
        for handler in logger.handlers:
            handler.close()
        logger.handlers, logger.disabled = handlers, disabled
        logger.setLevel(level)


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """Let SIGINT interrupt this process and its children.

    In the background of a script it is ignored, and children inherit that.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session", autouse=True)
def _children_leave_for_good() -> Iterator[None]:
    """Let no signal keep a forked child from its end, where coverage is measured."""
    before = os._exit
    if before is not posix._exit:
        os._exit = uninterrupted(before)
    yield
    os._exit = before


@pytest.fixture
def telemetry() -> Iterator[TelemetryCapture]:
    """Telemetry captured in memory."""
    with capture_telemetry() as capture:
        yield capture

"""Real Rocketry applications, and the functions of their tasks.

The functions are in a module, so that spawned processes find them, too.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import enum
import logging
import multiprocessing
import sys
import threading
import time
from contextlib import contextmanager
from decimal import Decimal
from multiprocessing import forkserver
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.trace import SpanContext, StatusCode
from rocketry import Rocketry
from rocketry.args import TerminationFlag
from rocketry.conditions import SchedulerCycles
from rocketry.exc import TaskInactionException, TaskTerminationException

from rocketry_otel import current_run
from rocketry_otel._instrumentation.hooks import _WATCHED

if TYPE_CHECKING:
    from collections.abc import Iterator


# The modes of execution, each with a start method of child processes.
MODES = [
    ("main", "fork"),
    ("async", "fork"),
    ("thread", "fork"),
    ("process", "fork"),
    ("process", "spawn"),
]


def succeed() -> str:
    """Return something."""
    return "done"


def fail() -> None:
    """Raise an error."""
    raise ValueError("boom")


LINES = logging.getLogger("tests.lines")


def log_a_line() -> None:
    """Log one line."""
    LINES.warning("a line of %d", 1)


def log_many_lines() -> None:
    """Log more lines than a small queue has room for."""
    for number in range(100):
        LINES.warning("line %d", number)


class Level(enum.IntEnum):
    """An enumeration that is based on numbers."""

    HIGH = 3


def add_numbers() -> None:
    """Add values to the run's span that are not plain numbers and texts to Python."""
    run = current_run()
    run.set_attribute("level", Level.HIGH)
    run.set_attribute("price", Decimal("1.5"))
    run.set_attribute("flags", [True, False])
    run.set_attribute("mixed", (1, 2.5))
    run.set_attribute("day", dt.date(2026, 1, 2))
    run.add_event("half", {"sizes": range(1, 3)})


def annotate() -> None:
    """Do to the current span what libraries do."""
    span = trace.get_current_span()
    assert span.is_recording()
    span.set_attribute("rows", 5)
    span.add_event("half", {"n": 1})
    span.add_link(SpanContext(3, 4, is_remote=True), {"why": "input"})
    span.update_name("nightly")
    span.set_status(StatusCode.ERROR, "half of the rows")
    span.record_exception(ValueError("tried again"))


async def annotate_async() -> None:
    """Do the same in an async task."""
    annotate()


def annotate_and_fail() -> None:
    """Record an exception, as a library does that lets it pass, and fail of it."""
    span = trace.get_current_span()
    span.set_attribute("rows", 5)
    span.set_status(StatusCode.ERROR, "never shown")
    try:
        fail()
    except ValueError as error:
        span.record_exception(error)
        raise


def report_progress(gate: str) -> None:
    """Report a quarter, wait until a file is there, and report the rest."""
    run = current_run()
    run.progress(25, 100)
    while not Path(gate).exists():
        time.sleep(0.005)
    run.progress(100, 100)


async def report_progress_async(gate: str) -> None:
    """Do the same in an async task."""
    report_progress(gate)


def do_nothing() -> None:
    """Say that there was nothing to do."""
    raise TaskInactionException


class OddError(BaseException):
    """No ``Exception``: Rocketry does not see it."""


def raise_odd_error() -> None:
    """Raise an error that is no ``Exception``."""
    raise OddError


def leave() -> None:
    """End as a program ends."""
    sys.exit(3)


def interrupt() -> None:
    """End as by Ctrl-C."""
    raise KeyboardInterrupt


def sleep() -> None:
    """Take longer than any test waits."""
    time.sleep(60)


async def sleep_async() -> None:
    """Take longer than any test waits."""
    await asyncio.sleep(60)


def sleep_until_terminated(flag: threading.Event = TerminationFlag()) -> None:  # noqa: B008
    """End only when Rocketry terminates it."""
    assert flag.wait(60)
    raise TaskTerminationException


@contextmanager
def start_method(name: str) -> Iterator[None]:
    """Start processes by ``fork``, ``spawn`` or ``forkserver`` within the block."""
    before = multiprocessing.get_start_method()
    if name == "forkserver":
        # Children have the environment of its start: that of this test, not of an earlier one.
        forkserver._forkserver._stop()  # type: ignore[attr-defined]  # no public way
    multiprocessing.set_start_method(name, force=True)
    try:
        yield
    finally:
        multiprocessing.set_start_method(before, force=True)


def make_app(**kwargs: Any) -> Rocketry:
    """Return an application that looks at its tasks without a pause."""
    kwargs.setdefault("execution", "main")
    return Rocketry(cycle_sleep=0.001, **kwargs)


def run_tasks(app: Rocketry, *names: str, cycles: int = 1) -> None:
    """Run tasks once each, as often as they are named, and wait until they have ended."""
    for name in names:
        app.session[name].run()
    app.session.config.shut_cond = SchedulerCycles() >= cycles
    app.run()


def unwatch_all_sessions() -> None:
    """Restore the methods of Rocketry that are wrapped for applications of other tests."""
    for method, class_ in _WATCHED:
        for session in list(method._sessions):
            method.unwatch(class_, session)

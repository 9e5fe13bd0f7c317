"""The demo's application: tasks with every mode of execution and every ending."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import TYPE_CHECKING, Any

from rocketry import Rocketry
from rocketry.conds import after_success, every
from rocketry.core import Parameters
from rocketry.exc import TaskInactionException

if TYPE_CHECKING:
    from rocketry_otel._instrumentation.tasks import Application

FAILING = "send-invoices"

_SECONDS_TO_LEAVE = 3


class MailServerError(Exception):
    """An imaginary mail server refuses."""


class NoReturnValues(Parameters):  # type: ignore[misc]  # Rocketry has no annotations
    """Keeps no return values of tasks.

    For spawned children, Rocketry pickles those values with their tasks, and each task with all
    values again. After two values, a child would never start.
    """

    def __setitem__(self, key: Any, item: Any) -> None:
        """Keep nothing."""


# They are module-level functions because a spawned child finds them by their names. Rocketry takes
# their docstrings as descriptions, which the demo prints.


async def extract() -> None:
    """Starts a pipeline of three."""
    await asyncio.sleep(0.4)


def transform() -> None:
    """Runs after extract has succeeded."""
    _be_a_good_child()
    time.sleep(0.3)


def load() -> None:
    """Runs after transform has succeeded."""
    time.sleep(0.2)


async def poll_prices() -> None:
    """Takes longer than its interval: its runs overlap."""
    await asyncio.sleep(2.3)


def heartbeat() -> None:
    """Ends at once."""
    time.sleep(0.01)


def send_invoices() -> None:
    """Fails."""
    _be_a_good_child()
    time.sleep(0.1)
    raise MailServerError("421 too many connections, try again later")


def import_feed() -> None:
    """Hangs, and is terminated when its time is up."""
    _be_a_good_child()
    time.sleep(30)


def clean_up() -> None:
    """Finds nothing to do."""
    time.sleep(0.05)
    raise TaskInactionException("nothing is older than a week")


def make_app() -> Application:
    """Return the application, ready to be instrumented."""
    # Four processes at a time, even on a machine with a single processor.
    app = Rocketry(config={"cycle_sleep": 0.05, "max_process_count": 4})
    app.session.returns = NoReturnValues()
    # The pipeline comes first: the start of a process may take a second, and all else waits.
    app.task(every("4 seconds"), name="extract", execution="async", priority=1)(extract)
    app.task(after_success("extract"), name="transform", execution="process", priority=1)(transform)
    app.task(after_success("transform"), name="load", execution="thread", priority=1)(load)
    app.task(every("2 seconds"), name="poll-prices", execution="async", multilaunch=True)(
        poll_prices
    )
    app.task(every("3 seconds"), name="heartbeat", execution="main")(heartbeat)
    app.task(every("4 seconds"), name=FAILING, execution="process")(send_invoices)
    # The time-out includes the start of the process.
    app.task(every("5 seconds"), name="import-feed", execution="process", timeout="2 seconds")(
        import_feed
    )
    app.task(every("4 seconds"), name="clean-up", execution="thread")(clean_up)
    return app  # type: ignore[no-any-return]  # Rocketry has no annotations


def _be_a_good_child() -> None:
    # Ctrl-C in a terminal reaches children, too, and each would print a traceback.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A killed child leaves its registered resources behind, and multiprocessing warns of them.
    signal.signal(signal.SIGTERM, _leave)


def _leave(*_: object) -> None:
    # Rocketry may send it again: a second exception could escape from the exit itself.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # All children write to one queue. If a sibling was killed with its lock, this exit waits for
    # good: then the alarm kills the child.
    signal.alarm(_SECONDS_TO_LEAVE)
    raise SystemExit

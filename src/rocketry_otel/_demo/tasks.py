"""The demo's application: every mode of execution and every way to end."""

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


class MailServerError(Exception):
    """The mail server of the demo, which there is not, says no."""


class NoReturnValues(Parameters):  # type: ignore[misc]  # Rocketry has no annotations
    """Keeps none of the values that tasks return.

    Where children are spawned, Rocketry pickles those values together with their tasks, each
    of these with all values again: from the second one on, the first child is never started.
    """

    def __setitem__(self, key: Any, item: Any) -> None:
        """Keep nothing."""


# Module-level functions: where processes are spawned, a child finds them by their names. Their
# docstrings are what Rocketry calls the description of a task, and what the demo prints.


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
    """Is over at once."""
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
    # As many processes at a time as the demo wants, also on a machine with a single processor.
    app = Rocketry(config={"cycle_sleep": 0.05, "max_process_count": 4})
    app.session.returns = NoReturnValues()
    # The pipeline comes first: to start a process may take a second, and all else waits for it.
    app.task(every("4 seconds"), name="extract", execution="async", priority=1)(extract)
    app.task(after_success("extract"), name="transform", execution="process", priority=1)(transform)
    app.task(after_success("transform"), name="load", execution="thread", priority=1)(load)
    app.task(every("2 seconds"), name="poll-prices", execution="async", multilaunch=True)(
        poll_prices
    )
    app.task(every("3 seconds"), name="heartbeat", execution="main")(heartbeat)
    app.task(every("4 seconds"), name=FAILING, execution="process")(send_invoices)
    # The start of the process counts too.
    app.task(every("5 seconds"), name="import-feed", execution="process", timeout="2 seconds")(
        import_feed
    )
    app.task(every("4 seconds"), name="clean-up", execution="thread")(clean_up)
    return app  # type: ignore[no-any-return]  # Rocketry has no annotations


def _be_a_good_child() -> None:
    # Ctrl-C in a terminal reaches children too, and each would print a traceback.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # One that is killed leaves behind what it has registered, and multiprocessing warns of it.
    signal.signal(signal.SIGTERM, _leave)


def _leave(*_: object) -> None:
    raise SystemExit

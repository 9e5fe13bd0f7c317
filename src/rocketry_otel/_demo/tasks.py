"""The demo's application: tasks with every mode of execution and every ending."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sqlite3
import time
from contextlib import closing
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any

from opentelemetry import propagate, trace
from opentelemetry.trace import SpanKind
from rocketry import Rocketry
from rocketry.conds import after_success, every
from rocketry.core import Parameters
from rocketry.exc import TaskInactionException

from rocketry_otel import current_run

if TYPE_CHECKING:
    from rocketry_otel._instrumentation.tasks import Application

FAILING = "send-invoices"
# The last task of the pipeline.
LAST = "load"
# The logger of the bodies. Lines of this level are sent, and no handler of last resort prints them.
LOGGER = "shop"

_SECONDS_TO_LEAVE = 3


_logger = logging.getLogger(LOGGER)
_logger.setLevel(logging.INFO)
# The spans inside are made by hand. An instrumentation of OpenTelemetry would make the same.
_tracer = trace.get_tracer(__name__)


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


async def extract(shop: str) -> None:
    """Starts a pipeline of three: gets prices over HTTP."""
    prices = await asyncio.to_thread(_get_prices, shop)
    _logger.info("%d prices have come", len(prices))


def transform() -> None:
    """Runs after extract has succeeded."""
    _be_a_good_child()
    with _tracer.start_as_current_span("clean prices"):
        time.sleep(0.1)
        _logger.warning("the price of %s is missing", "plums")
    current_run().set_attribute("prices", 2)


def load() -> None:
    """Runs after transform has succeeded: a SQL query."""
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute("CREATE TABLE prices (fruit TEXT, price REAL)")
        _query(database, "INSERT INTO prices VALUES ('apples', 1.2), ('pears', 2.5)")
        (count,) = _query(database, "SELECT count(*) FROM prices")[0]
    _logger.info("%d prices are stored", count)


async def poll_prices() -> None:
    """Takes longer than its interval: its runs overlap."""
    await asyncio.sleep(2.3)


def heartbeat() -> None:
    """Ends at once."""
    time.sleep(0.01)


def send_invoices() -> None:
    """Fails."""
    _be_a_good_child()
    _logger.info("invoice %d of %d is sent", 1, 3)
    time.sleep(0.1)
    raise MailServerError("421 too many connections, try again later")


def import_feed() -> None:
    """Hangs, until its time-out ends it."""
    _be_a_good_child()
    time.sleep(30)


def clean_up() -> None:
    """Finds nothing to do."""
    time.sleep(0.05)
    raise TaskInactionException("nothing is older than a week")


def make_app(shop: str) -> Application:
    """Return the application, ready to be instrumented.

    Args:
        shop: The address of the server that has the prices, ``host:port``.
    """
    # Four processes at a time, even on a machine with a single processor.
    app = Rocketry(config={"cycle_sleep": 0.05, "max_process_count": 4})
    app.session.returns = NoReturnValues()
    # The pipeline comes first: the start of a process may take a second, and all else waits.
    app.task(
        every("4 seconds"),
        name="extract",
        execution="async",
        priority=1,
        parameters={"shop": shop},
    )(extract)
    app.task(after_success("extract"), name="transform", execution="process", priority=1)(transform)
    app.task(after_success("transform"), name=LAST, execution="thread", priority=1)(load)
    app.task(every("1 second"), name="poll-prices", execution="async", multilaunch=True)(
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


def _get_prices(shop: str) -> dict[str, float | None]:
    """Ask the server, in a span of the client; its own span is a child of that."""
    attributes = {"http.request.method": "GET", "url.full": f"http://{shop}/prices"}
    with (
        _tracer.start_as_current_span("GET", kind=SpanKind.CLIENT, attributes=attributes) as span,
        closing(HTTPConnection(shop, timeout=10)) as connection,
    ):
        headers: dict[str, str] = {}
        propagate.inject(headers)
        connection.request("GET", "/prices", headers=headers)
        response = connection.getresponse()
        span.set_attribute("http.response.status_code", response.status)
        return json.load(response)  # type: ignore[no-any-return]  # the server is ours


def _query(database: sqlite3.Connection, text: str) -> list[Any]:
    attributes = {"db.system.name": "sqlite", "db.query.text": text}
    name = f"{text.partition(' ')[0]} prices"
    with _tracer.start_as_current_span(name, kind=SpanKind.CLIENT, attributes=attributes):
        return database.execute(text).fetchall()


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

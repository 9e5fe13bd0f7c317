"""An instrumented application, run as a program of its own beside the stack.

``python app.py SECONDS REPOSITORY``: its tasks end in every way. It prints the runs in the
repository, as one line of JSON. It ends earlier if the file ``STOP_FILE`` is there.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from pathlib import Path

from opentelemetry import trace
from rocketry import Rocketry
from rocketry.conds import after_success, every, secondly
from rocketry.exc import TaskInactionException

from rocketry_otel import current_run, instrument, open_repository

logging.getLogger("rocketry").setLevel(logging.CRITICAL)
tracer = trace.get_tracer("shop")


def extract() -> None:
    """Make child spans."""
    download = tracer.start_as_current_span("download", attributes={"rows": 3})
    with download, tracer.start_as_current_span("unpack"):
        time.sleep(0.01)
    current_run().set_attribute("rows", 3)


def load() -> None:
    """Succeed after extract."""


def fail() -> None:
    """Raise an error, in a span of its own."""
    with tracer.start_as_current_span("attempt"):
        raise ValueError("boom")


def idle() -> None:
    """Find nothing to do."""
    raise TaskInactionException("nothing to do")


def hang() -> None:
    """Take longer than its timeout, after three quarters of the work: ``PROGRESS`` reports them."""
    if "PROGRESS" in os.environ:
        current_run().progress(3, 4)
    time.sleep(60)


def block() -> None:
    """Keep the scheduler."""
    time.sleep(2.2)


def main(seconds: float, url: str) -> None:
    """Run the application."""
    app = Rocketry(config={"cycle_sleep": 0.02, "max_process_count": 4})
    app.task(every("300 ms"), name="extract", execution="thread")(extract)
    app.task(after_success("extract"), name="load", execution="main")(load)
    app.task(every("500 ms"), name="fail", execution="async")(as_async(fail))
    app.task(every("500 ms"), name="idle", execution="thread")(idle)
    app.task(every("2 s"), name="hang", execution="process", timeout="1 s")(hang)
    if "LATE" in os.environ:
        # One of them keeps the scheduler while the other one is due.
        app.task(secondly, name="ticker", execution="main", func=load)
        app.task(every("4 s"), name="blocker", execution="main", func=block)
    repo = open_repository(url)
    handler = instrument(app, repo=repo)
    stop_after(app, seconds)
    app.run()
    flushed = handler.flush(float(os.environ.get("FLUSH_SECONDS", "30")))
    records = [record.dict() for record in repo.filter_by().all()]
    sys.stdout.write(json.dumps({"flushed": flushed, "records": records}) + "\n")


def as_async(function):
    """Return a coroutine function that does the same."""

    async def call() -> None:
        function()

    return call


def stop_after(app, seconds: float) -> None:
    """Shut the session down from a task, which is the scheduler's own thread."""
    began = time.monotonic()
    stop_file = Path(os.environ.get("STOP_FILE", "/nonexistent"))

    @app.task(every("100 ms"), name="clock", execution="main")
    def clock() -> None:
        if time.monotonic() - began > seconds or stop_file.exists():
            app.session.shut_down()


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2])

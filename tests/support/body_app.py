"""A real application whose tasks make telemetry in their bodies, as a separate program.

``python body_app.py METHOD SCENARIO``: it prints its report as one line of JSON. Spawned processes
import this file again, so the module has all that they need.
"""

from __future__ import annotations

import asyncio
import json
import logging
import multiprocessing
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from opentelemetry import baggage, trace
from opentelemetry.context import attach

try:
    from opentelemetry.instrumentation.logging.handler import LoggingHandler
except ImportError:  # with the oldest versions it is still the SDK's
    from opentelemetry.sdk._logs import LoggingHandler
from rocketry import Rocketry
from rocketry.args import TerminationFlag
from rocketry.conditions import SchedulerCycles
from rocketry.core import Parameters

from rocketry_otel import current_run, instrument

TOGETHER = 3  # how many runs of one task overlap
PROCESSES = 2  # and how many of one that runs in processes, which take their time
BARRIER = threading.Barrier(TOGETHER)

logging.getLogger("body").addHandler(LoggingHandler())
if os.environ.get("BODY_APP_PROVIDER") == "own":
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    # The SDK would wait for the collector on the way out of a spawned process, as long as it likes.
    own = TracerProvider(shutdown_on_exit=not os.environ.get("BODY_APP_LEAVE"))
    # It sends when it is flushed, not before.
    own.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(), schedule_delay_millis=600_000))
    trace.set_tracer_provider(own)
if os.environ.get("BODY_APP_TARGET"):
    import requests
    from opentelemetry.instrumentation.requests import RequestsInstrumentor

    RequestsInstrumentor().instrument()


class Forget(Parameters):
    """Return values of tasks; none is kept.

    Rocketry pickles them for a process that is spawned, and hangs if there are two.
    """

    def __setitem__(self, key: Any, value: Any) -> None:
        """Keep nothing."""


def work(label: str) -> None:
    """Make a span and a log record, and add the task's name to the run's own span."""
    run = current_run()
    assert run is not None
    around = trace.get_current_span().get_span_context()
    run.set_attribute(f"from {label}", value=True)
    with trace.get_tracer("body").start_as_current_span(f"work {label}") as span:
        span.set_attribute("task", run.task_name)
        span.set_attribute("run_id", run.run_id or "")
        span.set_attribute("run_trace_id", run.trace_id)
        span.set_attribute("run_span_id", run.span_id)
        span.set_attribute("flags", int(around.trace_flags))
        span.set_attribute("team", str(baggage.get_baggage("team")))
        span.set_attribute("pid", os.getpid())
    logging.getLogger("body").warning(
        "log %s",
        label,
        extra={
            "run_id": run.run_id,
            "run_trace_id": run.trace_id,
            "run_span_id": run.span_id,
            "sampled": bool(around.trace_flags.sampled),
            "team": str(baggage.get_baggage("team")),
        },
    )


def in_main() -> None:
    """Work in the scheduler's own thread."""
    work("main")


def in_thread() -> None:
    """Work when all runs have begun."""
    BARRIER.wait(60)
    work("thread")


gates: list[asyncio.Event] = []


async def in_async() -> None:
    """Work when all runs have begun, in a sub-task and in a thread too."""
    gates.append(asyncio.Event())
    if len(gates) == TOGETHER:
        for gate in gates:
            gate.set()
    await gates[-1].wait()
    work("async")
    await asyncio.create_task(in_sub_task())
    await asyncio.to_thread(work, "to_thread")


async def in_sub_task() -> None:
    """Work in a sub-task of an async task."""
    await asyncio.sleep(0)
    work("sub_task")


def in_process() -> None:
    """Work when all runs have begun."""
    with socket.create_connection(("127.0.0.1", int(os.environ["BODY_APP_PORT"])), 60) as here:
        assert here.recv(1) == b"!"
    work("process")


def alone() -> None:
    """Work without waiting for anybody."""
    work("alone")


def slow_end() -> None:
    """Work, and report the end."""
    work("alone")
    run = current_run()
    assert run is not None
    run.set_attribute("done", time.time())


def fetch() -> None:
    """Ask a server for something."""
    with trace.get_tracer("body").start_as_current_span("fetch"):
        requests.get(os.environ["BODY_APP_TARGET"], timeout=30).raise_for_status()


async def fetch_async() -> None:
    """Ask a server for something, in a thread of an async task."""
    await asyncio.to_thread(fetch)


def unseen() -> None:
    """See nothing: this task is not exported."""
    seen.append(around_here())


def wait_for_flag(flag: threading.Event = TerminationFlag()) -> None:  # noqa: B008
    """End only when Rocketry terminates it."""
    flag.wait(60)


seen: list[Any] = []


def around_here() -> list[Any]:
    """Return the context that leaks into this place: it should be empty."""
    return [
        bool(current_run()),
        trace.get_current_span().get_span_context().is_valid,
    ]


def look_around() -> Iterator[None]:
    """Look, at the beginning and at the end of each of the scheduler's cycles."""
    seen.append(around_here())
    yield
    seen.append(around_here())


def serve_rendezvous(count: int) -> None:
    """Let ``count`` processes go on when all of them have come."""
    listener = socket.create_server(("127.0.0.1", 0))
    os.environ["BODY_APP_PORT"] = str(listener.getsockname()[1])

    def serve() -> None:
        came = [listener.accept()[0] for _ in range(count)]
        for one in came:
            one.sendall(b"!")
            one.close()
        listener.close()

    threading.Thread(target=serve, daemon=True).start()


SCENARIOS: dict[str, list[tuple[str, Any, str, int]]] = {
    "modes": [
        ("in_main", in_main, "main", 2),
        ("in_async", in_async, "async", TOGETHER),
        ("in_thread", in_thread, "thread", TOGETHER),
        ("in_process", in_process, "process", PROCESSES),
        ("unseen", unseen, "main", 1),
        ("after", in_main, "main", 1),
    ],
    "process": [("in_process", in_process, "process", PROCESSES)],
    "many": [
        ("main", alone, "main", 12),
        ("async", alone, "async", 12),
        ("thread", alone, "thread", 12),
        ("process", alone, "process", 6),
    ],
    "alone": [("etl", alone, "process", 1)],
    "slow_end": [("etl", slow_end, "process", 1)],
    "fetch": [
        ("main", fetch, "main", 1),
        ("async", fetch_async, "async", 1),
        ("thread", fetch, "thread", 1),
        ("process", fetch, "process", 1),
    ],
}


def main() -> None:
    """Run each task as often as the scenario demands, and return a report."""
    method, scenario = sys.argv[1:3]
    multiprocessing.set_start_method(method, force=True)
    if scenario == "modes":
        multiprocessing.set_forkserver_preload(["rocketry_otel._instrumentation.hooks"])
    tasks = SCENARIOS[scenario]
    serve_rendezvous(PROCESSES)
    app = Rocketry(execution="main", cycle_sleep=0.001, max_process_count=20, multilaunch=True)
    app.session.returns = Forget()
    for name, function, execution, times in tasks:
        task = app.session.create_task(func=function, name=name, execution=execution)
        for _ in range(times):
            task.run()
    app.session.hooks.scheduler_cycle.append(look_around)
    handler = instrument(app)
    attach(baggage.set_baggage("team", "blue"))
    cycles = max(times for _, _, _, times in tasks)
    app.session.config.shut_cond = SchedulerCycles() >= cycles
    app.run()
    ended = time.time()
    seen.append(around_here())
    records = [
        {
            name: getattr(record, name)
            for name in ("task_name", "action", "run_id", "created", "trace_id", "span_id")
        }
        for record in handler.repo.filter_by().all()
    ]
    report = {"leaks": seen, "records": records, "ended": ended, "pid": os.getpid()}
    print(json.dumps(report), flush=True)  # noqa: T201  # the report for the test
    if os.environ.get("BODY_APP_LEAVE"):
        os._exit(0)  # the test is not about the exit


if __name__ == "__main__":
    main()

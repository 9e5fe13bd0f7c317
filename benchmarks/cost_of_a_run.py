"""Measures the cost of a run, which is two records and their telemetry.

Several ways handle the same run. They take turns, so other load of the machine slows all of them.
The result is ratios, because ratios differ less than times between machines.

- ``plain``: ``RepoHandler`` alone, what Rocketry itself does.
- ``bare``: ``RepoHandler`` and, by hand, one SDK span and two SDK log records with just the
  attributes that ours have.
- ``hand``: a user writes this: ``RepoHandler``, OpenTelemetry's own ``LoggingHandler`` beside it,
  and spans in a dictionary. Their telemetry is thrown away.
- ``hand+otlp``: the same, sent by the SDK's exporters to a collector in another process.
- ``given``: ``OTelRepoHandler`` with the application's providers, whose telemetry is thrown away.
- ``own``: ``OTelRepoHandler`` with providers of its own, which send to the same collector.

``thread`` is the processor time of the thread that logs, which is the scheduler's: every task waits
for it. ``process`` is that of the whole process, until everything has been sent.

``--repo URL`` chooses the repository of all ways, ``--json FILE``
keeps the result.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import platform
import statistics
import sys
import time
import uuid
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from opentelemetry._logs import SeverityNumber
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.logging.handler import LoggingHandler
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, LogRecordExportResult
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.trace import set_span_in_context
from redbird.logging import RepoHandler
from sink import sink

from rocketry_otel import OTelRepoHandler, Settings, open_repository

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 30
RUNS_A_ROUND = 250
TIMEOUT = 60.0


class Discard:
    """An exporter that takes everything and keeps nothing."""

    def __init__(self, success: object) -> None:
        self._success = success

    def export(self, _: object) -> object:
        return self._success

    def shutdown(self) -> None:
        pass

    def force_flush(self, _: int = 0) -> bool:
        return True


def tracer_provider(exporter: Any = None) -> TracerProvider:
    provider = TracerProvider(shutdown_on_exit=False)
    exporter = exporter or Discard(SpanExportResult.SUCCESS)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def logger_provider(exporter: Any = None) -> LoggerProvider:
    provider = LoggerProvider(shutdown_on_exit=False)
    exporter = exporter or Discard(LogRecordExportResult.SUCCESS)
    provider.add_log_record_processor(BatchLogRecordProcessor(exporter))
    return provider


class BareHandler(logging.Handler):
    """One span and two log records with the attributes that ours have, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self._tracer = tracer_provider().get_tracer("bench")
        self._logger = logger_provider().get_logger("bench")
        self._began = 0

    def emit(self, record: logging.LogRecord) -> None:
        nanoseconds = int(record.created * 1e9)
        who = {"task_name": record.task_name, "rocketry.run_id": record.run_id}
        if record.action == "run":
            self._began = nanoseconds
        else:
            span = self._tracer.start_span(
                f"run {record.task_name}",
                Context(),
                attributes={**who, "rocketry.action": record.action},
                start_time=self._began,
            )
            span.end(nanoseconds)
        self._logger.emit(
            timestamp=nanoseconds,
            observed_timestamp=nanoseconds,
            severity_number=SeverityNumber.INFO,
            severity_text="INFO",
            body=record.getMessage(),
            attributes={**who, "rocketry.action": record.action},
            event_name=f"rocketry.task.{record.action}",
        )


class SpansInADictionary(logging.Handler):
    """What a user would write to have spans beside OpenTelemetry's own log handler."""

    def __init__(self, tracer: TracerProvider, logger: LoggerProvider) -> None:
        super().__init__()
        self._tracer = tracer.get_tracer("bench")
        self._logs = LoggingHandler(logger_provider=logger)
        self._spans: dict[str, object] = {}

    def emit(self, record: logging.LogRecord) -> None:
        if record.action == "run":
            span = self._tracer.start_span(
                f"run {record.task_name}",
                Context(),
                attributes={"task_name": record.task_name, "rocketry.run_id": record.run_id},
                start_time=int(record.created * 1e9),
            )
            self._spans[record.run_id] = span
        else:
            span = self._spans.pop(record.run_id)
            span.set_attribute("rocketry.action", record.action)
            span.end(int(record.created * 1e9))
        from opentelemetry.context import attach, detach  # noqa: PLC0415

        token = attach(set_span_in_context(span))
        self._logs.handle(record)
        detach(token)


@dataclass
class Way:
    """A way to handle runs.

    Attributes:
        handlers: The handlers that see each record.
        send: Sends everything that waits.
        thread: Processor time of the logging thread in each round, in microseconds a run.
        process: Processor time of the whole process, in the same unit.
    """

    handlers: list[logging.Handler]
    send: Callable[[], object] = lambda: None
    thread: list[float] = field(default_factory=list)
    process: list[float] = field(default_factory=list)


def ways(repo: Callable[[], Any]) -> dict[str, Way]:
    """Return the ways; the variables name the collector."""
    thrown = (tracer_provider(), logger_provider())
    sent = (tracer_provider(OTLPSpanExporter()), logger_provider(OTLPLogExporter()))
    given = OTelRepoHandler(
        repo(),
        settings=Settings(),
        tracer_provider=thrown[0],
        logger_provider=thrown[1],
        meter_provider=MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False),
    )
    own = OTelRepoHandler(repo(), settings=Settings())
    return {
        "plain": Way([RepoHandler(repo())]),
        "bare": Way([RepoHandler(repo()), BareHandler()]),
        "hand": Way([RepoHandler(repo()), SpansInADictionary(*thrown)]),
        "hand+otlp": Way(
            [RepoHandler(repo()), SpansInADictionary(*sent)],
            lambda: [provider.force_flush() for provider in sent],
        ),
        "given": Way([given], lambda: given.flush(TIMEOUT)),
        "own": Way([own], lambda: own.flush(TIMEOUT)),
    }


def runner(its_handlers: list[logging.Handler], name: str) -> Callable[[], None]:
    """Return a function that logs one run as Rocketry does."""
    logger = logging.Logger(f"rocketry.task.{name}", logging.INFO)
    logger.handlers = its_handlers

    def run() -> None:
        run_id = uuid.uuid4().hex
        start = time.time()
        logger.info(
            "Task 'etl' status: 'run'",
            extra={"action": "run", "task_name": "etl", "run_id": run_id, "start": start},
        )
        end = time.time()
        logger.info(
            "Task 'etl' status: 'success'",
            extra={
                "action": "success", "task_name": "etl", "run_id": run_id,
                "start": start, "end": end, "runtime": end - start,
            },
        )  # fmt: skip

    return run


def measure(its: dict[str, Way], rounds: int, runs_a_round: int) -> None:
    """Handle runs by each way in turn, and keep what each took."""
    runners = {name: runner(way.handlers, name) for name, way in its.items()}
    for name, way in its.items():
        for _ in range(runs_a_round):
            runners[name]()
        way.send()
    for round_ in range(rounds):
        names = list(runners)
        # A different order in each round, so that no way always follows the same other.
        names = names[round_ % len(names) :] + names[: round_ % len(names)]
        for name in names:
            run, way = runners[name], its[name]
            # As timeit does: a collection looks through the repositories of all the others too.
            gc.collect()
            gc.disable()
            thread, process = time.thread_time(), time.process_time()
            for _ in range(runs_a_round):
                run()
            way.thread.append((time.thread_time() - thread) / runs_a_round * 1e6)
            way.send()
            way.process.append((time.process_time() - process) / runs_a_round * 1e6)
            gc.enable()


def table(its: dict[str, Way]) -> list[str]:
    """Return the lines of the result: medians, their quartiles, and the ratios."""
    lines = [f"{'':10} {'thread, us a run':>26} {'/ hand':>7} {'process':>9} {'/ hand+otlp':>12}"]
    hand = statistics.median(its["hand"].thread)
    sent = statistics.median(its["hand+otlp"].process)
    for name, way in its.items():
        thread, process = statistics.median(way.thread), statistics.median(way.process)
        low, _, high = statistics.quantiles(way.thread, n=4)
        lines.append(
            f"{name:10} {thread:8.1f} ({low:6.1f} to {high:6.1f}) {thread / hand:7.2f} "
            f"{process:9.1f} {process / sent:12.2f}"
        )
    return lines


def surroundings(url: str) -> dict[str, str]:
    """Return the machine and the versions: the figures depend on them."""
    return {
        "repository": url,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} processors",
        "opentelemetry-sdk": version("opentelemetry-sdk"),
        "redbird": version("redbird"),
    }


def main(arguments: list[str]) -> int:
    logging.raiseExceptions = False
    parser = argparse.ArgumentParser(description="Measure what a run costs.")
    parser.add_argument("--smoke", action="store_true", help="show that it works; measure nothing")
    parser.add_argument(
        "--repo", help="memory://, sqlite, csv or any other URL", default="memory://"
    )
    parser.add_argument("--json", type=Path, help="keep the result in this file")
    options = parser.parse_args(arguments)
    with ExitStack() as stack:
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = stack.enter_context(sink())
        folder = stack.enter_context(TemporaryDirectory(ignore_cleanup_errors=True))
        files = {"sqlite": "sqlite:///{}/{}.db", "csv": "csv://{}/{}.csv"}
        number = iter(range(100))

        def repo() -> Any:
            url = files.get(options.repo, options.repo)
            return open_repository(url.format(folder, next(number)))

        its = ways(repo)
        measure(its, *((2, 5) if options.smoke else (ROUNDS, RUNS_A_ROUND)))
        for name in ("given", "own"):
            its[name].handlers[0].close()
    around = surroundings(options.repo)
    print("\n".join([*table(its), *(f"{key}: {value}" for key, value in around.items())]))
    if options.json:
        figures = {
            name: {"thread": way.thread, "process": way.process} for name, way in its.items()
        }
        options.json.write_text(json.dumps({**around, "microseconds": figures}), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

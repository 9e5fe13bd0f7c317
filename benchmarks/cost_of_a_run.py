"""What a run costs: two records, a memory repository, and telemetry that is thrown away.

Four ways to handle the same run, interleaved so that whatever else the machine does falls on
all of them alike; the result is their ratios, which machines agree on better than on times.

- ``plain``: ``RepoHandler`` alone, what Rocketry itself does.
- ``bare``: ``RepoHandler`` and, by hand, one SDK span and two SDK log records with just the
  attributes that ours have.
- ``manual``: what a user would write: ``RepoHandler``, OpenTelemetry's own ``LoggingHandler``
  beside it, and spans in a dictionary.
- ``ours``: ``OTelRepoHandler``.

Run it with ``make benchmark``. The ratios wanted: ours/manual at most 0.75, ours/bare at most
1.25 without metrics and 1.5 with them.
"""

from __future__ import annotations

import argparse
import gc
import logging
import statistics
import sys
import time
import uuid
from typing import TYPE_CHECKING

from opentelemetry._logs import SeverityNumber
from opentelemetry.context import Context
from opentelemetry.instrumentation.logging.handler import LoggingHandler
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, LogRecordExportResult
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.trace import set_span_in_context
from redbird.logging import RepoHandler

from rocketry_otel import OTelRepoHandler, Settings, open_repository

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 60
RUNS_A_ROUND = 250


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


def tracer_provider() -> TracerProvider:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(Discard(SpanExportResult.SUCCESS)))
    return provider


def logger_provider() -> LoggerProvider:
    provider = LoggerProvider(shutdown_on_exit=False)
    processor = BatchLogRecordProcessor(Discard(LogRecordExportResult.SUCCESS))
    provider.add_log_record_processor(processor)
    return provider


def repo_handler() -> RepoHandler:
    return RepoHandler(open_repository("memory://"))


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

    def __init__(self, logs: LoggingHandler) -> None:
        super().__init__()
        self._tracer = tracer_provider().get_tracer("bench")
        self._logs = logs
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


def ours(meter_provider: object) -> OTelRepoHandler:
    return OTelRepoHandler(
        open_repository("memory://"),
        settings=Settings(),
        tracer_provider=tracer_provider(),
        logger_provider=logger_provider(),
        meter_provider=meter_provider,
    )


def handlers() -> dict[str, list[logging.Handler]]:
    logs = LoggingHandler(logger_provider=logger_provider())
    return {
        "plain": [repo_handler()],
        "bare": [repo_handler(), BareHandler()],
        "manual": [repo_handler(), SpansInADictionary(logs)],
        "ours": [ours(NoOpMeterProvider())],
        "ours+metrics": [ours(MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False))],
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


def measure(rounds: int, runs_a_round: int) -> dict[str, float]:
    """Return the median microseconds of a run, by way of handling it."""
    runners = {name: runner(its, name) for name, its in handlers().items()}
    times: dict[str, list[float]] = {name: [] for name in runners}
    for run in runners.values():
        for _ in range(runs_a_round):
            run()
    for round_ in range(rounds):
        names = list(runners)
        # A different order in each round, so that no way always follows the same other.
        names = names[round_ % len(names) :] + names[: round_ % len(names)]
        for name in names:
            run = runners[name]
            # As timeit does: a collection looks through the repositories of all the others too.
            gc.collect()
            gc.disable()
            began = time.perf_counter()
            for _ in range(runs_a_round):
                run()
            times[name].append((time.perf_counter() - began) / runs_a_round * 1e6)
            gc.enable()
    return {name: statistics.median(values) for name, values in times.items()}


def main(arguments: list[str]) -> int:
    logging.raiseExceptions = False
    parser = argparse.ArgumentParser(description="Measure what a run costs.")
    parser.add_argument("--smoke", action="store_true", help="show that it works; measure nothing")
    smoke = parser.parse_args(arguments).smoke
    cost = measure(*((2, 5) if smoke else (ROUNDS, RUNS_A_ROUND)))
    width = max(len(name) for name in cost)
    for name, microseconds in cost.items():
        print(f"{name:{width}}  {microseconds:7.1f} µs a run")
    for name in ("ours", "ours+metrics"):
        for other in ("plain", "bare", "manual"):
            print(f"{name} / {other}: {cost[name] / cost[other]:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

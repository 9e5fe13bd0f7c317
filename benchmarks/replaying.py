"""Measures a replay, in CPU time of the whole process for a record.

It is compared with the limit: the same number of spans and log records, made once, are encoded by
the SDK and sent by the SDK's own exporters in batches of 512. Memory is compared between a tenth of
the history and the whole.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from figures import Figure, Size, child, run
from opentelemetry._logs import SeverityNumber
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sink import sink
from start_up import fill

import rocketry_otel  # noqa: F401  # Red Bird sees the right pydantic
from rocketry_otel import open_repository, replay

if TYPE_CHECKING:
    from collections.abc import Iterator

TASKS = 100
BATCH = 512
ROUNDS = 3


def work(kind: str, url: str, records: str) -> list[float]:
    """Return microseconds a record, and the peak of the memory in megabytes."""
    number = int(records)
    if kind == "ours":
        began = time.process_time()
        sent = replay(open_repository(url))
        if not sent.complete:
            raise SystemExit(f"the replay is not complete: {sent}")
    else:
        spans, logs = batches()
        exporters = OTLPSpanExporter(), OTLPLogExporter()
        began = time.process_time()
        for _ in range(number // BATCH):
            exporters[1].export(logs)
        for _ in range(number // 2 // BATCH):
            exporters[0].export(spans)
    took = (time.process_time() - began) / number * 1e6
    return [took, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]


def batches() -> tuple[Any, Any]:
    """Return a batch of spans and one of log records, with the attributes that ours have."""
    spans, logs = InMemorySpanExporter(), InMemoryLogRecordExporter()
    tracers, loggers = TracerProvider(), LoggerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    loggers.add_log_record_processor(SimpleLogRecordProcessor(logs))
    tracer, logger = tracers.get_tracer("bench"), loggers.get_logger("bench")
    for number in range(BATCH):
        who = {"task_name": "etl", "rocketry.run_id": f"{number:032x}"}
        with tracer.start_as_current_span(
            "run etl", attributes={**who, "rocketry.action": "success"}
        ):
            logger.emit(
                timestamp=time.time_ns(),
                observed_timestamp=time.time_ns(),
                severity_number=SeverityNumber.INFO,
                severity_text="INFO",
                body="Task 'etl' status: 'run'",
                attributes={**who, "rocketry.action": "run"},
                event_name="rocketry.task.run",
            )
    return spans.get_finished_spans(), logs.get_finished_logs()


def measure(size: Size) -> Iterator[Figure]:
    records = size.of(2_000, 40_000, 1_000_000)
    with sink() as collector, TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = collector
        whole, tenth = f"sqlite:///{folder}/whole.db", f"sqlite:///{folder}/tenth.db"
        fill("ours", whole, TASKS, records)
        fill("ours", tenth, TASKS, records // 10)
        rounds = [
            (
                child(__file__, "bare", whole, records),
                child(__file__, "ours", whole, records),
                child(__file__, "ours", tenth, records // 10),
            )
            for _ in range(size.of(1, ROUNDS))
        ]
        bare, ours, few = ([one[place] for one in rounds] for place in range(3))
        yield Figure(
            f"replay of {records:,} / encode and send",
            "µs",
            [one[0] for one in bare],
            [one[0] for one in ours],
            "2.0",
        )
        name = f"memory, {records:,} / a tenth of it"
        yield Figure(name, "MB", [one[1] for one in few], [one[1] for one in ours], "1.0")


if __name__ == "__main__":
    sys.exit(run(__doc__, measure, work))

"""Measures the cost of a run and the memory, at the start and at the end of many runs.

One handler with retention by count logs run after run on ``memory://`` and on SQLite. The first
tenth is compared with the last one.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import uuid
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from figures import Figure, Size, child, run
from sink import sink

from rocketry_otel import OTelRepoHandler, Settings, open_repository

if TYPE_CHECKING:
    from collections.abc import Iterator

TASKS = 100
KEPT = 2_000
TENTHS = 10
MOST_WAITING = 2_000


def work(url: str, runs: str) -> list[list[float]]:
    """Return for each tenth of the runs the CPU time of a run, and the memory at its end."""
    handler = OTelRepoHandler(open_repository(url), settings=Settings(retention=str(KEPT)))
    logger = logging.Logger("rocketry.task.bench", logging.INFO)
    logger.handlers = [handler]
    found = []
    for _ in range(TENTHS):
        began = time.process_time()
        for number in range(int(runs) // TENTHS):
            run_id = uuid.uuid4().hex
            name = f"task-{number % TASKS}"
            for action in ("run", "success"):
                extra = {"action": action, "task_name": name, "run_id": run_id}
                logger.info("Task '%s' status: '%s'", name, action, extra=extra)
            if number % MOST_WAITING == 0:
                handler.flush(60.0)
        handler.flush(60.0)
        took = (time.process_time() - began) / (int(runs) // TENTHS) * 1e6
        found.append([took, memory()])
    handler.close()
    return found


def memory() -> float:
    """Return the memory of this process, in megabytes."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure(size: Size) -> Iterator[Figure]:
    with sink() as collector, TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = collector
        for name, url, runs in (
            ("memory", "memory://", size.of(200, 40_000, 200_000)),
            ("SQLite", f"sqlite:///{folder}/tasks.db", size.of(50, 4_000, 200_000)),
        ):
            tenths = child(__file__, url, runs)
            for place, unit in enumerate(("µs a run", "MB")):
                first, last = tenths[1][place], tenths[-1][place]
                yield Figure(
                    f"{name}, {runs:,} runs, last / second tenth", unit, [first], [last], "1.0"
                )


if __name__ == "__main__":
    sys.exit(run(__doc__, measure, work))

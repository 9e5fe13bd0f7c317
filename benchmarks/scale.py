"""Measures how many runs a saturated scheduler makes in a second.

All tasks are due at all times, in the execution "main" and with nothing in their bodies, and the
scheduler does not sleep between its cycles. The application is compared with plain Rocketry on its
repository in memory. Ours has providers of its own, which send to a collector in another process.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

from figures import Figure, Size, child, run
from rocketry import Rocketry
from sink import sink

import rocketry_otel  # noqa: F401  # Rocketry and Red Bird see the right pydantic
from rocketry_otel import instrument

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUNDS = 3
SECONDS = 10.0


def work(kind: str, tasks: str, seconds: str) -> float:
    """Return the number of runs in a second of CPU time of the scheduler's thread."""
    app = Rocketry(config={"task_execution": "main", "cycle_sleep": None})
    runs = 0
    until = float("inf")
    began = 0.0

    def body() -> None:
        nonlocal runs, until, began
        if not runs:
            until, began = time.perf_counter() + float(seconds), time.thread_time()
        runs += 1
        if time.perf_counter() > until:
            app.session.shut_down()

    for number in range(int(tasks)):
        app.task("true", name=f"task-{number}", func=body)
    if kind == "ours":
        instrument(app)
    app.run()
    return (runs - 1) / (time.thread_time() - began)


def measure(size: Size) -> Iterator[Figure]:
    with sink() as collector:
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = collector
        for tasks in size.of([3], [10, 100, 1_000]):
            rates: dict[str, list[float]] = {"plain": [], "ours": []}
            for _ in range(size.of(1, ROUNDS)):
                for kind, found in rates.items():
                    found.append(child(__file__, kind, tasks, size.of(0.2, SECONDS)))
            yield Figure(
                f"{tasks:,} tasks", "runs/s", rates["plain"], rates["ours"], "at least 0.7"
            )


if __name__ == "__main__":
    sys.exit(run(__doc__, measure, work))

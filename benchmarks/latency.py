"""Measures how long a task waits for its record, at 200 runs a second.

Our ``Handler.emit`` is compared with that of plain ``RepoHandler``. A faulty collector is compared
with a healthy one. A fault is an answer of 503, a collector that hangs, or a port without a
listener.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from figures import Figure, Size, child, run
from redbird.logging import RepoHandler

import rocketry_otel  # noqa: F401  # Red Bird sees the right pydantic
from rocketry_otel import OTelRepoHandler, open_repository

# The tests have the receiver.
sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.support.otlp_receiver import Hang, Ok, OTLPReceiver, Status

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUNDS = 3
RUNS_A_SECOND = 200
SECONDS = 20.0
MOST = 0.999
WARM_UP = 20
FAULTS = {"healthy": Ok(), "answers 503": Status(503), "hangs": Hang()}


def work(kind: str, seconds: str) -> list[float]:
    """Return the median and the 99.9th percentile of ``emit``, in microseconds."""
    repo = open_repository("memory://")
    handler: Any = OTelRepoHandler(repo) if kind == "ours" else RepoHandler(repo=repo)
    logger = logging.Logger("rocketry.task.bench", logging.INFO)
    logger.handlers = [handler]
    times: list[float] = []
    due = time.perf_counter()
    until = due + float(seconds)
    while due < until:
        run_id = uuid.uuid4().hex
        for action in ("run", "success"):
            began = time.perf_counter()
            logger.info(
                "Task 'etl' status: '%s'",
                action,
                extra={"action": action, "task_name": "etl", "run_id": run_id},
            )
            times.append((time.perf_counter() - began) * 1e6)
        due += 1 / RUNS_A_SECOND
        time.sleep(max(due - time.perf_counter(), 0.0))
    # The first records find the providers.
    times = sorted(times[WARM_UP:])
    return [times[len(times) // 2], times[int(len(times) * MOST)]]


def measure(size: Size) -> Iterator[Figure]:
    seconds = size.of(0.2, SECONDS)
    found: dict[str, list[list[float]]] = {name: [] for name in ("plain", *FAULTS, "away")}
    for _ in range(size.of(1, ROUNDS)):
        found["plain"].append(child(__file__, "plain", seconds))
        for name, fault in FAULTS.items():
            with OTLPReceiver() as receiver:
                receiver.behave(fault)
                os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = receiver.http_endpoint
                found[name].append(child(__file__, "ours", seconds))
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = "http://127.0.0.1:9"
        found["away"].append(child(__file__, "ours", seconds))
    median, tail = (
        {name: [pair[place] for pair in pairs] for name, pairs in found.items()} for place in (0, 1)
    )
    yield Figure("emit, median / plain", "µs", median["plain"], median["healthy"], "1.7")
    for name in ("answers 503", "hangs", "away"):
        yield Figure(
            f"99.9 %, collector {name} / healthy", "µs", tail["healthy"], tail[name], "1.3"
        )


if __name__ == "__main__":
    sys.exit(run(__doc__, measure, work))

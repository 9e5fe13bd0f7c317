"""Measures how long a program takes to end, from the end of its work to the end of its process.

It is compared with the same program on plain ``RepoHandler``. Ours has just logged a hundred runs.
In an outage it waits for the shutdown time-out on ``memory://``. With a durable repository it
leaves within a second: the next process sends the rest.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
import uuid
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from figures import Figure, Size, run
from redbird.logging import RepoHandler
from sink import sink

import rocketry_otel  # noqa: F401  # Red Bird sees the right pydantic
from rocketry_otel import OTelRepoHandler, open_repository

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUNDS = 5
RUNS = 100
NOWHERE = "http://127.0.0.1:9"


def work(kind: str, url: str) -> float:
    """Log runs, and return the time when the work is over."""
    repo = open_repository(url)
    handler: Any = OTelRepoHandler(repo) if kind == "ours" else RepoHandler(repo=repo)
    logger = logging.Logger("rocketry.task.bench", logging.INFO)
    logger.handlers = [handler]
    for _ in range(RUNS):
        run_id = uuid.uuid4().hex
        for action in ("run", "success"):
            extra = {"action": action, "task_name": "etl", "run_id": run_id}
            logger.info("Task 'etl' status: '%s'", action, extra=extra)
    if kind == "ours" and os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] == NOWHERE:
        # An outage that has just begun is not known yet.
        handler.flush(2.0)
    return time.monotonic()


def seconds(kind: str, url: str, endpoint: str) -> float:
    """Return how long the process took after its work."""
    done = subprocess.run(  # noqa: S603  # ours
        [sys.executable, "-W", "ignore", __file__, "--child", kind, url],
        env={**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    ended = time.monotonic()
    return (ended - float(json.loads(done.stdout))) * 1e3


def measure(size: Size) -> Iterator[Figure]:
    with sink() as collector, TemporaryDirectory() as folder:
        for name, url, endpoint, wanted in (
            ("memory, collector accepts", "memory://", collector, ""),
            ("SQLite, collector accepts", "sqlite:///{}.db", collector, ""),
            ("memory, collector away", "memory://", NOWHERE, ""),
            ("SQLite, collector away", "sqlite:///{}.db", NOWHERE, ""),
        ):
            pairs = []
            for number in range(size.of(1, ROUNDS)):
                urls = (
                    url.format(f"{folder}/{number}-{endpoint == NOWHERE}-{kind}")
                    for kind in ("plain", "ours")
                )
                plain, ours = zip(("plain", "ours"), urls, strict=True)
                pairs.append((seconds(*plain, collector), seconds(*ours, endpoint)))
            base, its = ([pair[place] for pair in pairs] for place in (0, 1))
            yield Figure(name, "ms", base, its, wanted)


if __name__ == "__main__":
    sys.exit(run(__doc__, measure, work))

"""An application that runs each of its tasks a known number of times, and ends.

``python numbers_app.py TASKS REPOSITORY``: every third task fails, the first one too. Each has
``RUNS`` runs (1 if that is not set). It flushes for ``FLUSH_SECONDS`` at most, and prints the
records of the repository, as a line of JSON.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time

from rocketry import Rocketry

from rocketry_otel import instrument, open_repository

logging.getLogger("rocketry").setLevel(logging.CRITICAL)
# Seconds, between two bounds of the histogram's buckets.
LENGTH = float(os.environ.get("LENGTH", "0"))


def succeed() -> None:
    """Take some time."""
    time.sleep(LENGTH)


def fail() -> None:
    """Raise an error."""
    raise ValueError(os.environ.get("MESSAGE", "boom"))


def main(tasks: int, url: str) -> None:
    """Run every task, again and again."""
    app = Rocketry(config={"cycle_sleep": 0, "execution": "main"})
    names = [f"task-{number:03}" for number in range(tasks)]
    for number, name in enumerate(names):
        app.session.create_task(func=succeed if number % 3 else fail, name=name)
    repo = open_repository(url)
    handler = instrument(app, repo=repo)
    for _ in range(int(os.environ.get("RUNS", "1"))):
        app.session.run(*names)
    flushed = handler.flush(float(os.environ.get("FLUSH_SECONDS", "60")))
    records = [record.dict() for record in repo.filter_by().all()]
    sys.stdout.write(json.dumps({"flushed": flushed, "records": records}) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])

"""A day's outage in fast motion: an application catches up with what its repository holds.

An SQLite repository holds 200,000 records that a dead process has not delivered; an application
delivers them to a real receiver on the same machine, which decodes and counts them. Beside it: a
tenth as much, and how long it takes just to read those records with Red Bird. The result is
ratios, which machines agree on better than on times.

Run it with ``make benchmark-catching-up``. Wanted: memory that does not grow with the history
(ratio about 1), and time that grows in proportion to it (ratio about 10).
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from rocketry_otel import open_repository

# The receiver is that of the tests.
sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.support.catching_up import CaughtUp, catch_up

RECORDS = 200_000
SHARE = 10
TIMEOUT = 900.0


def measure(records: int) -> tuple[CaughtUp, float]:
    """Return how the application caught up, and how long it takes just to read."""
    with TemporaryDirectory() as directory:
        result = catch_up(Path(directory), records, TIMEOUT)
        repo = open_repository(f"sqlite:///{directory}/tasks.db")
        began = time.perf_counter()
        for _ in repo.filter_by():
            pass
        return result, time.perf_counter() - began


def show(result: CaughtUp, reading: float) -> None:
    """Print one line."""
    print(
        f"{result.records:8,} records: {result.seconds:6.1f} s, "
        f"{result.records / result.seconds:7,.0f} a second, "
        f"{result.seconds / reading:5.1f} times as long as to read them, "
        f"{result.megabytes:6.1f} MB at most"
    )


def main() -> None:
    records = int(sys.argv[1]) if len(sys.argv) > 1 else RECORDS
    few, few_reading = measure(records // SHARE)
    show(few, few_reading)
    many, many_reading = measure(records)
    show(many, many_reading)
    print(f"time: ratio {many.seconds / few.seconds:.2f} for {SHARE} times as much")
    print(f"memory: ratio {many.megabytes / few.megabytes:.2f}")


if __name__ == "__main__":
    main()

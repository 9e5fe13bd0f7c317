"""A day's outage in fast motion: an application catches up with what its repository holds.

An SQLite repository holds records that a dead process has not delivered; an application
delivers them to a real receiver on the same machine, which decodes and counts them. It is compared
with a tenth as much.

Time is compared for a record: ten times as many take ten times as long. Memory does not grow.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from figures import Figure, Size, run

# The receiver is that of the tests.
sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.support.catching_up import CaughtUp, catch_up

if TYPE_CHECKING:
    from collections.abc import Iterator

SHARE = 10
TIMEOUT = 900.0


def caught_up(records: int) -> CaughtUp:
    """Return how the application caught up."""
    with TemporaryDirectory() as directory:
        return catch_up(Path(directory), records, TIMEOUT)


def measure(size: Size) -> Iterator[Figure]:
    records = size.of(500, 20_000, 200_000)
    few, many = caught_up(records // SHARE), caught_up(records)
    name = f"catching up with {records:,} / a tenth of it"
    times = [one.seconds / one.records * 1e6 for one in (few, many)]
    yield Figure(name, "µs", times[:1], times[1:], "1.0")
    yield Figure("its memory", "MB", [few.megabytes], [many.megabytes], "1.0")


if __name__ == "__main__":
    sys.exit(run(__doc__, measure))

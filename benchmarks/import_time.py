"""Measures how long the import takes.

It is compared with the import of what an application needs anyway: Red Bird, Rocketry, and the
three signals of the SDK with their OTLP exporters.
"""

from __future__ import annotations

import importlib
import sys
import time
from typing import TYPE_CHECKING

from figures import Figure, Size, child, run

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUNDS = 15
# Ours needs them, too, and lets them see the right pydantic.
BASE = (
    "redbird.logging",
    "redbird.repos",
    "rocketry",
    "opentelemetry.sdk.trace.export",
    "opentelemetry.sdk._logs.export",
    "opentelemetry.sdk.metrics.export",
)


def work(*names: str) -> float:
    """Return the CPU time of imports, in milliseconds."""
    began = time.process_time()
    for name in names:
        importlib.import_module(name)
    return (time.process_time() - began) * 1e3


def measure(size: Size) -> Iterator[Figure]:
    rounds = range(size.of(1, ROUNDS))

    def imported(*names: str) -> float:
        # Bytecode is written, as by an installation. Else each import would compile our modules.
        taken: float = child(__file__, *names, PYTHONDONTWRITEBYTECODE="")
        return taken

    imported(*BASE, "rocketry_otel")  # the first import writes it
    pairs = [(imported(*BASE), imported(*BASE, "rocketry_otel")) for _ in rounds]
    base, ours = ([pair[place] for pair in pairs] for place in (0, 1))
    yield Figure("import", "ms", base, ours, "1.05")


if __name__ == "__main__":
    sys.exit(run(__doc__, measure, work))

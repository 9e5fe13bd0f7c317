"""Tasks in processes, at most two at a time, with OpenTelemetry inside their bodies.

    python process_pool.py

Each region is imported in a child process. The span of the run is the parent of the spans that the
body makes there, and its log lines are in the same trace. When all regions are there, `summary`
starts: its run links to theirs.
"""

from __future__ import annotations

import logging
import time

from opentelemetry import trace
from rocketry import Rocketry
from rocketry.conds import after_all_success

from rocketry_otel import current_run, instrument

REGIONS = ("north", "south", "west")

logger = logging.getLogger(__name__)
tracer = trace.get_tracer(__name__)
app = Rocketry(config={"max_process_count": 2})
instrument(app)


def import_region(region: str) -> None:
    """Import the rows of a region, in a child process."""
    with tracer.start_as_current_span("read", attributes={"region": region}):
        time.sleep(0.05)
    with tracer.start_as_current_span("write"):
        logger.warning("2 rows of %s have no price", region)
    current_run().set_attribute("rows", 100)


for region in REGIONS:
    app.task(
        "every 10 minutes",
        name=f"import-{region}",
        execution="process",
        parameters={"region": region},
    )(import_region)


@app.task(after_all_success(*(f"import-{region}" for region in REGIONS)), execution="thread")
def summary() -> None:
    """Run when all regions have been imported."""
    current_run().set_attribute("regions", len(REGIONS))


if __name__ == "__main__":
    app.run()

"""The application that is tested: a task that is tried again, and one that waits for it."""

from __future__ import annotations

from pathlib import Path

from rocketry import Rocketry
from rocketry.conds import after_success

from rocketry_otel import current_run, instrument

PRICES = Path("prices.csv")

app = Rocketry(execution="main")
instrument(app)


@app.task("every 10 minutes")
def load_prices() -> None:
    """Load a file, which must have lines."""
    lines = PRICES.read_text(encoding="utf-8").splitlines()
    if not lines:
        raise ValueError("the file of prices is empty")
    current_run().set_attribute("lines", len(lines))


@app.task(after_success(load_prices))
def publish() -> None:
    """Run after each load."""

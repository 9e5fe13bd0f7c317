"""The progress of a run that goes on, as its body reports it.

In: two numbers. Out: their ratio, and a log signal. It is in no repository, so this mapping has
only live reports.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from opentelemetry._logs import SeverityNumber

from .plain_values import plain_value
from .signals import RUN_ID, TASK_NAME, LogSignal, short_name

PROGRESS_EVENT = "rocketry.task.progress"
PROGRESS_DONE = "rocketry.progress.done"
PROGRESS_TOTAL = "rocketry.progress.total"
PROGRESS_RATIO = "rocketry.progress.ratio"


class Progress(NamedTuple):
    """How far a run has come: ``done`` of ``total``, in any unit."""

    done: int | float
    total: int | float

    @property
    def ratio(self) -> float:
        """A number from 0.0 to 1.0; work without any part is done."""
        if self.total == 0:
            return 1.0
        return float(min(max(self.done / self.total, 0.0), 1.0))


def progress_of(done: object, total: object) -> Progress | None:
    """Return the progress from what a body has reported; ``None`` if these are no numbers."""
    numbers = [plain_value(done), plain_value(total)]
    if any(type(one) not in {int, float} or not math.isfinite(one) for one in numbers):  # type: ignore[arg-type]
        return None
    progress = Progress(*numbers)  # type: ignore[arg-type]
    return progress if progress.total >= 0 else None


def progress_signal(
    progress: Progress, task_name: str, run_id: str | None, created: int
) -> LogSignal:
    """Return a report as a log record; ``created`` is in nanoseconds since the epoch."""
    task_name = short_name(task_name)
    who = {TASK_NAME: task_name} if run_id is None else {TASK_NAME: task_name, RUN_ID: run_id}
    return LogSignal(
        created,
        SeverityNumber.INFO,
        "INFO",
        f"Task '{task_name}' progress: {progress.done} of {progress.total}",
        {
            **who,
            PROGRESS_DONE: progress.done,
            PROGRESS_TOTAL: progress.total,
            PROGRESS_RATIO: progress.ratio,
        },
        PROGRESS_EVENT,
    )

"""Records that tests put into repositories."""

from __future__ import annotations

from typing import Any

from rocketry_otel._model.record import TaskEventRecord

FULL = TaskEventRecord(
    task_name="fetch",
    action="fail",
    created=1_700_000_000.123456,
    run_id="5f2d8c9e0b7a4d1c8e6f3a2b1c0d9e8f",
    start=1_699_999_999.5,
    end=1_700_000_000.25,
    runtime=0.75,
    message="Task 'fetch' failed",
    exc_text="Traceback (most recent call last):\n  ...\nValueError: no",
    exc_type="ValueError",
    exc_message="no",
    process=4321,
    thread="140213371385664",
    execution="thread",
    links='["a", "b"]',
    attributes='{"rows": 3}',
    trace_id="0123456789abcdef0123456789abcdef",
    span_id="0123456789abcdef",
)


def record(task_name: str = "fetch", action: str = "run", created: float = 1.0, **rest: Any):
    """Return a record of which little but this is set."""
    return TaskEventRecord(task_name=task_name, action=action, created=created, **rest)

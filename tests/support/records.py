"""Log records as Rocketry makes them."""

from __future__ import annotations

import logging
import sys
from typing import Any

START = 1_700_000_000.25


def task_record(
    action: str | None = None, task_name: Any = "etl", **fields: Any
) -> logging.LogRecord:
    """Return a record on ``rocketry.task``.

    Args:
        action: The action; without it the record has no such attribute.
        task_name: The task's name; ``None`` for a record without one.
        **fields: Further attributes of the record, such as ``created`` or ``run_id``.
    """
    level = logging.ERROR if action == "fail" else logging.INFO
    message = fields.pop("msg", f"Task '{task_name}' status: '{action}'")
    record = logging.LogRecord(
        fields.pop("name", "rocketry.task"),
        fields.pop("level", level),
        __file__,
        1,
        message,
        fields.pop("args", None),
        fields.pop("exc_info", None),
        "_set_status",
    )
    if action is not None:
        record.action = action
    if task_name is not None:
        record.task_name = task_name
    record.created = START
    for name, value in fields.items():
        setattr(record, name, value)
    return record


def raised(error: BaseException) -> tuple[Any, Any, Any]:
    """Return the ``exc_info`` of ``error``, raised and caught."""
    try:
        raise error
    except BaseException:  # noqa: BLE001  # any exception is one to test with
        return sys.exc_info()

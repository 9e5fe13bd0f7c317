"""A slot that went by without a run, as a log record.

In: the slot, and why it was missed. Out: a log signal. It is in no repository.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from opentelemetry._logs import SeverityNumber

from .durations import NANOSECONDS
from .signals import TASK_NAME, LogSignal, short_name

if TYPE_CHECKING:
    from .annotations import Attributes

MISSED_EVENT = "rocketry.task.missed"
SCHEDULE_TIME = "rocketry.schedule.time"
SCHEDULE_DELAY = "rocketry.schedule.delay"
SCHEDULE_MISSED = "rocketry.schedule.missed"
MISSED_REASON = "rocketry.missed.reason"
MISSED_BLOCKED_BY = "rocketry.missed.blocked_by"

_WORDS = {
    "blocked": "the scheduler was blocked",
    "running": "an earlier run went on",
    "limit": "too many processes ran",
    "scheduler_down": "no scheduler ran",
}


def utc_text(at: float) -> str:
    """Return a time in seconds since the epoch as RFC 3339 in UTC."""
    return dt.datetime.fromtimestamp(at, dt.timezone.utc).isoformat().replace("+00:00", "Z")


def missed_signal(
    task_name: str, begin: float, created: float, reason: str, blocked_by: str | None, number: int
) -> LogSignal:
    """Return missed slots of a task as a log record.

    Args:
        task_name: The task.
        begin: When the first of the slots began, in seconds since the epoch.
        created: When it was noticed, in seconds since the epoch.
        reason: Why the slots were missed.
        blocked_by: The task that blocked the scheduler, if one did.
        number: How many slots.
    """
    task_name, time = short_name(task_name), utc_text(begin)
    runs = "its run" if number == 1 else f"{number} runs, the first"
    body = f"Task '{task_name}' missed {runs} of {time}: {_WORDS[reason]}"
    attributes: Attributes = {
        TASK_NAME: task_name,
        SCHEDULE_TIME: time,
        MISSED_REASON: reason,
        SCHEDULE_MISSED: number,
    }
    if blocked_by is not None:
        attributes[MISSED_BLOCKED_BY] = short_name(blocked_by)
        body += f" by '{attributes[MISSED_BLOCKED_BY]}'"
    return LogSignal(
        round(created * NANOSECONDS), SeverityNumber.WARN, "WARN", body, attributes, MISSED_EVENT
    )

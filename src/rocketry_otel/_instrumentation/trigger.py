"""Why a run begins: by a request, at the start or the end of the scheduler, or by its condition.

In: a launch. Out: attributes of the run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rocketry_otel._schedule.conditions import Constant
from rocketry_otel._schedule.triggers import (
    REQUEST,
    TRIGGER,
    condition_attributes,
)

if TYPE_CHECKING:
    from .launching import Launching


def trigger_of(launching: Launching) -> dict[str, str]:
    """Return why a run begins."""
    task, parsed = launching.task, launching.condition
    is_never = isinstance(parsed.tree, Constant) and not parsed.tree.value
    # At its start and end Rocketry itself asks for a run of a task that has no condition.
    is_asked_by_rocketry = launching.phase is not None and is_never
    is_requested = launching.is_requested and not (is_asked_by_rocketry and not task.batches)
    # The application may also have started the task itself, as by `task.start()`.
    if is_requested or not launching.is_scheduled:
        return {TRIGGER: REQUEST}
    found: dict[str, str] = {}
    if not is_never:
        found |= condition_attributes(parsed, launching.moment)
    if launching.phase is not None:
        found[TRIGGER] = launching.phase
    return found

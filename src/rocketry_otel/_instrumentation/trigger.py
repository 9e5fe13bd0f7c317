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
from rocketry_otel._schedule.verdicts import Moment

if TYPE_CHECKING:
    from .launch_attributes import Launching


def trigger(launching: Launching) -> dict[str, object]:
    """Return why a run begins."""
    task, bridge = launching.task, launching.bridge
    parsed = bridge.conditions.of(task)
    is_never = parsed.tree == Constant(value=False)
    # At its start and end Rocketry itself asks for a run of a task that has no condition.
    is_asked_by_rocketry = launching.phase is not None and is_never
    is_requested = launching.is_requested and not (is_asked_by_rocketry and not task.batches)
    # The application may also have started the task itself, as by `task.start()`.
    if is_requested or not launching.is_scheduled:
        return {TRIGGER: REQUEST}
    found: dict[str, object] = {}
    if not is_never:
        found |= condition_attributes(parsed, Moment(task, bridge.task_states))
    if launching.phase is not None:
        found[TRIGGER] = launching.phase
    return found

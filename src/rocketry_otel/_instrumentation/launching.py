"""A launch of a run, before Rocketry logs its beginning.

In: a task, and how its run was asked for. Out: what several attributes of the run depend on, each
found once for a launch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rocketry_otel._runtime.lazy import lazy
from rocketry_otel._schedule.verdicts import Moment

from .trigger import trigger_of

if TYPE_CHECKING:
    from rocketry_otel._model.ids import RunIds
    from rocketry_otel._schedule.conditions import Parsed

    from .bridge import Bridge
    from .links import Awaited, Request


class Launching:
    """A launch of a run.

    Args:
        task: The task. Rocketry has not noted this run in it yet.
        bridge: The bridge of its application.
        is_requested: Whether ``task.run()`` has asked for this run.
        request: The span that was active there, if one was.
        phase: ``startup`` or ``shutdown`` of the scheduler; ``None`` between them.
        is_scheduled: Whether the scheduler launches it, and not the application itself.
    """

    def __init__(
        self,
        task: Any,
        bridge: Bridge,
        is_requested: bool,  # noqa: FBT001  # as `Requests.take` returns them
        request: Request | None = None,
        phase: str | None = None,
        *,
        is_scheduled: bool = True,
    ) -> None:
        self.task = task
        self.bridge = bridge
        self.is_requested = is_requested
        self.request = request
        self.phase = phase
        self.is_scheduled = is_scheduled
        self._endings: dict[Awaited, tuple[RunIds, int] | None] = {}

    @lazy
    def time(self) -> float:
        """The time of the application, in seconds since the epoch."""
        return float(self.task.session.get_time())

    @lazy
    def condition(self) -> Parsed:
        """The start condition of the task."""
        return self.bridge.conditions.of(self.task)

    @lazy
    def moment(self) -> Moment:
        """The moment at which the condition is looked at."""
        return Moment(self.task, self.bridge.task_states, self.condition.slots, self.time)

    def ending(self, awaited: Awaited) -> tuple[RunIds, int] | None:
        """Return the ids of the newest run of a task that ended as awaited, and when it did."""
        if awaited not in self._endings:
            self._endings[awaited] = self.bridge.latest_runs.ending(awaited)
        return self._endings[awaited]

    @lazy
    def trigger(self) -> dict[str, str]:
        """Why the run begins, as attributes."""
        return trigger_of(self)

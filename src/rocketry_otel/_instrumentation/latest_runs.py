"""The newest beginning and endings of each task, which links may lead to.

In: events that begin or end a run. Out: ids and times, from memory or from the repository.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, TypeVar

from rocketry_otel._model.event import RUN
from rocketry_otel._runtime.scope import NAME
from rocketry_otel._runtime.suppression import suppressed

if TYPE_CHECKING:
    from collections.abc import Callable

    from rocketry_otel._history.run_lookup import RunLookup
    from rocketry_otel._model.event import TaskEvent
    from rocketry_otel._model.ids import RunIds
    from rocketry_otel._model.runs import Run

    from .links import Awaited

_logger = logging.getLogger(NAME)

# Tasks under ever new names must not fill the memory: the repository has all of them.
_LIMIT = 10_000

T = TypeVar("T")


def look_up(look: Callable[..., T | None], *args: Any) -> T | None:
    """Return the result of a lookup in the repository; ``None`` if it cannot be read."""
    try:
        with suppressed():
            return look(*args)
    except Exception:  # the next write meets the same error, and raises it
        _logger.debug("the repository could not be read", exc_info=True)
        return None


class LatestRuns:
    """Remembers the newest beginning and ending of each task, and looks up unknown ones."""

    def __init__(self, run_lookup: RunLookup) -> None:
        self._run_lookup = run_lookup
        # None: an ending that the repository did not have.
        self._known: dict[tuple[str, str], tuple[RunIds, int] | None] = {}

    def remember(self, event: TaskEvent, run: Run) -> None:
        """Remember an event that has begun or ended a run."""
        if len(self._known) >= _LIMIT:
            self._known.clear()
        self._known[event.task_name or "", event.action or ""] = (run.ids, event.created)

    def beginning(self, task_name: str) -> int:
        """Return when a task last began, in nanoseconds since the epoch; 0 if it never did."""
        known = self._known.get((task_name, RUN))
        if known is not None:
            return known[1]
        event = look_up(self._run_lookup.newest, task_name, RUN)
        return 0 if event is None else event.created

    def ending(self, awaited: Awaited) -> tuple[RunIds, int] | None:
        """Return the ids of the newest run of a task that ended as awaited, and when it did."""
        found = [self._ending(awaited.task_name, action) for action in awaited.actions]
        return max((one for one in found if one), key=lambda one: one[1], default=None)

    def _ending(self, task_name: str, action: str) -> tuple[RunIds, int] | None:
        try:
            return self._known[task_name, action]
        except KeyError:
            return look_up(self._look_up_ending, task_name, action)

    def _look_up_ending(self, task_name: str, action: str) -> tuple[RunIds, int] | None:
        event = self._run_lookup.newest(task_name, action)
        ids = None if event is None else self._run_lookup.ids_of(event)
        ending = None if event is None or ids is None else (ids, event.created)
        if (task_name, RUN) not in self._known:
            # Another process may run the task: it is looked up each time.
            return ending
        # One that has come meanwhile, on another thread, is newer.
        return self._known.setdefault((task_name, action), ending)

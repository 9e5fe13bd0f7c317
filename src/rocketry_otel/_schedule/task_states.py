"""What is kept of each task: its last beginning and endings, and its failures in a row.

In: the times of events; at the start those that Rocketry has read, and few queries for tasks that
need more. Out: what conditions depend on. So no condition reads the repository for us.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any

from rocketry_otel._model.event import CRASH, FAIL, INACTION, RUN, SUCCESS, TERMINATE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    # Returns the times of a task's events of some actions, since a time, in seconds.
    ReadTimes = Callable[[str, tuple[str, ...], float], Iterable[float]]

ACTIONS = (RUN, SUCCESS, FAIL, TERMINATE, INACTION, CRASH)
# Endings that end a row of failures.
_NO_FAILURES = (SUCCESS, CRASH, INACTION, TERMINATE)

# Tasks under ever new names must not fill the memory.
_MOST_TASKS = 10_000
MOST_TIMES = 1_000


class TaskState:
    """What is kept of one task; all times are in seconds since the epoch.

    Attributes:
        last: When the task last began and ended, by action.
        failures: How many runs have failed in a row; ``None`` if that is not known.
    """

    __slots__ = ("_times", "failures", "last")

    def __init__(self) -> None:
        """Begin with nothing known."""
        self.last: dict[str, float] = {}
        self.failures: int | None = None
        self._times: dict[tuple[str, ...], deque[float]] = {}

    def add(self, action: str, created: float) -> None:
        """Note an event."""
        self.last[action] = created
        if action == FAIL:
            if self.failures is not None:
                self.failures += 1
        elif action != RUN:
            self.failures = 0
        for actions, times in self._times.items():
            if action in actions:
                times.append(created)

    def latest(self, actions: Iterable[str]) -> float | None:
        """Return when the newest event of these actions was; ``None`` without one."""
        times = [self.last[action] for action in actions if action in self.last]
        return max(times, default=None)

    @property
    def action(self) -> str | None:
        """The action of the newest event."""
        return max(self.last, key=self.last.__getitem__, default=None)

    def count(self, actions: tuple[str, ...], start: float, end: float) -> tuple[float, float]:
        """Return how many events there are in a span, as the least and the most number."""
        kept = self._times.get(actions)
        if kept is not None:
            times = list(kept)
            least = sum(start <= time <= end for time in times)
            is_whole = len(times) < (kept.maxlen or 0) or times[0] < start
            return least, least if is_whole else math.inf
        latest = self.latest(actions)
        if latest is None or latest < start:
            return 0, 0
        return (1 if latest <= end else 0), math.inf

    def watches(self, actions: tuple[str, ...]) -> bool:
        """Return whether the times of these actions are kept."""
        return actions in self._times

    def watch(self, actions: tuple[str, ...], times: Iterable[float], most: int) -> None:
        """Keep the newest times of these actions from now on.

        Args:
            actions: The actions.
            times: Those that are stored, in their order.
            most: How many to keep.
        """
        self._times[actions] = deque(times, maxlen=most)


class TaskStates:
    """The states of all tasks.

    Args:
        read_times: Reads the repository.
    """

    def __init__(self, read_times: ReadTimes) -> None:
        self._read_times = read_times
        self._states: dict[str, TaskState] = {}

    def add(self, task_name: str, action: str, created: float) -> None:
        """Note an event of a task."""
        state = self._states.get(task_name)
        if state is None:
            return  # what Rocketry knows is taken over when it is asked for
        state.add(action, created)

    def of(self, task: Any) -> TaskState:
        """Return the state of a task.

        Args:
            task: Rocketry's task. It has read its last times from the repository at the start.
        """
        name = str(task.name)
        state = self._states.get(name)
        if state is None:
            state = TaskState()
            for action in ACTIONS:
                time = getattr(task, f"_last_{action}", None)
                if time is not None:
                    state.last[action] = float(time)
            self._states[name] = state
            while len(self._states) > _MOST_TASKS:
                del self._states[next(iter(self._states))]
        return state

    def failures_in_row(self, task: Any) -> int:
        """Return how many runs of a task have failed in a row, as Rocketry counts them."""
        state = self.of(task)
        if state.failures is None:
            since = state.latest(_NO_FAILURES) or 0.0
            if state.last.get(FAIL, -math.inf) < since or FAIL not in state.last:
                state.failures = 0
            else:
                state.failures = sum(1 for _ in self._read_times(str(task.name), (FAIL,), since))
        return state.failures

    def watch(self, task: Any, actions: tuple[str, ...], since: float, most: int) -> None:
        """Keep the newest times of a task's events, for a condition that counts them.

        Args:
            task: The task.
            actions: The actions that count.
            since: The earliest time that matters.
            most: The highest number that matters.
        """
        state = self.of(task)
        if not state.watches(actions):
            times = sorted(self._read_times(str(task.name), actions, since))
            state.watch(actions, times, min(max(most + 1, 2), MOST_TIMES))

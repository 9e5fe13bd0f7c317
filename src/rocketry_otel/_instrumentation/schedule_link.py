"""Between the slots of an application's tasks and its telemetry.

In: runs, missed slots and next runs. Out: signals for the pipeline; the runs and the settled slots
by which the reason of a missed slot is found.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING
from weakref import WeakSet

from rocketry_otel._model.durations import NANOSECONDS
from rocketry_otel._runtime.forks import after_fork_in_child
from rocketry_otel._schedule.missed import RunTime

from .latest_runs import look_up
from .launched import Launched

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rocketry_otel._delivery.pipeline import Pipeline
    from rocketry_otel._delivery.settled_slots import Settled
    from rocketry_otel._model.event import TaskEvent
    from rocketry_otel._model.runs import Run
    from rocketry_otel._model.signals import LogSignal
    from rocketry_otel._settings import Settings

    from .open_runs import OpenRuns
    from .schedule_watch import ScheduleWatch

# Ended runs that may be the reason of a slot that was missed.
_MOST_RUN_TIMES = 1_000


class ScheduleLink:
    """Gives runs to the watches of slots, and takes their reports.

    Args:
        settings: Our own settings: which tasks are exported.
        pipeline: Takes the signals.
        open_runs: The open runs.
    """

    def __init__(self, settings: Settings, pipeline: Pipeline, open_runs: OpenRuns) -> None:
        self._settings = settings
        self._pipeline = pipeline
        self._open_runs = open_runs
        self._watches: WeakSet[ScheduleWatch] = WeakSet()
        self._ended: deque[tuple[str, RunTime]] = deque(maxlen=_MOST_RUN_TIMES)
        self._renew_lock()
        after_fork_in_child(self._renew_lock)

    def _renew_lock(self) -> None:
        # It guards `_ended`. No other lock is taken while it is held.
        self._lock = threading.Lock()

    def watch(self, watch: ScheduleWatch) -> None:
        """Show when the next runs of a session's tasks are due."""
        self._watches.add(watch)

    def next_runs(self) -> list[tuple[str, float]]:
        """Return when the next runs are due, by task, in seconds since the epoch."""
        return [
            (name, at)
            for watch in list(self._watches)
            for name, at in watch.next_runs()
            if self._settings.exports(name)
        ]

    def remember(self, run: Run, ended: TaskEvent) -> None:
        """Remember when a run of this process went on."""
        if run.began is not None and isinstance(run.launch, Launched):
            time_of_run = _time_of(run.began, ended.created / NANOSECONDS)
            with self._lock:
                self._ended.append((run.launch.session_key, time_of_run))

    def run_times(self, session_key: str) -> list[RunTime]:
        """Return when the runs of a session went on: those of now, and the newest that ended."""
        # These first: a run that ends meanwhile is found twice rather than never.
        going_on = [
            _time_of(run.began)
            for run in self._open_runs.all()
            if run.began is not None
            and isinstance(run.launch, Launched)
            and run.launch.session_key == session_key
        ]
        with self._lock:
            return [one for key, one in self._ended if key == session_key] + going_on

    def settled_slots(self) -> dict[str, Settled]:
        """Return the settled slots of each task, as an earlier scheduler has left them."""
        return look_up(self._pipeline.worker.settled_slots.all) or {}

    def keep_settled_slots(self, settled: Mapping[str, Settled]) -> None:
        """Keep the settled slots of some tasks for the next start."""
        look_up(self._pipeline.worker.settled_slots.put, settled)

    def report_missed(self, task_name: str, reason: str, scope: str, signal: LogSignal) -> None:
        """Send and count missed slots of a task; it never raises."""
        if self._settings.exports(task_name):
            self._pipeline.send_line(scope, signal, None)
            self._pipeline.measure(lambda metrics: metrics.missed(task_name, reason))


def _time_of(began: TaskEvent, ended: float | None = None) -> RunTime:
    return RunTime(began.task_name or "", began.execution, began.created / NANOSECONDS, ended)

"""The open runs of an application: which there are, which go on, and which are over.

In: events, in the order in which they are logged. Out: what each has done to its run; the runs
that are open, for the hooks and for the metrics.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from rocketry_otel._model.durations import NANOSECONDS
from rocketry_otel._model.event import ENDINGS, nanoseconds
from rocketry_otel._model.origin import is_from, may_have_crashed
from rocketry_otel._model.runs import RunTracker
from rocketry_otel._model.text import safe_text
from rocketry_otel._runtime.forks import after_fork_in_child
from rocketry_otel._runtime.process_name import host_name
from rocketry_otel._telemetry.running import RunningRun

from .latest_runs import look_up
from .launched import Launched
from .progress import progress_board

if TYPE_CHECKING:
    from rocketry_otel._delivery.worker import DeliveryWorker
    from rocketry_otel._history.run_lookup import RunLookup
    from rocketry_otel._model.event import TaskEvent
    from rocketry_otel._model.ids import RunIds
    from rocketry_otel._model.runs import Run, Step


class OpenRuns:
    """Pairs the events of an application, and knows the runs that have not ended.

    Args:
        run_lookup: The runs in the repository.
        worker: Knows the living schedulers, and the runs that were closed without a record.
    """

    def __init__(self, run_lookup: RunLookup, worker: DeliveryWorker) -> None:
        self._worker = worker
        self._tracker = RunTracker(
            keeps_run_id=run_lookup.keeps("run_id"),
            find_run=lambda event: look_up(run_lookup.find_beginning, event),
            has_crashed=lambda ids: bool(look_up(self._has_crash_record, ids)),
            goes_on=lambda run: bool(look_up(self._goes_on, run)),
        )
        self._renew_lock()
        after_fork_in_child(self._renew_lock)

    def _renew_lock(self) -> None:
        # It guards `_tracker`. Only the locks of the repository and of the delivery state are
        # taken while it is held, when the tracker looks up a beginning or a crash record. The
        # handler's lock is held when it is taken.
        self._lock = threading.RLock()
        # In a forked child, these are the parent's runs.
        self._inherited = frozenset(self._tracker.open_runs())

    def _has_crash_record(self, ids: RunIds) -> bool:
        return self._worker.crash_records.has(ids)

    def _goes_on(self, run: Run) -> bool:
        """Return whether a run goes on, here or in another process."""
        if isinstance(run.launch, Launched):
            return run.launch.goes_on
        schedulers = self._worker.schedulers
        began = run.began
        if began is None or is_from(began, host_name(), schedulers.name):
            return False
        return not may_have_crashed(began, host_name(), schedulers.is_alive)

    def observe(
        self, event: TaskEvent, ids: RunIds | None = None, began: TaskEvent | None = None
    ) -> Step:
        """Return what an event has done to its run.

        Args:
            event: The event.
            ids: The ids of its run, if they are known.
            began: The event that began its run, if it is known.
        """
        with self._lock:
            ids = ids or self._ids_of_renamed(event)
            return self._tracker.observe(event, ids, began)

    def _ids_of_renamed(self, event: TaskEvent) -> RunIds | None:
        """Return the ids of an open run whose task has had another name when it began."""
        task_name, run_id = event.task_name, event.run_id
        if run_id is None or task_name is None or event.action not in ENDINGS:
            return None
        if self._tracker.open_run(task_name, run_id) is not None:
            return None
        runs = (run for run in self._tracker.open_runs() if _is_of_renamed(run, task_name, run_id))
        return next((run.ids for run in runs), None)

    def adopt(self, other: OpenRuns) -> None:
        """Go on with the open runs of another repository."""
        with other._lock:
            self._tracker.adopt(other._tracker)

    def all(self) -> list[Run]:
        """Return the open runs, in the order in which they began."""
        with self._lock:
            return self._tracker.open_runs()

    def get(self, task_name: str, run_id: str | None) -> Run | None:
        """Return the open run of a task with this id."""
        with self._lock:
            return self._tracker.open_run(task_name, run_id)

    def running(self) -> list[RunningRun]:
        """Return the runs of this process that go on, with their age and progress."""
        found = []
        for run in self.all():
            began = run.began
            if began is None or run in self._inherited:
                continue
            age = max(nanoseconds(_now_of(run)) - began.created, 0) / NANOSECONDS
            found.append(RunningRun(began.task_name or "", age, progress_board.of(run.ids)))
        return found


def _is_of_renamed(run: Run, task_name: str, run_id: str) -> bool:
    """Return whether a run has this id and began when its task did not have this name yet."""
    launched, began = run.launch, run.began
    if began is None or began.run_id != run_id or not isinstance(launched, Launched):
        return False
    return began.task_name != task_name and safe_text(launched.task.name) == task_name


def _now_of(run: Run) -> float:
    """Return seconds since the epoch, by the clock of the application that has launched a run."""
    try:
        return run.launch.now() if isinstance(run.launch, Launched) else time.time()
    except Exception:  # noqa: BLE001  # a clock of the user's may raise anything
        return time.time()

"""Runs that dead processes have left open: Rocketry logs no ending of most of them.

In: the name of each process that is dead. Out: its open runs, read from the repository, each of
which is closed as a crash.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import TYPE_CHECKING

from rocketry_otel._history.reconstruct import HistoryReader
from rocketry_otel._model.durations import NANOSECONDS
from rocketry_otel._model.event import nanoseconds
from rocketry_otel._model.origin import is_from
from rocketry_otel._runtime.forks import after_fork_in_child
from rocketry_otel._runtime.process_name import host_name
from rocketry_otel._runtime.scope import NAME
from rocketry_otel._runtime.threads import start_thread

from .latest_runs import look_up

if TYPE_CHECKING:
    from collections.abc import Callable

    from rocketry_otel._delivery.worker import DeliveryWorker
    from rocketry_otel._history.run_lookup import RunLookup
    from rocketry_otel._model.event import TaskEvent
    from rocketry_otel._model.ids import RunIds

    from .open_runs import OpenRuns

    Close = Callable[[TaskEvent, RunIds, float], None]

_logger = logging.getLogger(NAME)

# The record of a child process may come later than it was created, in nanoseconds.
MARGIN = 60_000_000_000
_SECONDS_FOR_COMMITS = 1.0


class LeftRuns:
    """Closes the open runs of dead processes, and shows that this process is alive.

    Args:
        open_runs: The open runs of this process.
        run_lookup: The runs in the repository.
        worker: Knows the living and the dead schedulers.
        longest: How far back a run may have begun whose process left no time, in seconds.
        close: Closes a run as a crash at a time, in seconds since the epoch.
    """

    def __init__(
        self,
        open_runs: OpenRuns,
        run_lookup: RunLookup,
        worker: DeliveryWorker,
        longest: float,
        close: Close,
    ) -> None:
        self._open_runs = open_runs
        self._run_lookup = run_lookup
        self._worker = worker
        self._longest = longest
        self._close = close
        # Else no record shows which process has launched a run.
        self._keeps_origin = run_lookup.adds("attributes")
        self._start_in_child()
        after_fork_in_child(self._start_in_child)

    def _start_in_child(self) -> None:
        self._is_closing = False

    def look_after(self, now: Callable[[], float]) -> None:
        """Note the time of the oldest open run, and close the runs of dead processes.

        It raises nothing, and takes milliseconds: a thread reads the repository if need be.

        Args:
            now: Returns the time of the application, in seconds since the epoch.
        """
        if self._keeps_origin:
            look_up(self._look_after, now)

    def _look_after(self, now: Callable[[], float]) -> None:
        schedulers = self._worker.schedulers
        times = [run.began.created for run in self._open_runs.all() if run.began is not None]
        schedulers.note(min([*times, nanoseconds(now())]) - MARGIN)
        if not self._is_closing and schedulers.has_dead():
            self._is_closing = True
            if start_thread(partial(self._close_all, now), "runs") is None:
                self._is_closing = False

    def _close_all(self, now: Callable[[], float]) -> None:
        try:
            # The database may still be committing the last record of a process that has died.
            time.sleep(_SECONDS_FOR_COMMITS)
            with self._worker.schedulers.of_dead() as dead:
                for name, since in dead:
                    self._close_runs_of(name, since, now)
        except Exception:  # the repository may be away: the next look finds them again
            _logger.debug("runs of dead processes could not be closed", exc_info=True)
        finally:
            self._is_closing = False

    def _close_runs_of(self, name: str, since: int, now: Callable[[], float]) -> None:
        if since <= 0:  # a loss of power has taken it
            since = nanoseconds(now()) - int(self._longest * NANOSECONDS)
        crashes = self._worker.crash_records
        reader = HistoryReader(self._run_lookup.repo, self._run_lookup, since, crashes=crashes)
        for _ in reader:
            pass
        for run in reader.open_runs():
            if run.began is not None and is_from(run.began, host_name(), name):
                self._close(run.began, run.ids, now())

    def leave(self) -> None:
        """Show no other process that this one has open runs, if it has none; it never raises."""
        if self._keeps_origin:
            look_up(self._leave)

    def _leave(self) -> None:
        if not self._open_runs.all():
            self._worker.schedulers.leave()

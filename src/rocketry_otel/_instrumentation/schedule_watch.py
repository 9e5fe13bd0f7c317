"""Watches the slots of an application's tasks: which run was late, and which never began.

In: launches, the looks of the scheduler, and the time. Out: attributes of runs, log records and
metrics. A blocked scheduler looks at nothing. So a thread of ours sleeps until the next slot has
ended. It reads names, times and flags of Rocketry, and calls nothing of it but the clock.
"""

from __future__ import annotations

import logging
import threading
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

from rocketry_otel._delivery.settled_slots import Settled
from rocketry_otel._model.event import RUN
from rocketry_otel._model.missed import (
    MISSED_BLOCKED_BY,
    MISSED_REASON,
    SCHEDULE_DELAY,
    SCHEDULE_MISSED,
    SCHEDULE_TIME,
    missed_signal,
    utc_text,
)
from rocketry_otel._runtime.by_identity import ByIdentity
from rocketry_otel._runtime.forks import after_fork_in_child
from rocketry_otel._runtime.scope import NAME
from rocketry_otel._runtime.threads import start_thread
from rocketry_otel._schedule.due import Times, due_of, newest_of
from rocketry_otel._schedule.missed import SCHEDULER_DOWN, Why, reason_of
from rocketry_otel._schedule.plan import GRACE, alternatives_of
from rocketry_otel._schedule.task_slots import TaskSlots

from .links import Awaited

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rocketry_otel._schedule.conditions import After, Conditions, Node
    from rocketry_otel._schedule.missed import RunTime
    from rocketry_otel._schedule.slots import Slot

    from .bridge import Bridge
    from .launching import Launching

_logger = logging.getLogger(NAME)

# In seconds. The clock of the machine may be set meanwhile.
_LONGEST_SLEEP = 60.0
# A clock of the application's may run at any speed.
_LONGEST_SLEEP_WITH_OWN_CLOCK = 0.25
_SECONDS_AFTER_AN_ERROR = 1.0
# A disk may need milliseconds for it.
_SECONDS_BETWEEN_STORES = 60.0
_SCOPE = f"{NAME}.events"


class _Watched:
    """What is known of a task.

    Attributes:
        tree: The tree of its start condition; another one begins afresh.
        slots: Its slots.
        ready: When it was made, or last seen disabled or on hold: a delay counts from then.
        idle: When it was last seen disabled or on hold; it misses no slot that began before.
        missed: How many slots it has missed since its last run.
        why: Why it has missed the newest of them.
        is_changed: Whether its settled slots have changed since they were stored.
    """

    def __init__(self, tree: Node, slots: TaskSlots, ready: float) -> None:
        self.tree = tree
        self.slots = slots
        self.ready = ready
        self.idle = float("-inf")
        self.missed = 0
        self.why: Why | None = None
        self.is_changed = False

    def settled(self, now: float) -> Settled:
        """Return its settled slots, to be stored."""
        reason, blocked_by = (None, None) if self.why is None else self.why
        return Settled(now - GRACE, self.missed, reason, blocked_by)


class _Found:
    """Slots that were missed, to be reported."""

    def __init__(self, name: str, slot: Slot, why: Why, number: int = 1) -> None:
        self.name, self.slot, self.why, self.number = name, slot, why, number


class ScheduleWatch:
    """Watches the tasks of one session while its scheduler runs.

    Args:
        session: The session.
        find_bridge: Returns the bridge of the session at the moment.
        session_key: The key of the session in its launches.
        conditions: The start conditions of its tasks.
    """

    def __init__(
        self,
        session: Any,
        find_bridge: Callable[[], Bridge | None],
        session_key: str,
        conditions: Conditions,
    ) -> None:
        self._session = ref(session)
        self._find_bridge = find_bridge
        self._session_key = session_key
        self._conditions = conditions
        self._watched = ByIdentity[_Watched]()
        self._started: float | None = None
        self._generation = 0
        self._wakes_at = float("inf")
        self._stored_at = float("-inf")
        self._before: dict[str, Settled] = {}
        self._gone: list[_Found] = []
        self._renew_lock()
        after_fork_in_child(self._renew_lock)
        _watches[session] = self

    def _renew_lock(self) -> None:
        # It guards all else. The locks of the tracker are taken while it is held; nothing is sent
        # meanwhile. A forked child has no thread, and watches nothing.
        self._changed = threading.Condition(threading.RLock())
        self._started = None

    def start(self) -> None:
        """Begin to watch, before the scheduler launches anything."""
        session = self._session()
        if session is None:
            return
        with self._changed:
            self._started = session.get_time()
            self._watched.clear()
            self._generation += 1
            bridge = self._find_bridge()
            self._before = {} if bridge is None else bridge.schedule.settled_slots()

    def follow(self) -> None:
        """Look at all tasks, and start the thread, when the scheduler has started."""
        self.look()
        generation = self._generation
        start_thread(lambda: self._watch(generation), "schedule")

    def stop(self) -> None:
        """End the thread: the scheduler ends."""
        with self._changed:
            session, is_running = self._session(), self._started is not None
            self._started = None
            self._generation += 1
            self._changed.notify_all()
        if session is not None and is_running:
            self._store(session.get_time(), is_all=True)

    def look(self) -> None:
        """Notice new tasks, and tasks that are disabled or on hold; the scheduler calls it.

        This is not part of each cycle: it takes a microsecond for each task.
        """
        session = self._session()
        if session is None or self._started is None:
            return
        now = session.get_time()
        with self._changed:
            self._look(session, now)
            if now >= self._wakes_at:
                self._changed.notify_all()

    def _look(self, session: Any, now: float) -> None:
        is_on_hold = session.scheduler.on_hold
        for task in list(session.tasks):
            watched = self._of(task, now)
            if is_on_hold or task.disabled:
                watched.ready = watched.idle = now

    def _of(self, task: Any, now: float) -> _Watched:
        """Return what is known of a task; a new one is ready from now on."""
        _, tree, period_slots, _ = self._conditions.of(task)
        watched = self._watched.get(task)
        if watched is None or watched.tree is not tree:
            alternatives = alternatives_of(tree, period_slots)
            slots = TaskSlots(alternatives, now, _last(task, RUN))
            is_new = watched is None
            watched = self._watched[task] = _Watched(tree, slots, now)
            if slots and is_new:
                self._look_back(task, watched)
        return watched

    def _look_back(self, task: Any, watched: _Watched) -> None:
        """Find the slots that went by before the scheduler started."""
        last_run, before = _last(task, RUN), self._before.pop(str(task.name), None)
        if last_run is None or self._started is None:
            return
        until = last_run if before is None else before.until
        if before is not None and before.reason is not None and last_run <= before.until:
            watched.missed = before.missed
            watched.why = Why(before.reason, before.blocked_by)
        gone = None
        if not task.disabled:
            gone = watched.slots.gone(last_run, until, self._started)
        if gone is not None:
            watched.missed += gone.number
            watched.why = Why(SCHEDULER_DOWN)
            found = _Found(str(task.name), gone.first, watched.why, gone.number)
            self._gone.append(found)
        watched.is_changed = True

    def attributes_of(self, launching: Launching) -> dict[str, object]:
        """Return the attributes of a run that is being launched."""
        task, now = launching.task, launching.time
        with self._changed:
            if self._started is None:
                return {}
            watched = self._of(task, now)
            found = self._taken_gone()
            found += self._judged(task, watched, watched.slots.serve(now))
            missed, why = watched.missed, watched.why
            watched.missed, watched.why, watched.is_changed = 0, None, True
        self._report(found, now)
        attributes: dict[str, object] = {}
        if not launching.is_requested:
            attributes |= self._delay(launching, watched, now)
        if why is not None:
            attributes |= {SCHEDULE_MISSED: missed, MISSED_REASON: why.reason}
            if why.blocked_by is not None:
                attributes[MISSED_BLOCKED_BY] = why.blocked_by
        return attributes

    @staticmethod
    def _delay(launching: Launching, watched: _Watched, now: float) -> dict[str, object]:
        task = launching.task

        def ending(after: After) -> float | None:
            found = launching.ending(Awaited(after.other, after.actions))
            return None if found is None else found[1] / 1e9

        times = Times(now, partial(_last, task), ending)
        due = due_of(watched.slots.alternatives, times)
        attributes: dict[str, object] = {}
        if due.slot is not None:
            attributes[SCHEDULE_TIME] = utc_text(due.slot)
        if due.since is not None:
            since = max(due.since, watched.ready)
            attributes[SCHEDULE_DELAY] = round(max(now - since, 0.0), 6)
        return attributes

    def _watch(self, generation: int) -> None:
        """Find missed slots until the scheduler ends: the work of the thread."""
        while True:
            session = self._session()
            with self._changed:
                if session is None or self._generation != generation:
                    return
                try:
                    found, now = self._settle(session)
                    pause = self._pause(session, now)
                except Exception:  # a clock of the application's may raise
                    _logger.debug("missed runs could not be found", exc_info=True)
                    found, now, pause = [], 0.0, _SECONDS_AFTER_AN_ERROR
            del session
            self._report(found, now)
            self._store(now)
            with self._changed:
                if self._generation == generation:
                    self._changed.wait(pause)

    def _settle(self, session: Any) -> tuple[list[_Found], float]:
        now = session.get_time()
        self._look(session, now)
        found = self._taken_gone()
        for task, watched in self._of_session(session):
            found += self._judged(task, watched, watched.slots.settle(now))
            watched.slots.prepare()
        return found, now

    def _taken_gone(self) -> list[_Found]:
        found, self._gone = self._gone, []
        return found

    def _store(self, now: float, *, is_all: bool = False) -> None:
        """Store up to when slots are settled: at once if one was missed, else now and then."""
        bridge, session = self._find_bridge(), self._session()
        if bridge is None or session is None:
            return
        with self._changed:
            is_due = is_all or now - self._stored_at >= _SECONDS_BETWEEN_STORES
            settled = {
                str(task.name): watched.settled(now)
                for task, watched in self._of_session(session)
                if watched.slots and (is_due or watched.is_changed)
            }
            for _, watched in self._of_session(session):
                watched.is_changed = False
            if is_due:
                self._stored_at = now
        bridge.schedule.keep_settled_slots(settled)

    def _of_session(self, session: Any) -> Iterable[tuple[Any, _Watched]]:
        tasks = session.tasks
        return [pair for pair in self._watched.items() if pair[0] in tasks]

    def _pause(self, session: Any, now: float) -> float:
        ends = [watched.slots.next_end for _, watched in self._of_session(session)]
        self._wakes_at = min((end for end in ends if end is not None), default=float("inf")) + GRACE
        has_clock = session.config.time_func is not None
        longest = _LONGEST_SLEEP_WITH_OWN_CLOCK if has_clock else _LONGEST_SLEEP
        return min(max(self._wakes_at - now, 0.001), longest)

    def _judged(self, task: Any, watched: _Watched, slots: list[Slot]) -> list[_Found]:
        """Return the slots that a task has missed, of those that went by without a run."""
        if not slots or _last(task, RUN) is None:
            return []  # none went by, or all before its first run ever
        slots = [one for one in slots if not task.disabled and watched.idle < one.begin]
        if not slots:
            return []
        begin, end = min(one.begin for one in slots), max(one.end for one in slots)
        # A computer that slept leaves a thousand slots. Few of the thousand kept runs overlap them.
        runs = [run for run in self._run_times() if run.seconds_in(begin, end) > 0]
        is_process = task.get_execution() == "process"
        most = task.session.config.max_process_count if is_process else None
        found = []
        for slot in slots:
            why = reason_of(slot, str(task.name), runs, most)
            watched.missed += 1
            watched.why = why
            watched.is_changed = True
            found.append(_Found(str(task.name), slot, why))
        return found

    def _run_times(self) -> list[RunTime]:
        bridge = self._find_bridge()
        return [] if bridge is None else bridge.schedule.run_times(self._session_key)

    def _report(self, found: list[_Found], now: float) -> None:
        """Send missed slots; it never raises."""
        bridge = self._find_bridge()
        if bridge is None:
            return
        for one in found:
            reason, blocked_by = one.why
            signal = missed_signal(one.name, one.slot.begin, now, reason, blocked_by, one.number)
            bridge.schedule.report_missed(one.name, reason, _SCOPE, signal)

    def next_runs(self) -> list[tuple[str, float]]:
        """Return when the next run of each task is due, in seconds since the epoch."""
        session = self._session()
        if session is None or self._started is None:
            return []
        found = []
        with self._changed:
            for task, watched in self._of_session(session):
                if task.disabled:
                    continue
                at = watched.slots.next_run(partial(newest_of, partial(_last, task)))
                if at is not None:
                    found.append((str(task.name), at))
        return found


def _last(task: Any, action: str) -> float | None:
    """Return when a task last did an action, as Rocketry remembers it."""
    at = getattr(task, f"_last_{action}", None)
    return None if at is None else float(at)


_watches: WeakKeyDictionary[Any, ScheduleWatch] = WeakKeyDictionary()


def schedule_attributes(launching: Launching) -> dict[str, object]:
    """Return slot, delay and missed slots of a run that is being launched."""
    watch = _watches.get(launching.task.session)
    return {} if watch is None else watch.attributes_of(launching)

"""How long a task is due and not launched, and by which of the scheduler's checks.

In: each look of the scheduler at a task, whose result stays as it is. Out: seconds by reason, at
the launch and when metrics are collected. A look costs a comparison: the conditions of Rocketry are
not evaluated for it.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary, ref

from rocketry_otel._runtime.by_identity import ByIdentity
from rocketry_otel._runtime.forks import after_fork_in_child
from rocketry_otel._runtime.scope import NAME
from rocketry_otel._schedule.conditions import Constant, Happened, Node, Once
from rocketry_otel._schedule.since import timed_verdict
from rocketry_otel._schedule.spans import Spans, seconds_in
from rocketry_otel._schedule.verdicts import Moment

if TYPE_CHECKING:
    from collections.abc import Callable

    from .bridge import Bridge

_logger = logging.getLogger(NAME)

LIMIT, RUNNING, BLOCKED, ON_HOLD = "limit", "running", "blocked", "on_hold"

# A body of a main-mode task that takes less time blocks nothing that matters.
_SHORTEST_BLOCK = 0.05
_CHECKS = ("is_task_runnable", "check_task_cond", "has_free_processors")


class _Wait(Spans):
    """The spans in which one task was held back, and until when their seconds are added."""

    settled = 0.0


class Waiting:
    """The time that the tasks of one session wait.

    Args:
        session: The session.
        bridge: Returns its bridge, if it still has one.
    """

    def __init__(self, session: Any, bridge: Callable[[], Bridge | None]) -> None:
        self._session = ref(session)
        self._bridge = bridge
        self._blocks, self._holds = Spans(_SHORTEST_BLOCK), Spans()
        self._waits = ByIdentity[_Wait]()
        self._launching: Any = None
        self._has_asked = self._has_room = True
        self._began = float(session.get_time())
        self._renew_lock()
        after_fork_in_child(self._renew_lock)
        self._wrap(session.scheduler)

    def _renew_lock(self) -> None:
        # It guards the spans and the sums. No other lock is taken while it is held.
        self._lock = threading.Lock()

    def _wrap(self, scheduler: Any) -> None:
        is_task_runnable, check_task_cond, has_free_processors = (
            getattr(scheduler, name) for name in _CHECKS
        )

        def looked(task: Any, *args: Any, **kwargs: Any) -> Any:
            if self._blocks.reason is not None:
                self._change(self._blocks, None)
            self._has_asked, self._has_room = False, True
            result = is_task_runnable(task, *args, **kwargs)
            if result:
                self._launch(task)
            else:
                reason = None if self._has_asked else (RUNNING if self._has_room else LIMIT)
                wait = self._waits.get(task)
                if reason is not (None if wait is None else wait.reason):
                    self._hold(task, reason)
            return result

        def asked(*args: Any, **kwargs: Any) -> Any:
            self._has_asked = True
            return check_task_cond(*args, **kwargs)

        def counted(*args: Any, **kwargs: Any) -> Any:
            self._has_room = result = has_free_processors(*args, **kwargs)
            return result

        wrapped = dict(zip(_CHECKS, (looked, asked, counted), strict=True))
        vars(scheduler).update(wrapped)
        # Each wrapper holds the scheduler, and that the session: the scheduler alone keeps them.
        self._wrapped = WeakValueDictionary[str, Any](wrapped)

    def remove(self) -> None:
        """Take the wrappers away again, where no other code has wrapped them meanwhile."""
        session = self._session()
        if session is not None:
            its = vars(session.scheduler)
            for name, wrapper in self._wrapped.items():
                if its.get(name) is wrapper:
                    del its[name]

    def begin(self) -> None:
        """Note the start of the scheduler: what came before is no time of waiting."""
        self._began = self._now()

    def cycle(self) -> None:
        """Note a change of the scheduler's hold, and that its loop goes on."""
        session = self._session()
        if session is None:
            return
        if self._blocks.reason is not None:
            self._change(self._blocks, None)
        reason = ON_HOLD if session.scheduler.on_hold else None
        if reason is not self._holds.reason:
            self._change(self._holds, reason)

    def is_launching(self, task: Any) -> bool:
        """Return whether the scheduler itself launches a task now."""
        is_it, self._launching = self._launching is task, None
        return is_it

    def _now(self) -> float:
        session = self._session()
        return self._began if session is None else float(session.get_time())

    def _change(self, spans: Spans, reason: str | None) -> None:
        """Begin or end a span; it never raises."""
        try:
            now = self._now()
            with self._lock:
                spans.change(reason, now)
        except Exception:  # a clock of the application's may raise
            _logger.debug("the time of waiting is not known", exc_info=True)

    def _hold(self, task: Any, reason: str | None) -> None:
        """Begin or end a span of one task; it never raises."""
        try:
            wait = self._wait_of(task)
        except Exception:  # a class of the application's may refuse to be observed
            _logger.debug("the time of waiting is not known", exc_info=True)
        else:
            self._change(wait, reason)

    def _wait_of(self, task: Any) -> _Wait:
        wait = self._waits.get(task)
        if wait is None:
            wait = self._waits[task] = _Wait()
        return wait

    def _launch(self, task: Any) -> None:
        self._launching = task
        try:
            now = self._now()
            if not task.batches:
                self._settle(task, now)
            with self._lock:
                wait = self._wait_of(task)
                wait.clear()
                wait.settled = now
                if task.get_execution() == "main":
                    self._blocks.change(BLOCKED, now)
        except Exception:  # telemetry never hurts the task
            _logger.debug("the time of waiting is not known", exc_info=True)

    def settle(self) -> None:
        """Add the seconds of the tasks that wait now; any thread may call it."""
        session, now = self._session(), self._now()
        if session is None:
            return
        is_held = self._blocks.reason is not None or self._holds.reason is not None
        for task in list(session.tasks):
            wait = self._waits.get(task)
            if is_held or (wait is not None and wait.reason is not None):
                self._settle(task, now)

    def _settle(self, task: Any, now: float) -> None:
        """Add the seconds that a task has waited since it was due, or since the last time."""
        wait = self._wait_of(task)
        since = max(wait.settled, self._began)
        with self._lock:
            ranks = [spans.between(since, now) for spans in (self._blocks, self._holds, wait)]
        if not any(ranks):
            return
        bridge = self._bridge()
        if bridge is None or task.disabled:
            return
        _, tree, slots, _ = bridge.conditions.of(task)
        if tree.holds_user_code:
            return
        moment = Moment(task, bridge.task_states, slots, now)
        found = timed_verdict(tree, moment)
        if found.verdict is not True or (found.since is None and not _is_due_at_once(tree)):
            return
        due = since if found.since is None else max(found.since, since)
        with self._lock:
            wait.settled = now
            for reason, seconds in seconds_in(due, now, ranks).items():
                bridge.pipeline.waiting.add(str(task.name), reason, seconds)


def _is_due_at_once(tree: Node) -> bool:
    """Return whether a task is due since its last start, or since that of the scheduler.

    So is a task with an interval that has never run. Other conditions without a time, such as a
    number of cycles, may have become true at any moment.
    """
    return all(isinstance(leaf, Constant | Happened | Once) for leaf in tree.leaves())

"""Whether a start condition is true at a moment, as far as that is known without user code.

In: the tree of a condition, and a moment. Out: true, false, or unknown. Nothing reads the
repository here, and no code of the user's is called.
"""

from __future__ import annotations

import logging
import math
import operator
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

from rocketry_otel._model.event import FAIL, RUN
from rocketry_otel._runtime.lazy import lazy
from rocketry_otel._runtime.scope import NAME

from . import periods
from .conditions import (
    After,
    AllOf,
    AnyOf,
    Constant,
    During,
    Happened,
    Node,
    Not,
    Once,
    Retry,
    Running,
    SchedulerCycles,
    SchedulerRunning,
)
from .task_states import MOST_TIMES

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Iterable

    from .conditions import Comparisons
    from .slots import PeriodSlots
    from .task_states import TaskState, TaskStates

_logger = logging.getLogger(NAME)

_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "__eq__": operator.eq,
    "__ne__": operator.ne,
    "__lt__": operator.lt,
    "__gt__": operator.gt,
    "__le__": operator.le,
    "__ge__": operator.ge,
}


class Moment:
    """A time at which the condition of a task is looked at.

    Args:
        task: The task.
        states: What is kept of all tasks.
        slots: The slots of the periods of its condition.
        time: Seconds since the epoch; the application's time now without it.
    """

    def __init__(
        self, task: Any, states: TaskStates, slots: PeriodSlots, time: float | None = None
    ) -> None:
        self.task = task
        self.session = task.session
        self.states = states
        self._slots = slots
        self.time = float(self.session.get_time()) if time is None else time

    @lazy
    def now(self) -> dt.datetime:
        """The time as Rocketry's periods take it."""
        made: dt.datetime = self.session._format_timestamp(self.time)  # noqa: SLF001  # no public way
        return made

    @lazy
    def _wall(self) -> dt.datetime:
        return self.now.replace(tzinfo=None, fold=0)

    def task_of(self, name: str | None) -> Any:
        """Return a task by its name; without a name that of the moment.

        Raises:
            LookupError: There is no such task.
        """
        return self.task if name is None else self.session[name]

    def state(self, name: str | None) -> TaskState:
        """Return the state of a task."""
        return self.states.of(self.task_of(name))

    def is_in(self, period: Any) -> bool:
        """Return whether it is in a period, as Rocketry finds it."""
        slots = self._slots.of(period)
        is_in = slots.covers(self._wall)
        if is_in is None:
            is_in = self.now in period
            if is_in:
                slots.at(self._wall)  # it is known from now on
        return is_in

    def span(self, period: Any) -> tuple[float, float]:
        """Return the span of a period, in seconds since the epoch."""
        if period is None:
            return -math.inf, math.inf
        slot = None if periods.is_delta(period) else self._slots.of(period).known_at(self._wall)
        if slot is not None and slot.left < self._wall:
            # At its edge, Rocketry finds the one before.
            return slot.left.replace(tzinfo=self.now.tzinfo).timestamp(), self.now.timestamp()
        start, end = periods.span_of(period, self.now)
        return start.timestamp(), end.timestamp()


def evaluate(node: Node, moment: Moment) -> bool | None:
    """Return whether a condition is true; ``None`` if only code of the user's decides."""
    if isinstance(node, AllOf | AnyOf):
        decisive = isinstance(node, AnyOf)
        is_known = True
        for part in node.parts:
            value = evaluate(part, moment)
            if value is decisive:
                return decisive
            is_known = is_known and value is not None
        return not decisive if is_known else None
    if isinstance(node, Not):
        value = evaluate(node.part, moment)
        return None if value is None else not value
    judge = _JUDGES.get(type(node))
    if judge is None:
        return None
    try:
        return judge(node, moment)
    except Exception:  # Rocketry fails there as well, such as at a task that does not exist
        _logger.debug("a condition could not be looked at", exc_info=True)
        return None


def _once(node: Once, moment: Moment) -> bool | None:
    if not periods.is_delta(node.period) and not moment.is_in(node.period):
        return False
    span, state = moment.span(node.period), moment.state(node.task)
    verdicts = [
        compare(
            (("__le__", node.failures if action == FAIL else 0),), *state.count((action,), *span)
        )
        for action in node.done
    ]
    return False if False in verdicts else (None if None in verdicts else True)


def _happened(node: Happened, moment: Moment) -> bool | None:
    counts = moment.state(node.task).count(node.actions, *moment.span(node.period))
    return compare(node.comparisons, *counts)


def _after(node: After, moment: Moment) -> bool:
    ended = moment.state(node.other).latest(node.actions)
    began = moment.state(node.task).last.get(RUN)
    return ended is not None and (began is None or ended > began)


def _retry(node: Retry, moment: Moment) -> bool:
    if node.limit == 0 or status_of(moment) != FAIL:
        return False
    return node.limit == -1 or node.limit >= moment.states.failures_in_row(moment.task)


def status_of(moment: Moment) -> str | None:
    """Return the last action of the task, without a look at the repository."""
    if moment.session.config.force_status_from_logs:
        return moment.state(None).action
    status: str | None = moment.task.status
    return status


def _running(node: Running, moment: Moment) -> bool | None:
    start, end = moment.span(node.period)
    count = sum(start <= run.start <= end for run in alive_runs(moment.task_of(node.task)))
    return compare(node.comparisons, count, count)


def alive_runs(task: Any) -> list[Any]:
    """Return the runs of a task that something works on; any thread may ask."""
    return [run for run in list(task._run_stack) if _is_alive(run.task)]  # noqa: SLF001  # no public way


def _is_alive(worker: Any) -> bool:
    if worker is None:
        return True
    if hasattr(worker, "done"):
        return not worker.done()
    if hasattr(worker, "exitcode"):
        # `is_alive()` of a process belongs to the scheduler's thread: it takes the exit code.
        try:
            return not wait([worker.sentinel], 0)
        except ValueError:  # it is about to start
            return False
    return bool(worker.is_alive())


def _scheduler_running(node: SchedulerRunning, moment: Moment) -> bool:
    start, end = moment.span(node.period)
    return bool(start <= moment.session.scheduler.startup_time.timestamp() <= end)


def _scheduler_cycles(node: SchedulerCycles, moment: Moment) -> bool | None:
    cycles = moment.session.scheduler.n_cycles
    return compare(node.comparisons, cycles, cycles)


def compare(comparisons: Comparisons, least: float, most: float) -> bool | None:
    """Return whether a count is as it is compared; ``None`` if that depends on the exact count.

    Args:
        comparisons: The comparisons; without any the count has to be above zero.
        least: The least number that the count may be.
        most: The most number that it may be.
    """
    comparisons = comparisons or (("__gt__", 0),)
    numbers = {least, most}
    for _, limit in comparisons:
        numbers |= {near for near in (limit - 1, limit, limit + 1) if least <= near <= most}
    found = {
        all(_OPERATORS[name](number, limit) for name, limit in comparisons) for number in numbers
    }
    return found.pop() if len(found) == 1 else None


_JUDGES: dict[type[Node], Callable[[Any, Moment], bool | None]] = {
    Constant: lambda node, _: node.value,
    Once: _once,
    During: lambda node, moment: moment.is_in(node.period),
    Happened: _happened,
    After: _after,
    Retry: _retry,
    Running: _running,
    SchedulerRunning: _scheduler_running,
    SchedulerCycles: _scheduler_cycles,
}


def prepare(nodes: Iterable[Node], moment: Moment) -> None:
    """Read once from the repository what a condition depends on, beyond the last times."""
    for node in nodes:
        try:
            _prepare(node, moment)
        except Exception:  # noqa: PERF203  # the repository may be away, and a task may not exist
            _logger.debug("the history of a task is not known", exc_info=True)


def _prepare(node: Node, moment: Moment) -> None:
    if isinstance(node, Retry):
        moment.states.failures_in_row(moment.task)
    elif isinstance(node, Once) and node.failures:
        _watch(node.task, (FAIL,), node.period, node.failures, moment)
    elif isinstance(node, Happened) and node.interval is None:
        most = max((limit for _, limit in node.comparisons), default=0)
        if not _goes_on(node.period):
            # Newer events than those in the span may follow.
            most = MOST_TIMES
        if most > 0:
            _watch(node.task, node.actions, node.period, most, moment)


def _goes_on(period: Any) -> bool:
    """Return whether a period always reaches until now, so that the last event decides."""
    if period is None or periods.length_of(period) is not None:
        return True
    return periods.class_name(period) in periods.ANCHORED and bool(period.is_full())


def _watch(
    name: str | None, actions: tuple[str, ...], period: Any, most: int, moment: Moment
) -> None:
    since, _ = moment.span(period)
    moment.states.watch(moment.task_of(name), actions, max(since, 0.0), most)

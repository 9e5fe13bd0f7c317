"""Since when a start condition, or a part of it, is as it is.

In: a condition and a moment. Out: a time in seconds since the epoch, where it is known.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

from rocketry_otel._model.event import FAIL, RUN
from rocketry_otel._runtime.scope import NAME

from . import periods
from .conditions import (
    After,
    AllOf,
    AnyOf,
    During,
    Happened,
    Not,
    Once,
    Retry,
    Running,
    SchedulerRunning,
)
from .task_states import ACTIONS
from .verdicts import alive_runs, evaluate

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conditions import Node
    from .verdicts import Moment

_logger = logging.getLogger(NAME)

_ENDINGS = tuple(action for action in ACTIONS if action != RUN)


class TimedVerdict(NamedTuple):
    """The verdict of a condition, and since when it has it.

    Attributes:
        verdict: Whether it is true; ``None`` if only code of the user's decides.
        since: Seconds since the epoch; ``None`` if that is not known.
        parts: The same of its parts, in their order; none for a leaf.
    """

    verdict: bool | None
    since: float | None
    parts: tuple[TimedVerdict, ...]


def timed_verdict(node: Node, moment: Moment) -> TimedVerdict:
    """Return the verdict of a condition at a moment, and since when it has it."""
    verdict = evaluate(node, moment)
    parts = tuple(timed_verdict(part, moment) for part in node.parts)
    if verdict is None:
        time = None
    elif isinstance(node, AllOf | AnyOf | Not):
        time = _since_of_parts(node, parts, value=verdict)
    else:
        time = since(node, moment, value=verdict)
    return TimedVerdict(verdict, time, parts)


def _since_of_parts(node: Node, parts: tuple[TimedVerdict, ...], *, value: bool) -> float | None:
    """Return since when a composed condition has its verdict.

    An ``&`` is true since its last part is, and false since the first of its false parts is.
    """
    decisive = [part for part in parts if part.verdict is value or isinstance(node, Not)]
    times = [part.since for part in decisive if part.since is not None]
    if not times or len(times) < len(decisive):
        return None
    has_all = isinstance(node, AllOf) is value
    return max(times) if has_all else min(times)


def since(leaf: Node, moment: Moment, *, value: bool) -> float | None:
    """Return since when a leaf has its verdict; ``None`` if that is not known.

    Args:
        leaf: The leaf.
        moment: The moment at which it has the verdict.
        value: The verdict.
    """
    find = _FINDERS.get(type(leaf))
    try:
        found = None if find is None else find(leaf, moment, value)
    except Exception:  # a period of the user's may raise anything
        _logger.debug("the time of a verdict is not known", exc_info=True)
        return None
    return None if found is None or found > moment.time else found


def _of_period(period: Any, moment: Moment, value: bool) -> float | None:  # noqa: FBT001
    start, end = moment.span(period)
    return start if value else end


def _during(leaf: During, moment: Moment, value: bool) -> float | None:  # noqa: FBT001
    return _of_period(leaf.period, moment, value)


def _once(leaf: Once, moment: Moment, value: bool) -> float | None:  # noqa: FBT001
    latest = moment.state(leaf.task).latest(leaf.done)
    length = periods.length_of(leaf.period)
    if length is not None:
        return latest if latest is None or not value else latest + length
    if value:
        return moment.span(leaf.period)[0]
    return latest if moment.is_in(leaf.period) else moment.span(leaf.period)[1]


def _happened(leaf: Happened, moment: Moment, value: bool) -> float | None:  # noqa: FBT001
    latest = moment.state(leaf.task).latest(leaf.actions)
    if latest is not None and leaf.interval is not None and value:
        return latest + leaf.interval
    return latest


def _after(leaf: After, moment: Moment, value: bool) -> float | None:  # noqa: FBT001
    if value:
        return moment.state(leaf.other).latest(leaf.actions)
    return moment.state(leaf.task).last.get(RUN)


def _retry(_leaf: Retry, moment: Moment, value: bool) -> float | None:  # noqa: FBT001
    state = moment.state(None)
    return state.last.get(FAIL) if value else state.latest(ACTIONS)


def _running(leaf: Running, moment: Moment, _value: bool) -> float | None:  # noqa: FBT001
    task = moment.task_of(leaf.task)
    runs = alive_runs(task)
    return min(run.start for run in runs) if runs else moment.states.of(task).latest(_ENDINGS)


def _scheduler(leaf: SchedulerRunning, moment: Moment, value: bool) -> float | None:  # noqa: FBT001
    began: float = moment.session.scheduler.startup_time.timestamp()
    near = getattr(leaf.period, "near", None)
    return began + near.total_seconds() if value and near is not None else began


_FINDERS: dict[type[Node], Callable[[Any, Moment, bool], float | None]] = {
    During: _during,
    Once: _once,
    Happened: _happened,
    After: _after,
    Retry: _retry,
    Running: _running,
    SchedulerRunning: _scheduler,
}

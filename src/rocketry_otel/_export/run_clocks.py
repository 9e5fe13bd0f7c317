"""Clocks of applications (Rocketry's ``time_func``), for what the bodies of tasks send.

In: a span or a log record of a body, with the time of the machine. Out: the same with the time of
the application's clock, so that it lies within its run.
"""

from __future__ import annotations

import copy
import threading
import time
from bisect import bisect_left, insort
from typing import TYPE_CHECKING, Any, TypeVar

from rocketry_otel._model.event import nanoseconds
from rocketry_otel._runtime.forks import after_fork_in_child
from rocketry_otel._runtime.scope import NAME

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.sdk.trace import ReadableSpan

    T = TypeVar("T")

# A span may end after its run, in a thread of the body: the clocks of the newest runs are kept.
_MOST_CLOCKS = 1_000
_MOST_SAMPLES = 4_096
# Clocks of a machine that are read at the same moment may differ by this, in nanoseconds.
_ROOM = 1_000_000
# A span is handed over that long after it began or ended, at most, in nanoseconds.
_JUST_NOW = 50_000_000


class RunClock:
    """The clock of the application during a run, and the time of the machine beside it.

    Times between two readings are interpolated. So the order of times stays, and spans stay
    inside of each other.

    Args:
        read: Returns seconds since the epoch by the application's clock.
        span_id: The span of the run itself, whose times are right.
    """

    def __init__(self, read: Callable[[], float], span_id: int) -> None:
        self._read = read
        self.span_id = span_id
        self._samples: list[tuple[int, int]] = []
        self._renew_lock()
        after_fork_in_child(self._renew_lock)
        self.now()

    def _renew_lock(self) -> None:
        # It guards the samples. No other lock is taken while it is held.
        self._lock = threading.Lock()

    def now(self, at: int | None = None) -> int:
        """Read the clock; return nanoseconds since the epoch, also if it raises.

        Args:
            at: A time of the machine. If it was just now, the reading counts for it.
        """
        machine = time.time_ns()
        if at is not None and 0 <= machine - at <= _JUST_NOW:
            machine = at
        try:
            own = nanoseconds(self._read())
        except Exception:  # noqa: BLE001  # telemetry never hurts the task
            return self.at(machine)
        with self._lock:
            insort(self._samples, (machine, own))
            if len(self._samples) > _MOST_SAMPLES:
                del self._samples[1:-1:2]
        return own

    def at(self, machine: int) -> int:
        """Return the time of the clock at a time of the machine.

        A time that is not one of the machine's during the run was chosen by the body: it stays.
        """
        with self._lock:
            samples = self._samples
            if not samples or not samples[0][0] - _ROOM <= machine <= samples[-1][0] + _ROOM:
                return machine
            place = bisect_left(samples, (machine, 0))
            before, after = samples[max(place - 1, 0)], samples[min(place, len(samples) - 1)]
        passed, whole = machine - before[0], after[0] - before[0]
        if whole <= 0:
            return before[1]
        share = min(max(passed, 0), whole)
        return before[1] + (after[1] - before[1]) * share // whole


_clocks: dict[int, RunClock] = {}


def use_clock(trace_id: int, clock: RunClock) -> None:
    """Let the spans and log records of a trace have the times of a clock."""
    _clocks[trace_id] = clock
    while len(_clocks) > _MOST_CLOCKS:
        _clocks.pop(next(iter(_clocks)), None)


def note_start(span: Any) -> None:
    """Read the clock of a span that begins."""
    clock = _clock_of(span)
    if clock is not None:
        clock.now(span.start_time)


def in_run_time(span: ReadableSpan) -> ReadableSpan:
    """Return a span that has ended, with the times of its run's clock."""
    clock = _clock_of(span)
    if clock is None:
        return span
    try:
        return _in_time_of(clock, span)
    except Exception:  # noqa: BLE001  # telemetry never hurts the task
        return span


def _in_time_of(clock: RunClock, span: ReadableSpan) -> ReadableSpan:
    if span.start_time is None or span.end_time is None:
        return span
    clock.now(span.end_time)
    start, end = clock.at(span.start_time), clock.at(span.end_time)
    if (start, end) == (span.start_time, span.end_time):
        return span
    return _changed(
        span,
        _start_time=start,
        _end_time=max(start, end),
        _events=[_changed(one, _timestamp=clock.at(one.timestamp)) for one in span.events],
    )


def set_run_time(record: Any, scope: Any) -> None:
    """Give a log record the times of its run's clock.

    Args:
        record: The log record, which is changed.
        scope: Its instrumentation scope. Records of our own scope have these times already.
    """
    clock = _clocks.get(record.trace_id) if _clocks and record.trace_id else None
    if clock is None or (scope is not None and scope.name == NAME):
        return
    clock.now(record.timestamp)
    for name in ("timestamp", "observed_timestamp"):
        value = getattr(record, name)
        if value is not None:
            setattr(record, name, clock.at(value))


def _clock_of(span: Any) -> RunClock | None:
    if not _clocks or span.context is None:
        return None
    clock = _clocks.get(span.context.trace_id)
    return None if clock is None or span.context.span_id == clock.span_id else clock


def _changed(original: T, **fields: Any) -> T:
    changed = copy.copy(original)
    vars(changed).update(fields)
    return changed

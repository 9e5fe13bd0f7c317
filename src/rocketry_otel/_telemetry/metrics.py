"""The metrics that operators alert on: the runs of tasks, and the delivery of telemetry.

In: events with their steps, counters, and the status of delivery. Out: calls of the metrics API.

A task's thread only notes what is to be measured: the calls are made when metrics are collected.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

from opentelemetry.metrics import CallbackOptions, NoOpMeterProvider, Observation
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE

from rocketry_otel._export.own_providers import OwnMeterProvider
from rocketry_otel._model.durations import NANOSECONDS
from rocketry_otel._model.event import SUCCESS
from rocketry_otel._model.missed import MISSED_REASON, SCHEDULE_DELAY
from rocketry_otel._model.signals import ACTION, TASK_NAME, error_type_of
from rocketry_otel._runtime.forks import after_fork_in_child
from rocketry_otel._runtime.scope import NAME, SCHEMA_URL, VERSION
from rocketry_otel._runtime.threads import start_thread

from .running import show_next_runs, show_running

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.metrics import MeterProvider

    from rocketry_otel._export.counters import Counters
    from rocketry_otel._export.status import Delivery
    from rocketry_otel._model.event import TaskEvent
    from rocketry_otel._model.runs import Run

    from .running import RunningRun

# From 10 ms to 6 h, in seconds.
DURATION_BUCKETS = (
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 14400.0, 21600.0,
)  # fmt: skip

BRIDGE_COUNTERS = ("delivered", "failed", "dropped", "replayed", "retried")

_UNITS = {"traces": "{span}", "logs": "{record}"}
# Rare collections must not let the notes grow without end.
_MOST_NOTES = 1_000

# A provider has an instrument of a name once: the handlers that share it share the callbacks.
_sharing: WeakKeyDictionary[Any, list[TaskMetrics]] = WeakKeyDictionary()


class _Duration(NamedTuple):
    """How long a run took, or how late it was.

    Attributes:
        seconds: The time.
        attributes: The attributes of the measurement.
        context: Makes the context that holds its span.
        is_delay: Whether it is the delay.
        is_main: Whether the scheduler itself ran the body, and did nothing else meanwhile.
    """

    seconds: float
    attributes: dict[str, str]
    context: Callable[[], Context | None]
    is_delay: bool = False
    is_main: bool = False


class TaskMetrics:
    """Counts and times the runs of tasks.

    Args:
        provider: The provider of the meters.
        counters: The number of items by their outcome.
        delivery: Returns the status of delivery.
        lost: Called with ``metrics`` and the error of a measurement that could not be made.
        running: Returns the runs that go on.
        next_runs: Returns the tasks with the times of their next runs, in seconds since the epoch.
    """

    def __init__(
        self,
        provider: MeterProvider,
        counters: Counters,
        delivery: Callable[[], Delivery],
        lost: Callable[[str, Exception], None] = lambda *_: None,
        running: Callable[[], Iterable[RunningRun]] = tuple,
        next_runs: Callable[[], Iterable[tuple[str, float]]] = tuple,
    ) -> None:
        self.running = running
        self.next_runs = next_runs
        self.counters = counters
        self.delivery = delivery
        self._lost = lost
        # Our own provider sends nothing from a child.
        self._ends_with_fork = isinstance(provider, OwnMeterProvider)
        self._make_instruments(provider)
        self._start_afresh()
        after_fork_in_child(self._start_in_child)
        _observe(provider, self)

    def _start_afresh(self) -> None:
        # It guards the notes. No other lock is taken while it is held.
        self._lock = threading.Lock()
        self._active_changes: Counter[str] = Counter()
        self._successes: dict[str, float] = {}
        self._durations: list[_Duration] = []
        self._missed: Counter[tuple[str, str]] = Counter()

    def _start_in_child(self) -> None:
        # The parent makes the measurements of its own notes.
        self._start_afresh()
        if self._ends_with_fork:
            # A thread may have held the SDK's locks of measurement at the fork; the child would
            # wait for them forever.
            self._make_instruments(NoOpMeterProvider())

    def _make_instruments(self, provider: MeterProvider) -> None:
        meter = provider.get_meter(NAME, VERSION, SCHEMA_URL)
        self._duration = meter.create_histogram(
            "rocketry.task.duration",
            unit="s",
            description="How long runs of tasks took.",
            explicit_bucket_boundaries_advisory=DURATION_BUCKETS,
        )
        self._delay = meter.create_histogram(
            "rocketry.task.schedule_delay",
            unit="s",
            description="How long after they were due runs of tasks began.",
            explicit_bucket_boundaries_advisory=DURATION_BUCKETS,
        )
        self._missed_slots = meter.create_counter(
            "rocketry.task.missed", unit="{run}", description="Scheduled runs that did not begin."
        )
        self._active = meter.create_up_down_counter(
            "rocketry.task.active", unit="{run}", description="Runs that go on."
        )
        self._last_success = meter.create_gauge(
            "rocketry.task.last_success",
            unit="s",
            description="When a run of the task last succeeded, in seconds since the epoch.",
        )
        self._blocked = provider.get_meter(
            f"{NAME}.scheduler", VERSION, SCHEMA_URL
        ).create_histogram(
            "rocketry.scheduler.blocked",
            unit="s",
            description="How long runs kept the scheduler from doing anything else.",
            explicit_bucket_boundaries_advisory=DURATION_BUCKETS,
        )

    def count(
        self, event: TaskEvent, run: Run, change: str, context: Callable[[], Context | None]
    ) -> None:
        """Note the step of an event: a run begins or ends.

        Args:
            event: The event.
            run: Its run.
            change: What it did to the run: ``began`` or ``ended``.
            context: Returns the context that holds the run's span.
        """
        if change == "began":
            with self._lock:
                self._active_changes[event.task_name or ""] += 1
            run.counted_by = self
            delay = dict(event.attributes).get(SCHEDULE_DELAY)
            if isinstance(delay, float):
                attributes = {TASK_NAME: event.task_name or ""}
                self._note(_Duration(delay, attributes, context, is_delay=True))
        else:
            self.stopped(run)
            self._time(run, event, context)

    def succeeded(self, task_name: str, created: int) -> None:
        """Note the time when a task last succeeded, in this process or an earlier one.

        Args:
            task_name: The name of the task.
            created: Nanoseconds since the epoch.
        """
        with self._lock:
            # A float of today's time has room for microseconds, not for nanoseconds.
            self._successes[task_name] = round(created / NANOSECONDS, 6)

    def missed(self, task_name: str, reason: str) -> None:
        """Note that a task has missed a slot, or several while no scheduler ran."""
        with self._lock:
            self._missed[task_name, reason] += 1

    def stopped(self, run: Run) -> None:
        """Note a run that is no longer open: it ended, or was given up."""
        if run.counted_by is self:
            run.counted_by = None
            with self._lock:
                self._active_changes[(run.began and run.began.task_name) or ""] -= 1

    def _time(self, run: Run, event: TaskEvent, context: Callable[[], Context | None]) -> None:
        task_name = event.task_name or ""
        attributes = {TASK_NAME: task_name, ACTION: event.action or ""}
        error_type = error_type_of(event)
        if error_type is not None:
            attributes[ERROR_TYPE] = error_type
        # An ending without its beginning has no duration, but must count as a failure.
        began = event if run.began is None else run.began
        seconds = max(event.created - began.created, 0) / NANOSECONDS
        is_main = event.execution == "main" and event is not began
        if event.action == SUCCESS:
            self.succeeded(task_name, event.created)
        self._note(_Duration(seconds, attributes, context, is_main=is_main))

    def _note(self, duration: _Duration) -> None:
        with self._lock:
            self._durations.append(duration)
            count = len(self._durations)
        if count % _MOST_NOTES == 0 and start_thread(self.measure, "measure") is None:
            self.measure()  # the interpreter is ending

    def measure(self) -> None:
        """Make the measurements of what was noted; it never raises."""
        with self._lock:
            changes, self._active_changes = self._active_changes, Counter()
            successes, self._successes = self._successes, {}
            durations, self._durations = self._durations, []
            missed, self._missed = self._missed, Counter()
        try:
            for (task_name, reason), count in missed.items():
                self._missed_slots.add(count, {TASK_NAME: task_name, MISSED_REASON: reason})
            for task_name, change in changes.items():
                self._active.add(change, {TASK_NAME: task_name})
            for task_name, seconds in successes.items():
                self._last_success.set(seconds, {TASK_NAME: task_name})
            for one in durations:
                # The context leads from a bucket to a trace: the SDK's exemplars are taken from it.
                context = one.context()
                histogram = self._delay if one.is_delay else self._duration
                histogram.record(one.seconds, one.attributes, context)
                if one.is_main:
                    of_task = {TASK_NAME: one.attributes[TASK_NAME]}
                    self._blocked.record(one.seconds, of_task, context)
        except Exception as error:  # noqa: BLE001  # the application's provider may raise anything
            self._lost("metrics", error)


def _observe(provider: MeterProvider, metrics: TaskMetrics) -> None:
    """Let a provider collect the metrics of a handler, beside those of others that share it."""
    try:
        sharing = _sharing.setdefault(provider, [])
    except TypeError:  # a provider of the application that has no hash, or no weak references
        sharing = []
    sharing.append(metrics)
    if len(sharing) == 1:
        _observe_bridge(provider, sharing)


def _observe_bridge(provider: MeterProvider, sharing: list[TaskMetrics]) -> None:
    """Make the metrics of delivery: outcomes, and items that wait; read when collected."""
    for signal, unit in _UNITS.items():
        # An instrument has one unit, and a scope has one instrument of a name: so a scope a signal.
        meter = provider.get_meter(f"{NAME}.{signal}", VERSION, SCHEMA_URL)
        for name in BRIDGE_COUNTERS:
            meter.create_observable_counter(
                f"rocketry.bridge.{name}",
                [_reader(sharing, signal, name)],
                unit=unit,
                description=f"Telemetry that was {name}.",
            )
        meter.create_observable_gauge(
            "rocketry.bridge.waiting",
            [_waiting(sharing, signal)],
            unit=unit,
            description="Telemetry that is not delivered yet.",
        )
    meter = provider.get_meter(NAME, VERSION, SCHEMA_URL)
    show_running(meter, lambda: [run for one in sharing for run in one.running()])
    show_next_runs(meter, lambda: [pair for one in sharing for pair in one.next_runs()])
    meter.create_observable_counter(
        "rocketry.bridge.hook_errors",
        [_hook_errors(sharing)],
        unit="{error}",
        description="Exceptions of the application's own hooks. No telemetry is lost.",
    )
    meter.create_observable_gauge(
        "rocketry.bridge.waiting_time",
        [_waiting_time(sharing, signal) for signal in _UNITS],
        unit="s",
        description="How long the oldest record waits that is not delivered yet.",
    )


_Read = Callable[[CallbackOptions], Iterable[Observation]]


def _hook_errors(sharing: list[TaskMetrics]) -> _Read:
    def read(_: CallbackOptions) -> Iterable[Observation]:
        for hook, count in _totals(sharing, "traces", "hook_error").items():
            yield Observation(count, {"hook": hook})

    return read


def _waiting(sharing: list[TaskMetrics], signal: str) -> _Read:
    def read(_: CallbackOptions) -> Iterable[Observation]:
        waiting = sum(getattr(one.delivery(), signal).waiting for one in sharing)
        yield Observation(waiting, {"signal": signal})

    return read


def _waiting_time(sharing: list[TaskMetrics], signal: str) -> _Read:
    def read(_: CallbackOptions) -> Iterable[Observation]:
        times = [getattr(one.delivery(), signal).oldest_waiting for one in sharing]
        oldest = min((at.timestamp() for at in times if at is not None), default=None)
        seconds = 0.0 if oldest is None else max(time.time() - oldest, 0.0)
        yield Observation(seconds, {"signal": signal})

    return read


def _reader(sharing: list[TaskMetrics], signal: str, name: str) -> _Read:
    def read(_: CallbackOptions) -> Iterable[Observation]:
        if signal == "traces" and name == BRIDGE_COUNTERS[0]:
            # Callbacks are called before the SDK collects what was measured.
            for one in sharing:
                one.measure()
        for reason, count in _totals(sharing, signal, name).items():
            attributes = {"signal": signal, "reason": reason} if reason else {"signal": signal}
            yield Observation(count, attributes)

    return read


def _totals(sharing: list[TaskMetrics], signal: str, outcome: str) -> Counter[str]:
    totals: Counter[str] = Counter()
    for one in sharing:
        totals.update(one.counters.of(signal, outcome))
    return totals

"""The metrics that operators alert on: the runs of tasks, and the delivery of telemetry.

In: events with their steps, counters, and the status of delivery. Out: calls of the metrics API.

A task's thread only notes what is to be measured: the calls are made when metrics are collected.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

from opentelemetry.metrics import CallbackOptions, NoOpMeterProvider, Observation
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE

from rocketry_otel._export.own_providers import OwnMeterProvider
from rocketry_otel._model.durations import NANOSECONDS
from rocketry_otel._model.event import RUN, SUCCESS
from rocketry_otel._model.missed import MISSED_REASON, SCHEDULE_DELAY
from rocketry_otel._model.signals import ACTION, TASK_NAME, error_type_of
from rocketry_otel._runtime.forks import after_fork_in_child
from rocketry_otel._runtime.scope import NAME, SCHEMA_URL, VERSION
from rocketry_otel._runtime.threads import start_thread

from .running import show_next_runs, show_running

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.sdk.trace.sampling import SamplingResult

    from rocketry_otel._export.counters import Counters
    from rocketry_otel._export.status import Delivery
    from rocketry_otel._model.event import TaskEvent
    from rocketry_otel._model.ids import RunIds
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


class _Note(NamedTuple):
    """A step of a run, to be measured when metrics are collected.

    Attributes:
        task_name: The name of the task.
        action: The action of the event; ``None`` if a run was only given up.
        change: By how much the number of runs that go on has changed.
        seconds: How long the run took; for a beginning how late it was, if that is known.
        error_type: The type of the error, if the run has ended with one.
        created: When the event was created, in nanoseconds since the epoch.
        is_main: Whether the scheduler itself ran the body, and did nothing else meanwhile.
        ids: The ids of the run.
        sampling: The sampler's decision for it.
    """

    task_name: str
    action: str | None
    change: int = 0
    seconds: float | None = None
    error_type: str | None = None
    created: int = 0
    is_main: bool = False
    ids: RunIds | None = None
    sampling: SamplingResult | None = None


class TaskMetrics:
    """Counts and times the runs of tasks.

    Args:
        provider: The provider of the meters.
        counters: The number of items by their outcome.
        delivery: Returns the status of delivery.
        lost: Called with ``metrics`` and the error of a measurement that could not be made.
        running: Returns the runs that go on.
        next_runs: Returns the tasks with the times of their next runs, in seconds since the epoch.
        context_of: Returns the context that holds the span of a run.
    """

    def __init__(
        self,
        provider: MeterProvider,
        counters: Counters,
        delivery: Callable[[], Delivery],
        lost: Callable[[str, Exception], None] = lambda *_: None,
        running: Callable[[], Iterable[RunningRun]] = tuple,
        next_runs: Callable[[], Iterable[tuple[str, float]]] = tuple,
        context_of: Callable[[RunIds, SamplingResult | None], Context | None] = lambda *_: None,
    ) -> None:
        self.running = running
        self.next_runs = next_runs
        self.counters = counters
        self.delivery = delivery
        self._lost = lost
        self._context_of = context_of
        # Our own provider sends nothing from a child.
        self._ends_with_fork = isinstance(provider, OwnMeterProvider)
        self._make_instruments(provider)
        self._start_afresh()
        after_fork_in_child(self._start_in_child)
        _observe(provider, self)

    def _start_afresh(self) -> None:
        # It guards `_missed`, and the taking of notes. No other lock is taken while it is held. A
        # note is added in one step of the interpreter, without it.
        self._lock = threading.Lock()
        self._notes: deque[_Note] = deque()
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

    def count(self, event: TaskEvent, run: Run, change: str) -> None:
        """Note the step of an event: a run begins or ends.

        Args:
            event: The event.
            run: Its run.
            change: What it did to the run: ``began`` or ``ended``.
        """
        task_name, action, created = event.task_name or "", event.action, event.created
        if change == "began":
            run.counted_by = self
            delay = dict(event.attributes).get(SCHEDULE_DELAY)
            seconds = delay if isinstance(delay, float) else None
            self._note(_Note(task_name, RUN, 1, seconds, ids=run.ids, sampling=run.sampling))
            return
        # An ending without its beginning has no duration, but must count as a failure.
        began = run.began
        if began is not None:
            # As on the span: the task may have another name by now.
            task_name = began.task_name or ""
        seconds = 0.0 if began is None else max(created - began.created, 0) / NANOSECONDS
        is_main = event.execution == "main" and began is not None
        self._note(
            _Note(
                *(task_name, action, self._uncounted(run), seconds, error_type_of(event)),
                *(created, is_main, run.ids, run.sampling),
            )
        )

    def succeeded(self, task_name: str, created: int) -> None:
        """Note the time when a task last succeeded, in an earlier process.

        Args:
            task_name: The name of the task.
            created: Nanoseconds since the epoch.
        """
        self._note(_Note(task_name, SUCCESS, created=created))

    def missed(self, task_name: str, reason: str) -> None:
        """Note that a task has missed a slot, or several while no scheduler ran."""
        with self._lock:
            self._missed[task_name, reason] += 1

    def stopped(self, run: Run) -> None:
        """Note a run that is no longer open, because it was given up."""
        task_name = (run.began and run.began.task_name) or ""
        self._note(_Note(task_name, None, self._uncounted(run)))

    def _uncounted(self, run: Run) -> int:
        """Count a run among those that go on no longer; return the change of their number."""
        if run.counted_by is not self:
            return 0
        run.counted_by = None
        return -1

    def _note(self, note: _Note) -> None:
        notes = self._notes
        notes.append(note)
        if len(notes) % _MOST_NOTES == 0 and start_thread(self.measure, "measure") is None:
            self.measure()  # the interpreter is ending

    def measure(self) -> None:
        """Make the measurements of what was noted; it never raises."""
        with self._lock:
            missed, self._missed = self._missed, Counter()
            notes = [self._notes.popleft() for _ in range(len(self._notes))]
        active: Counter[str] = Counter()
        successes: dict[str, int] = {}
        try:
            for (task_name, reason), count in missed.items():
                self._missed_slots.add(count, {TASK_NAME: task_name, MISSED_REASON: reason})
            for note in notes:
                if note.change:
                    active[note.task_name] += note.change
                if note.action == SUCCESS:
                    successes[note.task_name] = note.created
                if note.seconds is not None:
                    self._time(note, note.seconds)
            for task_name, change in active.items():
                self._active.add(change, {TASK_NAME: task_name})
            for task_name, created in successes.items():
                # A float of today's time has room for microseconds, not for nanoseconds.
                seconds = round(created / NANOSECONDS, 6)
                self._last_success.set(seconds, {TASK_NAME: task_name})
        except Exception as error:  # noqa: BLE001  # the application's provider may raise anything
            self._lost("metrics", error)

    def _time(self, note: _Note, seconds: float) -> None:
        """Measure how long a run took, or how late it began."""
        of_task = {TASK_NAME: note.task_name}
        # The context leads from a bucket to a trace: the SDK's exemplars are taken from it.
        context = None if note.ids is None else self._context_of(note.ids, note.sampling)
        if note.action == RUN:
            self._delay.record(seconds, of_task, context)
            return
        attributes = {**of_task, ACTION: note.action or ""}
        if note.error_type is not None:
            attributes[ERROR_TYPE] = note.error_type
        self._duration.record(seconds, attributes, context)
        if note.is_main:
            self._blocked.record(seconds, of_task, context)


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

"""The metrics that operators alert on: the runs of tasks, and the delivery of telemetry.

In: events with their steps, counters, and the status of delivery. Out: calls of the metrics API.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from opentelemetry.metrics import CallbackOptions, NoOpMeterProvider, Observation
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE

from rocketry_otel._export.own_providers import OwnMeterProvider
from rocketry_otel._model.durations import NANOSECONDS
from rocketry_otel._model.event import SUCCESS
from rocketry_otel._model.signals import ACTION, TASK_NAME, error_type_of
from rocketry_otel._runtime.forks import after_fork_in_child
from rocketry_otel._runtime.scope import NAME, VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opentelemetry.context import Context
    from opentelemetry.metrics import MeterProvider

    from rocketry_otel._export.counters import Counters
    from rocketry_otel._export.status import Delivery
    from rocketry_otel._model.event import TaskEvent
    from rocketry_otel._model.runs import Run, Step

# From 10 ms to 6 h, in seconds.
DURATION_BUCKETS = (
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 14400.0, 21600.0,
)  # fmt: skip

BRIDGE_COUNTERS = ("delivered", "failed", "dropped", "replayed", "retried")

_UNITS = {"traces": "{span}", "logs": "{record}"}


class TaskMetrics:
    """Counts and times the runs of tasks.

    Args:
        provider: The provider of the meters.
        counters: The number of items by their outcome.
        delivery: Returns the status of delivery.
    """

    def __init__(
        self, provider: MeterProvider, counters: Counters, delivery: Callable[[], Delivery]
    ) -> None:
        self._make_instruments(provider)
        _observe_bridge(provider, counters, delivery)
        if isinstance(provider, OwnMeterProvider):
            after_fork_in_child(self._measure_nothing)

    def _measure_nothing(self) -> None:
        # A thread may have held the SDK's locks of measurement at the fork; the child would wait
        # for them forever. Our own provider sends nothing from a child anyway.
        self._make_instruments(NoOpMeterProvider())

    def _make_instruments(self, provider: MeterProvider) -> None:
        meter = provider.get_meter(NAME, VERSION)
        self._duration = meter.create_histogram(
            "rocketry.task.duration",
            unit="s",
            description="How long runs of tasks took.",
            explicit_bucket_boundaries_advisory=DURATION_BUCKETS,
        )
        self._active = meter.create_up_down_counter(
            "rocketry.task.active", unit="{run}", description="Runs that go on."
        )
        self._last_success = meter.create_gauge(
            "rocketry.task.last_success",
            unit="s",
            description="When a run of the task last succeeded, in seconds since the epoch.",
        )

    def count(self, event: TaskEvent, step: Step, context: Context | None) -> None:
        """Count the step of an event: a run begins or ends; ``context`` holds the run's span."""
        run = step.run
        if run is None:
            return
        if step.change == "began":
            self._active.add(1, {TASK_NAME: event.task_name or ""})
            run.counted_by = self
        elif step.change == "ended":
            self.stopped(run)
            self._time(run, event, context)

    def succeeded(self, task_name: str, created: int) -> None:
        """Set the time when a task last succeeded, in this process or an earlier one.

        Args:
            task_name: The name of the task.
            created: Nanoseconds since the epoch.
        """
        # A float of today's time has room for microseconds, not for nanoseconds.
        self._last_success.set(round(created / NANOSECONDS, 6), {TASK_NAME: task_name})

    def stopped(self, run: Run) -> None:
        """Count a run that is no longer open: it ended, or was given up."""
        if run.counted_by is self:
            run.counted_by = None
            self._active.add(-1, {TASK_NAME: (run.began and run.began.task_name) or ""})

    def _time(self, run: Run, event: TaskEvent, context: Context | None) -> None:
        task_name = event.task_name or ""
        attributes = {TASK_NAME: task_name, ACTION: event.action or ""}
        error_type = error_type_of(event)
        if error_type is not None:
            attributes[ERROR_TYPE] = error_type
        # An ending without its beginning has no duration, but must count as a failure.
        began = event if run.began is None else run.began
        seconds = max(event.created - began.created, 0) / NANOSECONDS
        # The context leads from a bucket to a trace: the SDK's exemplars are taken from it.
        self._duration.record(seconds, attributes, context)
        if event.action == SUCCESS:
            self.succeeded(task_name, event.created)


def _observe_bridge(
    provider: MeterProvider, counters: Counters, delivery: Callable[[], Delivery]
) -> None:
    """Make the metrics of delivery: outcomes, and items that wait; read when collected."""
    for signal, unit in _UNITS.items():
        # An instrument has one unit, and a scope has one instrument of a name: so a scope a signal.
        meter = provider.get_meter(f"{NAME}.{signal}", VERSION)
        for name in BRIDGE_COUNTERS:
            meter.create_observable_counter(
                f"rocketry.bridge.{name}",
                [_reader(counters, signal, name)],
                unit=unit,
                description=f"Telemetry that was {name}.",
            )
        meter.create_observable_gauge(
            "rocketry.bridge.waiting",
            [_waiting(delivery, signal)],
            unit=unit,
            description="Telemetry that is not delivered yet.",
        )
    meter = provider.get_meter(NAME, VERSION)
    meter.create_observable_counter(
        "rocketry.bridge.hook_errors",
        [_hook_errors(counters)],
        unit="{error}",
        description="Exceptions of the application's own hooks. No telemetry is lost.",
    )
    meter.create_observable_gauge(
        "rocketry.bridge.waiting_time",
        [_waiting_time(delivery, signal) for signal in _UNITS],
        unit="s",
        description="How long the oldest record waits that is not delivered yet.",
    )


def _hook_errors(counters: Counters) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def read(_: CallbackOptions) -> Iterable[Observation]:
        for hook, count in counters.of("traces", "hook_error").items():
            yield Observation(count, {"hook": hook})

    return read


def _waiting(
    delivery: Callable[[], Delivery], signal: str
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def read(_: CallbackOptions) -> Iterable[Observation]:
        yield Observation(getattr(delivery(), signal).waiting, {"signal": signal})

    return read


def _waiting_time(
    delivery: Callable[[], Delivery], signal: str
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def read(_: CallbackOptions) -> Iterable[Observation]:
        oldest = getattr(delivery(), signal).oldest_waiting
        seconds = 0.0 if oldest is None else max(time.time() - oldest.timestamp(), 0.0)
        yield Observation(seconds, {"signal": signal})

    return read


def _reader(
    counters: Counters, signal: str, name: str
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def read(_: CallbackOptions) -> Iterable[Observation]:
        for reason, count in counters.of(signal, name).items():
            attributes = {"signal": signal, "reason": reason} if reason else {"signal": signal}
            yield Observation(count, attributes)

    return read

"""The scheduler's heartbeat, to alert on a scheduler that hangs or is slow.

In: each cycle of the scheduler. Out: three metrics: the number of cycles, the time since the last,
and how long each took.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import TYPE_CHECKING

from opentelemetry.metrics import CallbackOptions, Observation

from rocketry_otel._runtime.forks import after_fork_in_child
from rocketry_otel._runtime.scope import NAME, SCHEMA_URL, VERSION
from rocketry_otel._runtime.threads import start_thread

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opentelemetry.metrics import Histogram, MeterProvider

_logger = logging.getLogger(NAME)

# From 1 ms to 1 h, in seconds: most cycles only look at conditions.
CYCLE_BUCKETS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
    *(30.0, 60.0, 300.0, 1800.0, 3600.0),
)
# Rare collections must not let the notes grow without end.
_MOST_NOTES = 1_000


class Heartbeat:
    """Counts the scheduler's cycles and keeps the time of the last one."""

    def __init__(self) -> None:
        """Begin with no cycle."""
        # No lock: the scheduler's thread writes, and a reader may be one cycle late.
        self._cycles = 0
        self._last: float | None = None
        self._duration: Histogram | None = None
        self._durations: deque[float] = deque(maxlen=10 * _MOST_NOTES)
        # The parent makes the measurements of its own notes.
        after_fork_in_child(self._forget)

    def _forget(self) -> None:
        self._durations.clear()

    def beat(self) -> None:
        """Count a cycle."""
        self._cycles += 1
        self._last = time.monotonic()

    def took(self, seconds: float) -> None:
        """Note how long a cycle took; it is measured when metrics are collected."""
        self._durations.append(seconds)
        if len(self._durations) == _MOST_NOTES and start_thread(self._measure, "measure") is None:
            self._measure()  # the interpreter is ending

    def _measure(self) -> None:
        """Make the measurements of what was noted; it never raises."""
        try:
            while self._duration is not None and self._durations:
                self._duration.record(self._durations.popleft())
        except Exception:  # the application's provider may raise anything
            _logger.debug("the cycles could not be measured", exc_info=True)

    def show(self, provider: MeterProvider) -> None:
        """Make the metrics; they are read when they are collected, so a cycle stays cheap."""
        meter = provider.get_meter(f"{NAME}.scheduler", VERSION, SCHEMA_URL)
        self._duration = meter.create_histogram(
            "rocketry.scheduler.cycle.duration",
            unit="s",
            description="How long the scheduler's cycles took.",
            explicit_bucket_boundaries_advisory=CYCLE_BUCKETS,
        )
        meter.create_observable_counter(
            "rocketry.scheduler.cycles",
            [self._observe_cycles],
            unit="{cycle}",
            description="Cycles of the scheduler.",
        )
        meter.create_observable_gauge(
            "rocketry.scheduler.time_since_cycle",
            [self._observe_age],
            unit="s",
            description="How long ago the scheduler's last cycle began.",
        )

    def _observe_cycles(self, _: CallbackOptions) -> Iterable[Observation]:
        # Callbacks are called before the SDK collects what was measured.
        self._measure()
        if self._last is not None:
            yield Observation(self._cycles)

    def _observe_age(self, _: CallbackOptions) -> Iterable[Observation]:
        if self._last is not None:
            yield Observation(time.monotonic() - self._last)

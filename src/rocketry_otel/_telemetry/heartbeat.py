"""The scheduler's heartbeat, to alert on a scheduler that hangs.

In: each cycle of the scheduler. Out: two metrics, the number of cycles and the time since the last.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from opentelemetry.metrics import CallbackOptions, Observation

from rocketry_otel._runtime.scope import NAME, SCHEMA_URL, VERSION

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opentelemetry.metrics import MeterProvider


class Heartbeat:
    """Counts the scheduler's cycles and keeps the time of the last one."""

    def __init__(self) -> None:
        """Begin with no cycle."""
        # No lock: the scheduler's thread writes, and a reader may be one cycle late.
        self._cycles = 0
        self._last: float | None = None

    def beat(self) -> None:
        """Count a cycle."""
        self._cycles += 1
        self._last = time.monotonic()

    def show(self, provider: MeterProvider) -> None:
        """Make the metrics; they are read when they are collected, so a cycle stays cheap."""
        meter = provider.get_meter(f"{NAME}.scheduler", VERSION, SCHEMA_URL)
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
        if self._last is not None:
            yield Observation(self._cycles)

    def _observe_age(self, _: CallbackOptions) -> Iterable[Observation]:
        if self._last is not None:
            yield Observation(time.monotonic() - self._last)

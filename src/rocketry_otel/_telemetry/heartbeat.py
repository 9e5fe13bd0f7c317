"""The scheduler's own pulse, so that a scheduler that hangs can be alerted on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from opentelemetry.metrics import CallbackOptions, Observation

from rocketry_otel._runtime.scope import NAME, VERSION

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opentelemetry.metrics import MeterProvider


class Heartbeat:
    """Counts the scheduler's cycles and knows when the last one began."""

    def __init__(self) -> None:
        """Begin with no cycle."""
        self._cycles = 0
        self._last: float | None = None

    def beat(self) -> None:
        """Note a cycle."""
        self._cycles += 1
        self._last = time.monotonic()

    def show(self, provider: MeterProvider) -> None:
        """Show it as metrics, read when they are collected: a cycle costs next to nothing."""
        meter = provider.get_meter(f"{NAME}.scheduler", VERSION)
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

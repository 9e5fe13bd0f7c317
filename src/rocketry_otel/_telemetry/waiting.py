"""How long tasks were due and not launched, by the reason, as a metric.

In: seconds, when a task is launched or metrics are collected. Out: a counter.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Protocol
from weakref import WeakSet

from opentelemetry.metrics import CallbackOptions, Observation

from rocketry_otel._model.signals import TASK_NAME
from rocketry_otel._runtime.scope import NAME, SCHEMA_URL, VERSION

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opentelemetry.metrics import MeterProvider

_logger = logging.getLogger(NAME)

REASON = "rocketry.wait.reason"


class Source(Protocol):
    """What adds seconds when they are asked for."""

    def settle(self) -> None:
        """Add the seconds of tasks that wait now."""
        ...


class WaitingSeconds:
    """Seconds by task and reason.

    Attributes:
        sources: They add the seconds of tasks that wait when metrics are collected.
    """

    def __init__(self) -> None:
        """Begin without any seconds."""
        # No lock: each source adds under one of its own.
        self._seconds: Counter[tuple[str, str]] = Counter()
        self.sources: WeakSet[Source] = WeakSet()

    def add(self, task_name: str, reason: str, seconds: float) -> None:
        """Add seconds that a task was due and not launched."""
        self._seconds[task_name, reason] += seconds  # type: ignore[assignment]  # a float

    def follow(self, other: WaitingSeconds) -> None:
        """Go on from the seconds of another one, whose pipeline was replaced."""
        self._seconds, self.sources = other._seconds, other.sources

    def show(self, provider: MeterProvider) -> None:
        """Make the metric."""
        provider.get_meter(f"{NAME}.waiting", VERSION, SCHEMA_URL).create_observable_counter(
            "rocketry.task.waiting",
            [self._observe],
            unit="s",
            description="How long tasks were due and not launched.",
        )

    def _observe(self, _: CallbackOptions) -> Iterable[Observation]:
        for source in list(self.sources):
            try:
                source.settle()
            except Exception:  # noqa: PERF203  # the other metrics are collected all the same
                _logger.debug("the time of waiting is not known", exc_info=True)
        for (task_name, reason), seconds in sorted(self._seconds.items()):
            yield Observation(seconds, {TASK_NAME: task_name, REASON: reason})

"""What became of telemetry: every loss is counted with its reason."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Literal

from rocketry_otel._runtime.forks import after_fork_in_child

Outcome = Literal["delivered", "failed", "dropped", "replayed", "retried", "hook_error"]


class Counters:
    """Counts spans and log records by what became of them.

    ``delivered``: a collector accepted it. ``failed``: a collector refused it for good.
    ``dropped``: it was not sent, for a reason that is counted with it. ``replayed``: it was
    delivered from the repository. ``retried``: it did not get through, and is tried again.
    ``hook_error``: a hook of the application raised; no telemetry is lost.
    """

    def __init__(self) -> None:
        self._start_afresh()
        after_fork_in_child(self._start_afresh)

    def _start_afresh(self) -> None:
        # Re-entrant, as all locks here: a signal handler that logs may come in between.
        self._lock = threading.RLock()
        self._counters: Counter[tuple[str, str, str]] = Counter()

    def add(self, signal: str, outcome: Outcome, count: int = 1, reason: str = "") -> None:
        """Count ``count`` items of ``signal`` (``traces``, ``logs`` or ``metrics``)."""
        with self._lock:
            self._counters[signal, outcome, reason] += count

    def of(self, signal: str, outcome: str) -> dict[str, int]:
        """Return how many items of a signal had an outcome, by reason (``""`` for none)."""
        with self._lock:
            return {
                reason: count
                for (its_signal, its_outcome, reason), count in self._counters.items()
                if (its_signal, its_outcome) == (signal, outcome)
            }

    def total(self, signal: str, outcome: str) -> int:
        """Return how many items of a signal had an outcome, whatever the reason."""
        return sum(self.of(signal, outcome).values())

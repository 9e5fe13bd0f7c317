"""The number of items by their outcome; each loss has a reason.

In: a signal, an outcome and a number. Out: totals, for the bridge's own metrics and its log.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import Literal

from rocketry_otel._runtime.forks import after_fork_in_child

Outcome = Literal["delivered", "failed", "dropped", "replayed", "retried", "hook_error"]


class Counters:
    """Counts spans and log records by their outcome.

    ``delivered``: a collector accepted it. ``failed``: a collector refused it for good.
    ``dropped``: it was not sent; the reason is counted with it. ``replayed``: it was
    delivered from the repository. ``retried``: it was not accepted, and is sent again.
    ``hook_error``: a hook of the application raised; no telemetry is lost.
    """

    def __init__(self) -> None:
        self._start_afresh()
        after_fork_in_child(self._start_afresh)

    def _start_afresh(self) -> None:
        # It guards `_counters`. It is the innermost lock: no other one is taken while it is held.
        # Re-entrant, because a signal handler that logs may interrupt its holder.
        self._lock = threading.RLock()
        self._counters: Counter[tuple[str, str, str]] = Counter()

    def add(self, signal: str, outcome: Outcome, count: int = 1, reason: str = "") -> None:
        """Count ``count`` items of ``signal`` (``traces``, ``logs`` or ``metrics``)."""
        with self._lock:
            self._counters[signal, outcome, reason] += count

    def of(self, signal: str, outcome: str) -> dict[str, int]:
        """Return the number of items with an outcome, by reason (``""`` for no reason)."""
        with self._lock:
            return {
                reason: count
                for (its_signal, its_outcome, reason), count in self._counters.items()
                if (its_signal, its_outcome) == (signal, outcome)
            }

    def total(self, signal: str, outcome: str) -> int:
        """Return the number of items with an outcome, for all reasons together."""
        return sum(self.of(signal, outcome).values())

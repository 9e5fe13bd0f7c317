"""Saying once that telemetry does not get through, and once that it does again."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rocketry_otel._runtime.forks import after_fork_in_child
from rocketry_otel._runtime.scope import NAME

if TYPE_CHECKING:
    from .counters import Counters

_logger = logging.getLogger(NAME)

_Key = tuple[str, str]

# Refusals have no end to tell of: those that go on are told of after this many seconds.
_REFUSALS_TOLD_EVERY = 3600.0


@dataclass(slots=True)
class _Failing:
    """Signals that do not get through, for one and the same reason as far as can be told."""

    signals: set[_Key] = field(default_factory=set)
    began: float = 0.0
    dropped_before: int = 0


class Outage:
    """The state of delivery of all signals together, with one line in the log for each change.

    Args:
        counters: What became of telemetry so far.
    """

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._start_afresh()
        after_fork_in_child(self._start_afresh)

    def _start_afresh(self) -> None:
        self._lock = threading.RLock()
        self._unreachable = _Failing()
        # A destination for traces alone never takes logs: that hides no outage of the traces.
        self._unknown = _Failing()
        self._refusal_logged = -float("inf")

    @property
    def is_on(self) -> bool:
        """Whether anything fails to get through."""
        return bool(self._unreachable.signals or self._unknown.signals)

    def failed(self, signal: str, destination: str, reason: str, *, unknown: bool = False) -> None:
        """Note that a signal did not get through this time.

        Args:
            signal: The signal.
            destination: Where it was sent.
            reason: Why it did not get through.
            unknown: Whether the destination does not know the signal.
        """
        failing = self._unknown if unknown else self._unreachable
        with self._lock:
            first = not failing.signals
            failing.signals.add((signal, destination))
            if first:
                failing.began = time.monotonic()
                failing.dropped_before = self._dropped()
        if first:
            _warn(
                "Telemetry does not get through to %s: %s. Tasks and their repository go on as "
                "before; it is tried again until it does.%s",
                destination,
                reason,
                f" If it never shall, set OTEL_{signal.upper()}_EXPORTER=none." if unknown else "",
            )

    def succeeded(self, signal: str, destination: str) -> None:
        """Note that a signal got through."""
        for failing in (self._unreachable, self._unknown):
            with self._lock:
                if (signal, destination) not in failing.signals:
                    continue
                failing.signals.remove((signal, destination))
                if failing.signals:
                    continue
                seconds = time.monotonic() - failing.began
                dropped = self._dropped() - failing.dropped_before
            _warn(
                "Telemetry gets through to %s again after %.0f s%s.",
                destination,
                seconds,
                # Of the backlog in the repository it is not known yet whether all of it is there.
                f"; {dropped} items were dropped meanwhile" if dropped else "",
            )

    def refused(self, signal: str, destination: str, count: int, reason: str) -> None:
        """Note that a destination refused telemetry for good."""
        now = time.monotonic()
        with self._lock:
            if now - self._refusal_logged < _REFUSALS_TOLD_EVERY:
                return
            self._refusal_logged = now
        _warn(
            "%s refused %d of the %s: %s. What is refused is counted, and set aside where a "
            "repository has it; further refusals are told of once an hour.",
            destination,
            count,
            signal,
            reason,
        )

    def _dropped(self) -> int:
        return sum(self._counters.total(signal, "dropped") for signal in ("traces", "logs"))


def _warn(message: str, *values: object) -> None:
    with suppress(Exception):  # a handler of the application's may raise anything
        _logger.warning(message, *values)

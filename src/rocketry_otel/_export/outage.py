"""Logs one line when an outage begins, and one when it ends.

In: the success or failure of each request. Out: a line in the log for each change.
"""

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

_Key = tuple[str, str, str]

# Refusals have no end to report, so they are logged at most once in this many seconds.
_REFUSALS_LOGGED_EVERY = 3600.0


@dataclass(slots=True)
class _Failing:
    """Signals that do not get through, for the same reason as far as is known."""

    signals: set[_Key] = field(default_factory=set)
    began: float = 0.0
    dropped_before: int = 0


class Outage:
    """The outages of all signals together, with one line in the log for each change.

    Args:
        counters: The number of items by their outcome.
    """

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._start_afresh()
        after_fork_in_child(self._start_afresh)

    def _start_afresh(self) -> None:
        # It guards the three fields below. The counters' lock is taken while it is held; log lines
        # are written after it is released, because a handler of the application may block.
        self._lock = threading.RLock()
        self._unreachable = _Failing()
        # A destination for traces alone never accepts logs: that must hide no outage of traces.
        self._unknown = _Failing()
        self._refusal_logged = -float("inf")

    @property
    def is_on(self) -> bool:
        """Whether any signal does not get through."""
        return bool(self._unreachable.signals or self._unknown.signals)

    def failed(
        self,
        signal: str,
        destination: str,
        reason: str,
        *,
        unknown: bool = False,
        channel: str = "",
    ) -> None:
        """Report that a request was not accepted.

        Args:
            signal: The signal.
            destination: The destination as people may see it.
            reason: Why it was not accepted.
            unknown: Whether the destination does not know the signal.
            channel: The name of the channel, if several carry the signal to the destination.
        """
        failing = self._unknown if unknown else self._unreachable
        with self._lock:
            first = not failing.signals
            failing.signals.add((signal, destination, channel))
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

    def succeeded(self, signal: str, destination: str, channel: str = "") -> None:
        """Report that a request was accepted; the arguments are those of ``failed``."""
        key = (signal, destination, channel)
        for failing in (self._unreachable, self._unknown):
            with self._lock:
                if key not in failing.signals:
                    continue
                failing.signals.remove(key)
                if failing.signals:
                    continue
                seconds = time.monotonic() - failing.began
                dropped = self._dropped() - failing.dropped_before
            _warn(
                "Telemetry gets through to %s again after %.0f s%s.",
                destination,
                seconds,
                # The backlog in the repository is not sent yet: the line does not claim delivery.
                f"; {dropped} items were dropped meanwhile" if dropped else "",
            )

    def refused(self, signal: str, destination: str, count: int, reason: str) -> None:
        """Report that a destination refused items for good."""
        now = time.monotonic()
        with self._lock:
            if now - self._refusal_logged < _REFUSALS_LOGGED_EVERY:
                return
            self._refusal_logged = now
        _warn(
            "%s refused %d of the %s: %s. Refused items are counted, and kept as dead letters if a "
            "repository has them; further refusals are logged once an hour.",
            destination,
            count,
            signal,
            reason,
        )

    def _dropped(self) -> int:
        return sum(self._counters.total(signal, "dropped") for signal in ("traces", "logs"))


def _warn(message: str, *values: object) -> None:
    with suppress(Exception):  # a handler of the application may raise anything
        _logger.warning(message, *values)

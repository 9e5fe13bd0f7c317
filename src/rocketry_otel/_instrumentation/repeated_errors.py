"""An error that the scheduler logs again and again, such as that of a condition, at each cycle.

In: each error as a signal. Out: the first one at once, then one a minute with the number of errors
that it counts for, and one at the end.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rocketry_otel._model.log_lines import repeated_signal
from rocketry_otel._runtime.forks import after_fork_in_child

if TYPE_CHECKING:
    from rocketry_otel._model.signals import LogSignal

    from .log_lines import SendLine

SECONDS_BETWEEN = 60.0
# Messages may have ever new texts. The least recent errors are forgotten.
_MOST = 1_000

ErrorKey = tuple[object, ...]


@dataclass(slots=True)
class _Repeated:
    """An error that was sent, and those like it that were not.

    Attributes:
        logger_name: The name of its logger.
        signal: The first one.
        next_at: When the next one may be sent, by ``time.monotonic``.
        count: How many have come since the last one that was sent.
        newest: When the newest of these came, in nanoseconds since the epoch.
    """

    logger_name: str
    signal: LogSignal
    next_at: float
    count: int = 0
    newest: int = 0


class RepeatedErrors:
    """Keeps the errors of one scheduler from being sent ten times a second."""

    def __init__(self) -> None:
        """Begin with no error."""
        self._start_afresh()
        after_fork_in_child(self._start_afresh)

    def _start_afresh(self) -> None:
        # It guards `_known`. No other lock is taken while it is held.
        self._lock = threading.Lock()
        self._known: dict[ErrorKey, _Repeated] = {}

    def is_repeated(self, key: ErrorKey, created: int) -> bool:
        """Return whether an error was sent before, and count it in that case.

        Args:
            key: What equal errors have in common.
            created: When it was logged, in nanoseconds since the epoch.
        """
        with self._lock:
            known = self._known.get(key)
            if known is None:
                return False
            known.count += 1
            known.newest = created
            return True

    def note(self, key: ErrorKey, logger_name: str, signal: LogSignal) -> None:
        """Remember an error that is sent now."""
        with self._lock:
            if len(self._known) >= _MOST:
                del self._known[next(iter(self._known))]
            self._known[key] = _Repeated(logger_name, signal, time.monotonic() + SECONDS_BETWEEN)

    def send_due(self, send: SendLine, *, is_end: bool = False) -> None:
        """Send the errors that have been repeated, if their minute is over.

        Args:
            send: Sends an error, from the name of its logger, the signal and no context.
            is_end: Whether the scheduler ends: then all are sent, and forgotten.
        """
        if not self._known:
            return
        now, due = time.monotonic(), []
        with self._lock:
            for key, one in list(self._known.items()):
                if not is_end and now < one.next_at:
                    continue
                if one.count:
                    signal = repeated_signal(one.signal, one.newest, one.count)
                    due.append((one.logger_name, signal))
                    one.count, one.next_at = 0, now + SECONDS_BETWEEN
                else:
                    # A minute without it: the next one is sent at once.
                    del self._known[key]
            if is_end:
                self._known.clear()
        for logger_name, signal in due:
            send(logger_name, signal, None)

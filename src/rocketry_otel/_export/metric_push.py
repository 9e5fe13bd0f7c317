"""Sends metrics at intervals.

In: a function that collects the metrics. Out: one request for each collection, on an own thread.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from rocketry_otel._runtime.forks import after_fork_in_child
from rocketry_otel._runtime.threads import start_thread, wait_until

from .backoff import SHORTEST_PAUSE, pause_after
from .responses import Answer, Result, shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from .outage import Outage
    from .responses import Destination

_SIGNAL = "metrics"


class MetricPush:
    """Collects metrics at intervals and sends them, on its own thread.

    Metrics are sums: if one collection is not accepted, the next one has its values.

    Args:
        collect: Returns the current metrics; ``None`` if nothing was measured.
        destination: The collector.
        interval: Seconds between two collections.
        outage: Reports each success and failure.
    """

    def __init__(
        self,
        collect: Callable[[], Any],
        destination: Destination,
        interval: float,
        outage: Outage,
    ) -> None:
        self.destination = destination
        self._collect = collect
        self._interval = interval
        self._outage = outage
        # It guards every field below. No other lock of ours is taken while it is held: collecting,
        # sending and reporting happen outside. The pipeline's lock may be held when it is taken.
        self._changed = threading.Condition(threading.RLock())
        self._wanted = 0  # how many collections were requested
        self._done = 0  # how many of them were answered,
        self._delivered = 0  # and the last one that was accepted
        self._close_by: float | None = None  # the deadline of closing, once closing has begun
        self._closed = False
        self._in_child = False
        self._thread: threading.Thread | None = None
        self._wake()
        after_fork_in_child(self._stay_with_the_parent)

    def _stay_with_the_parent(self) -> None:
        # A child that sent its copy of the sums would count the parent's runs again.
        self._changed = threading.Condition(threading.RLock())
        self._in_child = True
        self._closed = True
        self._thread = None

    def hurry(self) -> int:
        """Collect and send at once; return the mark to give to ``wait_for``."""
        with self._changed:
            if not self._closed:
                self._wanted += 1
                self._changed.notify_all()
                self._wake()
            return self._wanted

    def wait_for(self, mark: int, deadline: float) -> bool:
        """Wait until a collection that answers ``mark`` is sent.

        Args:
            mark: The result of ``hurry``.
            deadline: When to stop waiting, by ``time.monotonic()``.

        Returns:
            Whether the collection was accepted in time; true in a forked child, which sends no
            metrics.
        """
        with self._changed:
            wait_until(self._changed, deadline, lambda: self._is_done(mark))
            if self._close_by is None:
                self._done = max(self._done, mark)  # no caller waits for it now
            return self._delivered >= mark or self._in_child

    def begin_closing(self, deadline: float) -> None:
        """Begin the last collection, and do not wait for it."""
        with self._changed:
            is_first = self._close_by is None
            self._close_by = deadline
            if is_first:
                # The thread ends after this collection, and would not answer a second one.
                self.hurry()

    def finish_closing(self) -> None:
        """Wait until the last collection is sent or the deadline has come."""
        with self._changed:
            if self._closed or self._close_by is None:
                return
            wait_until(self._changed, self._close_by, lambda: self._is_done(self._wanted))
            self._closed = True
            self._changed.notify_all()
        self.destination.shutdown()

    @property
    def is_closed(self) -> bool:
        """Whether it sends nothing until ``reopen``."""
        return self._closed

    def reopen(self) -> None:
        """Send again after it was closed."""
        if self._in_child:
            return  # the parent sends these metrics
        with self._changed:
            self._closed = False
            self._close_by = None
            self._thread = None
            self._wake()

    def _is_done(self, mark: int) -> bool:
        return self._done >= mark or self._closed or self._thread is None

    def _wake(self) -> None:
        if self._thread is None:
            self._thread = start_thread(self._work, _SIGNAL)

    def _work(self) -> None:
        pause = self._interval
        failures = 0
        while (mark := self._next_mark(pause)) is not None:
            result = self._push()
            if result.answer is Answer.UNAVAILABLE:
                self._outage.failed(
                    _SIGNAL, self.destination.name, result.reason, unknown=result.unknown
                )
                self._pause(failures, result.retry_after)
                failures += 1
                pause = 0.0
            else:
                self._settle(mark, result)
                failures = 0
                pause = self._interval

    def _next_mark(self, seconds: float) -> int | None:
        """Wait for the next collection; return the mark that it answers, ``None`` to stop."""
        with self._changed:
            wait_until(
                self._changed,
                time.monotonic() + seconds,
                lambda: self._wanted > self._done or self._is_over(),
            )
            return None if self._is_over() else self._wanted

    def _pause(self, failures: int, retry_after: float | None) -> None:
        """Pause before the next try, briefly if a caller waits."""
        began = time.monotonic()
        pause = retry_after
        if pause is None:
            pause = min(pause_after(failures), self._interval)
        with self._changed:
            while not self._closed:
                may_shorten = self._wanted > self._done and retry_after is None
                end = began + (min(pause, SHORTEST_PAUSE) if may_shorten else pause)
                if self._close_by is not None and end > self._close_by:
                    self._done = self._wanted  # the deadline comes before the next try
                    self._changed.notify_all()
                left = end - time.monotonic()
                if left <= 0 or self._is_over():
                    return
                self._changed.wait(left)

    def _settle(self, mark: int, result: Result) -> None:
        name = self.destination.name
        refused = result.answer is Answer.REFUSED or result.rejected > 0
        with self._changed:
            self._done = max(self._done, mark)
            if not refused:
                self._delivered = mark
            self._changed.notify_all()
        if result.answer is Answer.ACCEPTED:
            self._outage.succeeded(_SIGNAL, name)
        if refused:
            self._outage.refused(_SIGNAL, name, max(result.rejected, 1), result.reason)

    def _is_over(self) -> bool:
        return self._closed or (self._close_by is not None and self._done >= self._wanted)

    def _push(self) -> Result:
        """Collect and send; never raises."""
        try:
            data = self._collect()
        except Exception as error:  # noqa: BLE001  # collecting calls the application's callbacks
            return Result(Answer.REFUSED, f"they cannot be collected: {shown(error)}")
        return Result(Answer.ACCEPTED) if data is None else self.destination.export(data)

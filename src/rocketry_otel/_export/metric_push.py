"""Sends metrics at intervals.

In: a function that collects the metrics. Out: one request for each collection, on an own thread.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rocketry_otel._runtime.forks import after_fork_in_child
from rocketry_otel._runtime.threads import wait_until

from .backoff import pause_after
from .channel import Channel
from .responses import Answer, Result, shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from .outage import Outage
    from .responses import Destination

_SIGNAL = "metrics"


class MetricPush(Channel):
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
        super().__init__(_SIGNAL, destination)
        self._collect = collect
        self._interval = interval
        self._outage = outage
        # While the lock of the channel is held, no other lock of ours is taken.
        self._wanted = 0  # how many collections were requested
        self._done = 0  # how many of them were answered,
        self._delivered = 0  # and the last one that was accepted
        self._in_child = False
        self._finish_by: float | None = None  # the deadline, once `begin_closing` was called
        self._wake()
        after_fork_in_child(self._stay_with_the_parent)

    def _stay_with_the_parent(self) -> None:
        # A child that sent its copy of the sums would count the parent's runs again.
        self._start_afresh()
        self._in_child = True
        self._closed = True

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
        """Collect and send at once: another channel may take all of the time."""
        with self._changed:
            if self._finish_by is None:
                self.hurry()
            self._finish_by = deadline

    def finish_closing(self) -> None:
        """Collect and send for the last time: the other channels have counted what they sent."""
        with self._changed:
            if self._finish_by is not None:
                super().begin_closing(self._finish_by)
        super().finish_closing()

    def reopen(self) -> None:
        """Send again after it was closed; not in a child, whose parent sends these metrics."""
        if not self._in_child:
            super().reopen()

    def _begin_again(self) -> None:
        self._finish_by = None
        self._wake()

    def _is_done(self, mark: int) -> bool:
        return self._done >= mark or self._closed or self._thread is None

    def _has_work(self) -> bool:
        return True

    def _is_in_hurry(self) -> bool:
        return self._wanted > self._done

    def _is_settled(self) -> bool:
        # Until it closes, there is always another collection.
        return self._is_closing() and self._done >= self._wanted

    def _give_up(self) -> None:
        self._done = self._wanted
        self._changed.notify_all()

    def _work(self, generation: object) -> None:
        pause = self._interval
        failures = 0
        while (mark := self._next_mark(generation, pause)) is not None:
            result = self._push()
            if self._is_over(generation):
                return  # it was given up, and its exporter shut down
            if result.answer is Answer.UNAVAILABLE:
                self._outage.failed(
                    _SIGNAL, self.destination.name, result.reason, unknown=result.unknown
                )
                self._pause(
                    generation, min(pause_after(failures), self._interval), result.retry_after
                )
                failures += 1
                pause = 0.0
            else:
                self._settle(mark, result)
                failures = 0
                pause = self._interval

    def _next_mark(self, generation: object, seconds: float) -> int | None:
        """Wait for the next collection; return the mark that it answers, ``None`` to stop."""

        def ends() -> bool:
            return self._is_over(generation) or self._is_settled()

        with self._changed:
            wait_until(
                self._changed, time.monotonic() + seconds, lambda: self._is_in_hurry() or ends()
            )
            return None if ends() else self._wanted

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

    def _push(self) -> Result:
        """Collect and send; never raises."""
        try:
            data = self._collect()
        except Exception as error:  # noqa: BLE001  # collecting calls the application's callbacks
            return Result(Answer.REFUSED, f"they cannot be collected: {shown(error)}")
        return Result(Answer.ACCEPTED) if data is None else self.destination.export(data)

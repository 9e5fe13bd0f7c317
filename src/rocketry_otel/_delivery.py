"""Handing telemetry to an exporter, without ever keeping a task waiting.

The SDK's own batch processors throw a failed batch away, drop silently, and neither keep the
time limit of a flush nor tell what became of it. This one keeps what was not accepted, as far
as its queue reaches, and knows what was.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, attach, set_value

from ._destinations import Answer
from ._forks import after_fork_in_child

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._counts import Counts
    from ._destinations import Destination, Result
    from ._outage import Outage

T = TypeVar("T")

SHORTEST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """How much waits, and for how long.

    Attributes:
        size: How many items wait at most; beyond it the oldest is dropped, and counted.
        batch: How many items go in one request at most.
        delay: How many seconds an item waits at most for others to go with it.
    """

    size: int = 2048
    batch: int = 512
    delay: float = 5.0


def pause_after(failures: int) -> float:
    """Return how many seconds to leave a destination alone: more each time, and at random."""
    longest = min(SHORTEST_PAUSE * 2.0 ** min(failures, 10), _LONGEST_PAUSE)
    return longest * random.uniform(0.5, 1.0)  # noqa: S311  # it spreads load and hides nothing


def wait_until(changed: threading.Condition, deadline: float, done: Callable[[], bool]) -> bool:
    """Wait on a condition that is held until something is done, or the deadline has come.

    Unlike ``Condition.wait_for`` it takes any deadline: one in a thousand years, or infinity.

    Returns:
        Whether it was done.
    """
    while not done():
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        changed.wait(min(left, threading.TIMEOUT_MAX))
    return True


def start_thread(work: Callable[[], None], signal: str) -> threading.Thread | None:
    """Start a thread that ends with the program; ``None`` if there can be none."""

    def uninstrumented() -> None:
        # An application that traces its HTTP client would trace the sending of each trace.
        attach(set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))  # noqa: FBT003  # a value
        work()

    thread = threading.Thread(target=uninstrumented, name=f"rocketry-otel-{signal}", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        # The interpreter is on its way out, or the machine has no more threads.
        return None
    return thread


class ExportQueue(Generic[T]):
    """A queue of one signal on its way to one destination, with a thread that empties it.

    Args:
        signal: ``traces`` or ``logs``.
        destination: Where the batches go.
        limits: How much waits, and for how long.
        counts: Where outcomes are counted.
        outage: Told of every success and failure.
    """

    def __init__(
        self,
        signal: str,
        destination: Destination,
        limits: QueueLimits,
        counts: Counts,
        outage: Outage,
    ) -> None:
        self.signal = signal
        self.destination = destination
        self._limits = limits
        self._counts = counts
        self._outage = outage
        self._closed = False
        self._start_afresh()
        after_fork_in_child(self._start_afresh)

    def _start_afresh(self) -> None:
        # Re-entrant, since a signal handler that logs may come in between.
        self._changed = threading.Condition(threading.RLock())
        self._waiting: deque[T] = deque()
        self._thread: threading.Thread | None = None
        self._handed_over = 0
        self._settled = 0
        self._lost = 0
        self._hurry_until = 0  # the count of items that are not to wait for others
        self._close_by: float | None = None  # when closing is to be over, once it has begun

    def put(self, item: T) -> None:
        """Hand over an item; takes microseconds, whatever the destination does."""
        with self._changed:
            if self._closed or self._close_by is not None:
                self._counts.add(self.signal, "dropped", reason="closed")
                return
            self._handed_over += 1
            self._waiting.append(item)
            if len(self._waiting) > self._limits.size:
                self._waiting.popleft()
                self._lose(1, "dropped", "queue_full")
            if len(self._waiting) in (1, self._limits.batch):
                self._changed.notify_all()
            self._wake()

    def hurry(self) -> int:
        """Send what waits at once; return the mark to give to ``wait_for``."""
        with self._changed:
            self._hurry_until = self._handed_over
            self._changed.notify_all()
            self._wake()
            return self._handed_over

    def wait_for(self, mark: int, deadline: float) -> bool:
        """Wait until all that was handed over before ``mark`` has been settled.

        Args:
            mark: What ``hurry`` returned.
            deadline: When to stop waiting, by ``time.monotonic()``.

        Returns:
            Whether everything handed over so far was accepted by the destination, in time.
        """
        with self._changed:
            settled = wait_until(
                self._changed, deadline, lambda: self._settled >= mark or self._thread is None
            )
            if self._hurry_until == mark and self._close_by is None:
                self._hurry_until = 0  # nobody waits any more: tries need not be so frequent
            return settled and self._settled >= mark and self._lost == 0

    def begin_closing(self, deadline: float) -> None:
        """Take in no more and send what waits at once, without waiting for it."""
        with self._changed:
            self._close_by = deadline
            self.hurry()

    def finish_closing(self) -> None:
        """Wait until all is sent or the deadline has come; what is left is lost, and counted."""
        with self._changed:
            if self._closed or self._close_by is None:
                return
            wait_until(
                self._changed,
                self._close_by,
                lambda: self._settled >= self._handed_over or self._thread is None,
            )
            self._give_up()
            self._closed = True
        self.destination.shutdown()

    @property
    def is_closed(self) -> bool:
        """Whether nothing can be sent, until it is opened again."""
        return self._closed

    def reopen(self) -> None:
        """Take in items again after it was closed; what was lost stays counted."""
        lost = self._lost
        self._start_afresh()
        self._handed_over = self._settled = self._lost = lost
        self._closed = False

    def _wake(self) -> None:
        """See to it that there is a thread for what waits; it may fail, and is tried again."""
        if self._thread is None and self._waiting:
            self._thread = start_thread(self._work, self.signal)

    def _work(self) -> None:
        failures = 0
        while (batch := self._next_batch()) is not None:
            stopped_by = self._deliver(batch)
            if stopped_by is None:
                failures = 0
                continue
            self._outage.failed(
                self.signal,
                self.destination.name,
                stopped_by.reason,
                unknown=stopped_by.unknown,
            )
            self._pause(failures, stopped_by.retry_after)
            failures += 1

    def _next_batch(self) -> list[T] | None:
        """Wait for a batch that is full, due or wanted in a hurry; ``None`` when closed."""
        with self._changed:
            wait_until(
                self._changed, float("inf"), lambda: bool(self._waiting) or self._is_closing()
            )
            wait_until(
                self._changed,
                time.monotonic() + self._limits.delay,
                lambda: (
                    len(self._waiting) >= self._limits.batch
                    or self._settled < self._hurry_until
                    or self._is_closing()
                ),
            )
            count = min(self._limits.batch, len(self._waiting))
            return [self._waiting.popleft() for _ in range(count)] or None

    def _deliver(self, batch: list[T]) -> Result | None:
        """Send a batch, in parts if need be; return the answer that stopped it, if one did."""
        parts = [batch]
        while parts and not self._closed:
            part = parts.pop()
            result = self.destination.export(part)
            if result.answer is Answer.UNAVAILABLE:
                self._put_back([*part, *(item for rest in reversed(parts) for item in rest)])
                return result
            if result.splittable and len(part) > 1:
                middle = len(part) // 2
                parts += [part[middle:], part[:middle]]
            else:
                self._settle(part, result)
        return None

    def _put_back(self, batch: list[T]) -> None:
        with self._changed:
            if self._closed:
                return  # counted as lost when it was given up
            self._waiting.extendleft(reversed(batch))
            too_many = max(len(self._waiting) - self._limits.size, 0)
            for _ in range(too_many):
                self._waiting.popleft()
            self._lose(too_many, "dropped", "queue_full")

    def _pause(self, failures: int, retry_after: float | None) -> None:
        """Leave the destination alone for a while, a short one if somebody waits."""
        began = time.monotonic()
        pause = pause_after(failures) if retry_after is None else retry_after
        with self._changed:
            while not self._closed:
                in_hurry = self._is_closing() or self._settled < self._hurry_until
                may_shorten = in_hurry and retry_after is None
                end = began + (min(pause, SHORTEST_PAUSE) if may_shorten else pause)
                if self._close_by is not None and end > self._close_by:
                    self._give_up()  # there will be no time for another try
                left = end - time.monotonic()
                if left <= 0 or self._settled == self._handed_over:
                    return
                self._changed.wait(left)

    def _settle(self, batch: list[T], result: Result) -> None:
        count = len(batch)
        refused = count if result.answer is Answer.REFUSED else min(result.rejected, count)
        accepted = count - refused
        with self._changed:
            if self._closed:
                return  # counted as lost when it was given up
            if accepted:
                self._settled += accepted
                self._counts.add(self.signal, "delivered", accepted)
            self._lose(refused, "failed", "refused")
            self._changed.notify_all()
        if refused:
            self._outage.refused(self.signal, self.destination.name, refused, result.reason)
        if result.answer is Answer.ACCEPTED:
            self._outage.succeeded(self.signal, self.destination.name)

    def _give_up(self) -> None:
        self._waiting.clear()
        self._lose(self._handed_over - self._settled, "dropped", "shutdown")

    def _lose(self, count: int, outcome: Any, reason: str) -> None:
        if count:
            self._settled += count
            self._lost += count
            self._counts.add(self.signal, outcome, count, reason)
            self._changed.notify_all()

    def _is_closing(self) -> bool:
        return self._closed or self._close_by is not None

"""Handing telemetry to an exporter, without ever keeping a task waiting.

The SDK's own batch processors throw a failed batch away, drop silently, and neither keep the
time limit of a flush nor tell what became of it. This one keeps what was not accepted, as far
as its queue reaches, and leaves the rest to the repository that has it.
"""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from rocketry_otel._runtime.forks import after_fork_in_child
from rocketry_otel._runtime.threads import start_thread, wait_until

from .backoff import SHORTEST_PAUSE, pause_after
from .batch import Entry, send_batch
from .buffer import Buffer, QueueLimits
from .rereading import Rereading
from .responses import Answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from .counters import Counters, Outcome
    from .outage import Outage
    from .record_ref import RecordRef
    from .responses import Destination, Result

    SetAside = Callable[["ExportQueue[Any]", list[Entry], int, str], None]

T = TypeVar("T")


class ExportQueue(Rereading, Generic[T]):
    """A queue of one signal on its way to one destination, with a thread that empties it.

    Where there is no room, what comes from a stored record is left to be read from the
    repository again. Anything else is dropped then, and counted.

    Args:
        signal: ``traces`` or ``logs``.
        destination: Where the batches go.
        limits: How much waits, and for how long.
        counters: Where outcomes are counted.
        outage: Told of every success and failure.

    Attributes:
        name: What names it among all queues, also those of other processes.
        add_dead_letters: Told, before anybody else, of entries of which some were refused for good:
            by which queue, how many, and why.
        last_error: What last went wrong, if anything has.
        sent_again: How many items were handed over from the repository.
        generation: Another one each time that it is opened.
    """

    def __init__(
        self,
        signal: str,
        destination: Destination,
        limits: QueueLimits,
        counters: Counters,
        outage: Outage,
    ) -> None:
        self.signal = signal
        self.destination = destination
        self.name = f"{signal} {destination.name}"
        self.add_dead_letters: SetAside = _forget
        self._limits = limits
        self._counters = counters
        self._outage = outage
        self._start_afresh()
        after_fork_in_child(self._start_afresh)

    def _start_afresh(self) -> None:
        # Re-entrant, since a signal handler that logs may come in between.
        self._changed = threading.Condition(threading.RLock())
        self._held = Buffer(self._limits.size)
        self._closed = False
        # Whoever was there before it was closed is not to meddle with what comes after.
        self.generation = object()
        self._thread: threading.Thread | None = None
        self._handed_over = 0
        self._settled = 0
        self._lost = 0
        self._lost_seen = 0  # by the last wait,
        self._lost_reported = 0  # and by the last flush
        self._failing: str | None = None  # why, if nothing gets through
        self._known_good: T | None = None  # what was accepted last
        self.last_error: str | None = None
        self.sent_again = 0
        self._hurry_until = 0  # the count of items that are not to wait for others
        self._close_by: float | None = None  # when closing is to be over, once it has begun

    def put(self, item: T, record_ref: RecordRef | None = None) -> None:
        """Hand over an item; takes microseconds, whatever the destination does.

        Args:
            item: The item.
            record_ref: The stored record that it comes from, if it comes from one.
        """
        if record_ref is not None and not record_ref.is_for(self.name):
            return
        with self._changed:
            if self._closed or self._close_by is not None:
                if record_ref is None:
                    self._counters.add(self.signal, "dropped", reason="closed")
                elif record_ref.is_live:
                    self._held.leave(record_ref)
                return
            self._handed_over += 1
            if record_ref is not None and not record_ref.is_live:
                self.sent_again += 1
            if not self._held.add(Entry(item, record_ref)):
                self._settled += 1
                return
            if record_ref is None:
                self._lose(self._held.trim(), "dropped", "queue_full")
            if len(self._held.waiting) in (1, self._limits.batch):
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
            Whether all of that was accepted by the destination, in time, and nothing was lost
            since losses were last reported.
        """
        with self._changed:
            settled = wait_until(
                self._changed, deadline, lambda: self._settled >= mark or self._thread is None
            )
            self._hurry_no_more(mark)
            accepted = settled and self._settled >= mark
            self._lost_seen = self._lost
            return accepted and self._lost == self._lost_reported and not self.has_overflow

    def report_losses(self) -> None:
        """Let the next flush be about what is lost from the last wait on."""
        self._lost_reported = self._lost_seen

    def _hurry_no_more(self, mark: int) -> None:
        if self._hurry_until == mark and self._close_by is None:
            self._hurry_until = 0  # nobody waits any more: tries need not be so frequent

    def begin_closing(self, deadline: float) -> None:
        """Take in no more and send what waits at once, without waiting for it."""
        with self._changed:
            self._close_by = deadline
            self.hurry()

    def finish_closing(self) -> None:
        """Wait until all is sent or the deadline has come; then give up what is left."""
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
        with self._changed:
            if self._closed:
                self._closed = False
                self._close_by = None
                self._hurry_until = 0
                self._failing = self.last_error = None
                self._thread = None
                self.generation = object()

    def _wake(self) -> None:
        """See to it that there is a thread for what waits; it may fail, and is tried again."""
        if self._thread is None and self._held.waiting:
            self._thread = start_thread(partial(self._work, self.generation), self.signal)

    def _work(self, generation: object) -> None:
        failures = 0
        while batch := self._next_batch(generation):
            left, doubtful, stopped_by = send_batch(
                batch,
                self.destination.export,
                partial(self._settle, generation),
                lambda: self._is_over(generation),
                self._known_good,
            )
            self._put_back(generation, left, doubtful, stopped_by)
            if stopped_by is None:
                failures = 0
                continue
            self._outage.failed(
                self.signal, self.destination.name, stopped_by.reason, unknown=stopped_by.unknown
            )
            self._pause(generation, failures, stopped_by.retry_after)
            failures += 1

    def _next_batch(self, generation: object) -> list[Entry]:
        """Wait for a batch that is full, due or wanted in a hurry; empty when closed."""
        with self._changed:
            wait_until(
                self._changed,
                float("inf"),
                lambda: bool(self._held.waiting) or self._is_closing() or self._is_over(generation),
            )
            wait_until(
                self._changed,
                time.monotonic() + self._limits.delay,
                lambda: (
                    len(self._held.waiting) >= self._limits.batch
                    or self._settled < self._hurry_until
                    or self._is_closing()
                    or self._is_over(generation)
                ),
            )
            return [] if self._is_over(generation) else self._held.take(self._limits.batch)

    def _put_back(
        self,
        generation: object,
        left: list[Entry],
        doubtful: list[Entry],
        stopped_by: Result | None,
    ) -> None:
        with self._changed:
            if self._is_over(generation):
                return  # all was given up
            self._failing = None if stopped_by is None else stopped_by.reason
            self.last_error = self._failing or self.last_error
            self._held.put_back(left, doubtful)
            if left or doubtful:
                self._counters.add(self.signal, "retried", len(left) + len(doubtful))
            self._lose(self._held.trim(), "dropped", "queue_full")
            self._changed.notify_all()

    def _pause(self, generation: object, failures: int, retry_after: float | None) -> None:
        """Leave the destination alone for a while, a short one if somebody waits."""
        began = time.monotonic()
        pause = pause_after(failures) if retry_after is None else retry_after
        with self._changed:
            while not self._is_over(generation):
                in_hurry = self._is_closing() or self._settled < self._hurry_until
                may_shorten = in_hurry and retry_after is None
                end = began + (min(pause, SHORTEST_PAUSE) if may_shorten else pause)
                if self._close_by is not None and end > self._close_by:
                    self._give_up()  # there will be no time for another try
                left = end - time.monotonic()
                if left <= 0 or self._settled == self._handed_over:
                    return
                self._changed.wait(left)

    def _settle(self, generation: object, part: list[Entry], result: Result) -> None:
        count = len(part)
        refused = count if result.answer is Answer.REFUSED else min(result.rejected, count)
        accepted = count - refused
        if refused and not self._is_over(generation):
            self.add_dead_letters(self, part, refused, result.reason)
        with self._changed:
            if self._is_over(generation):
                return  # counted as lost when it was given up
            self._held.settle(part)
            if accepted:
                self._failing = None
                self._known_good = self._known_good if refused else part[-1].item
                self._settled += accepted
                self._counters.add(self.signal, "delivered", accepted)
                again = sum(
                    1 for _, record_ref in part if record_ref is not None and not record_ref.is_live
                )
                if again:
                    self._counters.add(self.signal, "replayed", min(again, accepted))
            if refused:
                self.last_error = result.reason
            self._lose(refused, "failed", "refused")
            self._changed.notify_all()
        if refused:
            self._outage.refused(self.signal, self.destination.name, refused, result.reason)
        if result.answer is Answer.ACCEPTED:
            self._outage.succeeded(self.signal, self.destination.name)

    def _give_up(self) -> None:
        self._lose(self._held.give_up(), "dropped", "shutdown")
        self._settled = self._handed_over
        self._changed.notify_all()

    def _lose(self, count: int, outcome: Outcome, reason: str) -> None:
        if count:
            self._settled += count
            self._lost += count
            self._counters.add(self.signal, outcome, count, reason)
            self._changed.notify_all()

    def _is_over(self, generation: object) -> bool:
        return self._closed or generation is not self.generation

    def _is_closing(self) -> bool:
        return self._closed or self._close_by is not None


def _forget(*_: object) -> None:
    """Set nothing aside."""

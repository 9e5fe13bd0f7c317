"""The queue of one channel: a task hands an item over, and a thread sends it.

In: spans or log records, each with the reference to its stored record. Out: batches to a
destination; if the buffer is full, the rest is left to the repository.

The SDK's batch processors throw a failed batch away, drop items silently, and keep no time limit
of a flush. This queue keeps items until they are accepted, and knows the result of a flush.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from rocketry_otel._runtime.forks import after_fork_in_child
from rocketry_otel._runtime.threads import wait_until

from .backoff import pause_after
from .batch import Entry, send_batch
from .buffer import Buffer, QueueLimits
from .channel import Channel
from .deferred import Deferred, made
from .responses import Answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from .counters import Counters, Outcome
    from .outage import Outage
    from .record_ref import RecordRef
    from .responses import Destination, Result

    SetAside = Callable[["ExportQueue[Any]", list[Entry], int, str], None]

T = TypeVar("T")
R = TypeVar("R")


class ExportQueue(Channel, Generic[T]):
    """The queue of one signal to one destination, with a thread that empties it.

    If the queue is full, items of stored records are read from the repository again later. Other
    items are dropped and counted.

    Args:
        signal: ``traces`` or ``logs``.
        destination: Where the batches go.
        limits: The limits of the queue.
        counters: The number of items by their outcome.
        outage: Reports each success and failure.
        for_lines: Whether the queue is for log lines, which no repository has.

    Attributes:
        name: The name of the channel, the same in all processes.
        add_dead_letters: Called first if items were refused for good, with the queue, the
            entries, the number of refused ones among them, and the reason.
        last_error: The reason of the last failure, if anything has failed.
        sent_again: The number of items that were handed over from the repository.
        for_lines: Whether the queue is for log lines.
    """

    def __init__(
        self,
        signal: str,
        destination: Destination,
        limits: QueueLimits,
        counters: Counters,
        outage: Outage,
        *,
        for_lines: bool = False,
    ) -> None:
        self.for_lines = for_lines
        self.name = f"{signal} {destination.name}{' (lines)' if for_lines else ''}"
        # The operator must be able to distinguish lines from records of runs.
        self._when_full = "line_queue_full" if for_lines else "queue_full"
        self.add_dead_letters: SetAside = _forget
        self._limits = limits
        self._counters = counters
        self._outage = outage
        super().__init__(signal, destination)
        after_fork_in_child(self._start_afresh)

    def _start_afresh(self) -> None:
        super()._start_afresh()
        # The lock of the channel guards all of this, and the buffer. While it is held, only the
        # counters' lock is taken; `add_dead_letters` is called without it.
        self._held = Buffer(self._limits.size)
        self._handed_over = 0
        self._settled = 0
        self._lost = 0
        self._lost_seen = 0  # by the last wait,
        self._lost_reported = 0  # and by the last flush
        self._failing: str | None = None  # the reason, if nothing gets through
        self._known_good: T | None = None  # the item that was accepted last
        self.last_error: str | None = None
        self.sent_again = 0
        self._hurry_until = 0  # this many items, of all handed over, are sent at once

    def put(self, item: T, record_ref: RecordRef | None = None) -> None:
        """Hand over an item; takes microseconds, however slow the destination is.

        Args:
            item: The item.
            record_ref: The stored record that it came from; ``None`` if no repository has it.
        """
        positions = None if record_ref is None else record_ref.positions
        if positions is not None and self.name not in positions:
            return
        with self._lock:
            if self._close_by is not None or self._closed:
                if record_ref is None:
                    self._counters.add(self.signal, "dropped", reason="closed")
                elif positions is None:
                    self._held.leave(record_ref)
                return
            self._handed_over += 1
            if positions is not None:
                self.sent_again += 1
            if not self._held.add(Entry(item, record_ref)):
                self._settled += 1
                return
            if record_ref is None:
                self._lose(self._held.trim(), "dropped", self._when_full)
            if len(self._held.waiting) in (1, self._limits.batch):
                self._changed.notify_all()
            if self._thread is None:
                self._wake()

    def hurry(self) -> int:
        """Send all items at once; return the mark to give to ``wait_for``."""
        with self._changed:
            self._hurry_until = self._handed_over
            self._changed.notify_all()
            self._wake()
            return self._handed_over

    def wait_for(self, mark: int, deadline: float) -> bool:
        """Wait until all items handed over before ``mark`` are settled.

        Args:
            mark: The result of ``hurry``.
            deadline: When to stop waiting, by ``time.monotonic()``.

        Returns:
            Whether the destination accepted all of them in time, and no item was lost since the
            last report of losses.
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
        """Let the next flush report only losses after the last wait."""
        self._lost_reported = self._lost_seen

    def _hurry_no_more(self, mark: int) -> None:
        if self._hurry_until == mark and self._close_by is None:
            self._hurry_until = 0  # no caller waits now: tries may be rarer

    def _begin_again(self) -> None:
        self._hurry_until = 0
        self._failing = self.last_error = None

    def _has_work(self) -> bool:
        return bool(self._held.waiting)

    def _is_in_hurry(self) -> bool:
        return self._is_closing() or self._settled < self._hurry_until

    def _is_settled(self) -> bool:
        return self._settled >= self._handed_over

    def _work(self, generation: object) -> None:
        failures = 0
        while taken := self._next_batch(generation):
            batch = self._made(generation, taken)
            if not batch:
                continue
            left, doubtful, stopped_by = send_batch(
                batch,
                self.destination.export,
                partial(self._settle, generation),
                lambda: self._is_over(generation),
                self._known_good,
            )
            if not self._put_back(generation, left, doubtful, stopped_by):
                return  # the shutdown of the exporter may have stopped it: that is no outage
            if stopped_by is None:
                failures = 0
                continue
            self._outage.failed(
                self.signal,
                self.destination.name,
                stopped_by.reason,
                unknown=stopped_by.unknown,
                channel=self.name,
            )
            self._pause(generation, pause_after(failures), stopped_by.retry_after)
            failures += 1

    def _next_batch(self, generation: object) -> list[Entry]:
        """Wait for a batch that is full, due or hurried; empty when closed."""
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
                    or self._is_in_hurry()
                    or self._is_over(generation)
                ),
            )
            return [] if self._is_over(generation) else self._held.take(self._limits.batch)

    def _made(self, generation: object, batch: list[Entry]) -> list[Entry]:
        """Make the deferred items of a batch; those that cannot be made are lost, and counted."""
        if not any(isinstance(entry.item, Deferred) for entry in batch):
            return batch
        entries, left_out = [], []
        for entry in batch:
            its = _made(entry, encoded=self.destination.takes_encoded)
            if its is None:
                left_out.append(entry.record_ref)
            else:
                entries.append(its)
        with self._changed:
            if not self._is_over(generation):
                self._held.replace_in_flight(entries)
                self._settled += len(left_out)
                self.sent_again -= sum(1 for one in left_out if one is not None and one.positions)
                self._changed.notify_all()
        return entries

    def _put_back(
        self,
        generation: object,
        left: list[Entry],
        doubtful: list[Entry],
        stopped_by: Result | None,
    ) -> bool:
        """Put back what was not accepted; return whether the queue goes on."""
        with self._changed:
            if self._is_over(generation):
                return False  # all was given up
            self._failing = None if stopped_by is None else stopped_by.reason
            self.last_error = self._failing or self.last_error
            self._held.put_back(left, doubtful)
            if left or doubtful:
                self._counters.add(self.signal, "retried", len(left) + len(doubtful))
            self._lose(self._held.trim(), "dropped", self._when_full)
            self._changed.notify_all()
            return True

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
            self._outage.succeeded(self.signal, self.destination.name, self.name)

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

    # Backpressure for catch-up and replay, which send again from the repository.

    def ask(self, question: Callable[[Buffer], R]) -> R:
        """Return the result of a function of the buffer, such as ``Buffer.oldest``."""
        with self._changed:
            return question(self._held)

    @property
    def has_overflow(self) -> bool:
        """Whether items are left to the repository."""
        return self._held.overflow is not None or self._held.handed_over is not None

    @property
    def error(self) -> str | None:
        """Why nothing gets through; ``None`` if items do, as far as is known."""
        return self._failing

    def wait_for_room(self, timeout: float) -> bool:
        """Wait for room for items that are sent again, beside the live ones.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            Whether the queue has room, and the destination accepts items.
        """
        with self._changed:
            if timeout and not self._has_room():
                # A batch may be larger than the room that is left.
                mark = self.hurry()
                wait_until(self._changed, time.monotonic() + timeout, self._has_room)
                self._hurry_no_more(mark)
            return self._has_room()

    def _has_room(self) -> bool:
        room = max(self._limits.size // 2, 1)
        return len(self._held.waiting) < room and self._takes_things()

    def wait_until_sent_again(self, timeout: float) -> bool:
        """Send at once, and wait until all items that are sent again are settled.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            Whether they are settled, or cannot be: the destination accepts nothing, or the queue
            is closing.
        """
        with self._changed:
            mark = self.hurry()
            is_over = wait_until(
                self._changed,
                time.monotonic() + timeout,
                lambda: self._first_position() is None or not self._takes_things(),
            )
            self._hurry_no_more(mark)
            return is_over

    def settled_until(self, position: int, generation: object) -> int | None:
        """Return the position before which all items that are sent again are settled.

        Args:
            position: The position up to which items were handed over.
            generation: The ``generation`` of the queue at that time.

        Returns:
            The position; ``None`` if it is not known, because the queue is closing or was closed.
        """
        with self._changed:
            if self._is_closing() or generation is not self.generation:
                return None
            first = self._first_position()
            return position if first is None else min(first, position)

    def _first_position(self) -> int | None:
        return self._held.first_position(self.name)

    def _takes_things(self) -> bool:
        return self._failing is None and not self._is_closing()


def _made(entry: Entry, *, encoded: bool) -> Entry | None:
    """Return an entry with its item made; ``None`` if there is none, or it fails, which counts."""
    deferred = entry.item
    if not isinstance(deferred, Deferred):
        return entry
    try:
        item = made(deferred, encoded=encoded)
        return None if item is None else Entry(item, entry.record_ref)
    except Exception as error:  # noqa: BLE001  # a sampler or limit of the user's may raise
        deferred.maker.lost(error)
        return None


def _forget(*_: object) -> None:
    """Keep no dead letters."""

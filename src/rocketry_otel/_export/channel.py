"""A channel: one signal on its way to one destination, with a thread that sends it.

In: items or collections to send. Out: requests to the destination; when the channel closes, all
that can be sent in time.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from functools import partial
from typing import TYPE_CHECKING

from rocketry_otel._runtime.threads import start_thread, wait_until

from .backoff import SHORTEST_PAUSE

if TYPE_CHECKING:
    from .responses import Destination


def signal_of(channel: str) -> str:
    """Return the signal of the name of a channel: the signal, a space, the destination."""
    return channel.partition(" ")[0]


class Channel(ABC):
    """The thread of one signal and one destination: it wakes, hurries, pauses and closes.

    Args:
        signal: ``traces``, ``logs`` or ``metrics``.
        destination: The collector.

    Attributes:
        generation: A new object each time that the channel is opened.
    """

    def __init__(self, signal: str, destination: Destination) -> None:
        self.signal = signal
        self.destination = destination
        self._start_afresh()

    def _start_afresh(self) -> None:
        # It guards every field that changes, of the subclasses too. The locks of pipeline and
        # checkpointer may be held when it is taken, never the other way round. The destination and
        # the outage are called without it. Re-entrant, because a signal handler that logs may
        # interrupt its holder.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._closed = False
        self._close_by: float | None = None  # the deadline of closing, once closing has begun
        # A thread of an earlier generation must not change the state of a later one.
        self.generation = object()
        self._thread: threading.Thread | None = None

    @abstractmethod
    def hurry(self) -> int:
        """Send at once; return the mark to give to ``wait_for``."""

    @abstractmethod
    def wait_for(self, mark: int, deadline: float) -> bool:
        """Return whether all up to ``mark`` was accepted before ``deadline``."""

    def begin_closing(self, deadline: float) -> None:
        """Take nothing more, begin to send the rest at once, and do not wait for it.

        Args:
            deadline: When the rest is given up, by ``time.monotonic()``.
        """
        with self._changed:
            is_first = self._close_by is None
            self._close_by = deadline
            if is_first:
                self.hurry()

    def finish_closing(self) -> None:
        """Wait until all is sent or the deadline has come; then give up the rest."""
        with self._changed:
            if self._closed or self._close_by is None:
                return
            wait_until(
                self._changed, self._close_by, lambda: self._is_settled() or self._thread is None
            )
            self._give_up()
            self._closed = True
            self._changed.notify_all()
        self.destination.shutdown()

    @property
    def is_closed(self) -> bool:
        """Whether it sends nothing until ``reopen``."""
        return self._closed

    def reopen(self) -> None:
        """Send again after it was closed; lost items stay counted."""
        with self._changed:
            if self._closed:
                self._closed = False
                self._close_by = None
                self._thread = None
                self.generation = object()
                self._begin_again()

    def _wake(self) -> None:
        """Start the thread if there is work; if that fails, the next call tries again."""
        if self._thread is None and self._has_work():
            self._thread = start_thread(partial(self._work, self.generation), self.signal)

    def _pause(self, generation: object, seconds: float, retry_after: float | None) -> None:
        """Pause before the next try.

        Args:
            generation: That of the calling thread.
            seconds: How long; less if a caller waits.
            retry_after: How long instead, if the destination asks for it; never less.
        """
        began = time.monotonic()
        pause = seconds if retry_after is None else retry_after
        with self._changed:
            while not self._is_over(generation):
                may_shorten = retry_after is None and self._is_in_hurry()
                end = began + (min(pause, SHORTEST_PAUSE) if may_shorten else pause)
                if self._close_by is not None and end > self._close_by:
                    self._give_up()  # the deadline comes before the next try
                left = end - time.monotonic()
                if left <= 0 or self._is_settled():
                    return
                self._changed.wait(left)

    def _is_over(self, generation: object) -> bool:
        return self._closed or generation is not self.generation

    def _is_closing(self) -> bool:
        return self._closed or self._close_by is not None

    @abstractmethod
    def _has_work(self) -> bool: ...

    @abstractmethod
    def _work(self, generation: object) -> None:
        """Send until the channel closes; the body of the thread."""

    @abstractmethod
    def _is_in_hurry(self) -> bool:
        """Return whether a caller waits."""

    @abstractmethod
    def _is_settled(self) -> bool:
        """Return whether there is nothing to try again."""

    @abstractmethod
    def _give_up(self) -> None:
        """Settle the rest without sending it."""

    @abstractmethod
    def _begin_again(self) -> None:
        """Prepare the fields of a subclass for a new generation."""

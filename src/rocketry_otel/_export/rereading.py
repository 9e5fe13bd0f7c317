"""What a queue tells, and does, for whoever reads the repository again."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, TypeVar

from rocketry_otel._runtime.threads import wait_until

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from .buffer import Buffer, QueueLimits

R = TypeVar("R")


class Rereading(ABC):
    """A queue, seen from whoever sends from the repository what had no room in it.

    Attributes:
        name: What names it among all queues, also those of other processes.
        generation: Another one each time that it is opened.
    """

    name: str
    generation: object
    _changed: threading.Condition
    _held: Buffer
    _limits: QueueLimits
    _failing: str | None  # why, if nothing gets through

    @abstractmethod
    def hurry(self) -> int:
        """Send what waits at once; return the mark of what that is."""

    @abstractmethod
    def _hurry_no_more(self, mark: int) -> None:
        """Take back a wish to hurry that nobody has any more."""

    @abstractmethod
    def _is_closing(self) -> bool:
        """Return whether nothing is taken in any more."""

    def ask(self, question: Callable[[Buffer], R]) -> R:
        """Return the answer to a question about what is here, such as ``Buffer.oldest``."""
        with self._changed:
            return question(self._held)

    @property
    def has_overflow(self) -> bool:
        """Whether something is to be read from the repository again."""
        return self._held.overflow is not None or self._held.handed_over is not None

    @property
    def error(self) -> str | None:
        """Why nothing gets through at present; ``None`` if it does, as far as is known."""
        return self._failing

    def wait_for_room(self, timeout: float) -> bool:
        """Wait until there is room for what is sent again, beside what is sent at first.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            Whether there is, and the destination takes things.
        """
        with self._changed:
            if timeout and not self._has_room():
                # A batch may be more than there is room for.
                mark = self.hurry()
                wait_until(self._changed, time.monotonic() + timeout, self._has_room)
                self._hurry_no_more(mark)
            return self._has_room()

    def _has_room(self) -> bool:
        room = max(self._limits.size // 2, 1)
        return len(self._held.waiting) < room and self._takes_things()

    def wait_until_sent_again(self, timeout: float) -> bool:
        """Send at once, and wait until, all that is sent again.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            Whether it is settled, or the destination takes nothing, or this is being closed.
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
        """Return up to which position all that is sent again is settled.

        Args:
            position: Up to which it was handed over.
            generation: The ``generation`` that this had then.

        Returns:
            ``None`` if it cannot be told, since this is being closed, or was.
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

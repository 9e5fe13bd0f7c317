"""One channel while it catches up."""

from __future__ import annotations

from collections import deque
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rocketry_otel._export.queue import ExportQueue
    from rocketry_otel._history.reconstruct import Reconstructed
    from rocketry_otel._model.event import TaskEvent

    from .checkpoint import Backlog


class Cursor:
    """A channel that is catching up.

    Attributes:
        queue: The channel.
        backlog: What was to be sent on it when this began.
        position: How many of the records that it is about were read.
        is_on: Whether the channel takes more.
        is_read: Whether all of them were read.
    """

    def __init__(self, queue: ExportQueue[Any], backlog: Backlog) -> None:
        self.queue = queue
        self.backlog = backlog
        self.position = 0
        self.is_on = True
        self.is_read = False
        # Of what is not noted yet: what each record is known by again, and when it was created.
        self._marks: deque[tuple[int, str, int]] = deque()
        self._mark, self._reached = backlog.mark, backlog.reached
        self._generation = queue.generation
        self._is_other = False
        self._noted = (backlog.done, backlog.mark)
        # Behind this are records that are newer than what is to be sent. They count as done with
        # all the rest alone: some may be left meanwhile, and be to be sent.
        self._end: int | None = None

    def resume(self, backlog: Backlog | None, *, is_on: bool) -> bool:
        """Go on with the next record; return whether that is possible.

        Args:
            backlog: What is to be sent now: it may have grown, or have been taken up anew.
            is_on: Whether the channel takes something now.
        """
        if backlog is None or self._is_other or self._generation is not self.queue.generation:
            return False
        # Records behind the end of the backlog were passed, and are wanted if that end has moved.
        has_moved = self._end is not None and backlog.until != self.backlog.until
        is_same = (backlog.since, backlog.done, backlog.mark) == (self.backlog.since, *self._noted)
        self.backlog, self.is_on, self.is_read = backlog, is_on, False
        return is_same and not has_moved

    def is_about(self, event: TaskEvent) -> bool:
        """Return whether an event counts among those that were to be sent."""
        return event.created >= self.backlog.since

    def passes(self, one: Reconstructed) -> bool:
        """Take note of a record; return whether it is to be sent."""
        self.position += 1
        done = self.backlog.done
        if self.position < done:
            return False
        mark = _mark_of(one)
        if self.position == done:
            if mark != self.backlog.mark:
                # Records were removed: what is done can only be found out from the beginning.
                self._is_other = True
                self.is_on = False
            return False
        is_wanted = one.event.created <= self.backlog.until
        if not is_wanted and self._end is None:
            self._end = self.position - 1
        if self._end is None:
            self._marks.append((self.position, mark, one.event.created))
        return is_wanted

    def stop_before(self, position: int) -> None:
        """Take back that a record passes: the channel takes nothing any more."""
        self.position = position
        while self._marks and self._marks[-1][0] > position:
            self._marks.pop()

    def noted(self) -> Backlog | None:
        """Return what is left of the backlog; ``None`` if there is nothing new to tell."""
        if self._is_other or (self.is_read and self.position < self.backlog.done):
            return self.backlog._replace(done=0, mark="")
        done = self.queue.settled_until(self.position, self._generation)
        if done is None:
            return None
        if self._end is not None and not (self.is_read and done == self.position):
            done = min(done, self._end)
        if done <= self.backlog.done:
            return self.backlog if self.is_read else None
        while self._marks and self._marks[0][0] <= done:
            _, self._mark, self._reached = self._marks.popleft()
        self._noted = (done, self._mark)
        waiting = max(self.backlog.waiting - (done - self.backlog.done), 0)
        return self.backlog._replace(
            done=done, mark=self._mark, waiting=waiting, reached=self._reached
        )


def _mark_of(one: Reconstructed) -> str:
    event = one.event
    text = f"{event.created}\0{event.task_name}\0{event.action}\0{event.run_id}"
    return blake2b(text.encode(), digest_size=8).hexdigest()

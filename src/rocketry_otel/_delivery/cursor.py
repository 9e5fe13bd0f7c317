"""The position of one channel in a reading of the repository."""

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
        backlog: Its backlog when this began.
        position: How many records of the backlog were read.
        is_on: Whether the channel takes more.
        is_read: Whether all records of the backlog were read.
    """

    def __init__(self, queue: ExportQueue[Any], backlog: Backlog) -> None:
        self.queue = queue
        self.backlog = backlog
        self.position = 0
        self.is_on = True
        self.is_read = False
        # For each record whose delivery is not stored: its position, mark and time of creation.
        self._marks: deque[tuple[int, str, int]] = deque()
        self._mark, self._reached = backlog.mark, backlog.reached
        self._generation = queue.generation
        self._is_other = False
        self._stored = (backlog.done, backlog.mark)
        # The records behind this position are newer than the backlog. They are done only when all
        # are: some of them may be added to the backlog meanwhile.
        self._end: int | None = None

    def resume(self, backlog: Backlog | None, *, is_on: bool) -> bool:
        """Go on with the next record; return whether that is possible.

        Args:
            backlog: The backlog now: it may have grown, or begun again.
            is_on: Whether the channel takes items now.
        """
        if backlog is None or self._is_other or self._generation is not self.queue.generation:
            return False
        # Records behind the end of the backlog were passed. If the end has moved, they are needed.
        has_moved = self._end is not None and backlog.until != self.backlog.until
        is_same = (backlog.since, backlog.done, backlog.mark) == (self.backlog.since, *self._stored)
        self.backlog, self.is_on, self.is_read = backlog, is_on, False
        return is_same and not has_moved

    def is_about(self, event: TaskEvent) -> bool:
        """Return whether an event is new enough for the backlog."""
        return event.created >= self.backlog.since

    def passes(self, one: Reconstructed) -> bool:
        """Pass a record; return whether it is to be sent."""
        self.position += 1
        done = self.backlog.done
        if self.position < done:
            return False
        mark = _mark_of(one)
        if self.position == done:
            if mark != self.backlog.mark:
                # Records were removed: another reading must begin at the first record.
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
        """Go back before a record: the channel takes no more items."""
        self.position = position
        while self._marks and self._marks[-1][0] > position:
            self._marks.pop()

    def progress(self) -> Backlog | None:
        """Return the rest of the backlog; ``None`` if it has not changed."""
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
        self._stored = (done, self._mark)
        waiting = max(self.backlog.waiting - (done - self.backlog.done), 0)
        return self.backlog._replace(
            done=done, mark=self._mark, waiting=waiting, reached=self._reached
        )


def _mark_of(one: Reconstructed) -> str:
    event = one.event
    text = f"{event.created}\0{event.task_name}\0{event.action}\0{event.run_id}"
    return blake2b(text.encode(), digest_size=8).hexdigest()

"""Sending from the repository what did not get through when it was written."""

from __future__ import annotations

import logging
import time
from collections import deque
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from ._holding import Holding
from ._inheritance import Inheritance
from ._passage import Passage
from ._progress import FOREVER, Backlog, Progress
from ._retelling import retold
from ._scope import NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from redbird import BaseRepo

    from ._delivery import ExportQueue
    from ._events import TaskEvent
    from ._retelling import Retold
    from ._sending import Sender
    from ._settings import Settings
    from ._state import State
    from ._stored import StoredRuns

_logger = logging.getLogger(NAME)

# A note of the future is no note: the clock was wrong, or it was damaged.
_TOLERANCE = 60_000_000_000
_SECONDS_BETWEEN_NOTES = 1.0
# So many records are read before the tasks of this process have their turn again.
_RECORDS_AT_ONCE = 50


class CatchUp:
    """Sends from the repository what other processes and this one have left there.

    Args:
        repo: The repository.
        stored: The runs in it.
        state: What is known of what was delivered.
        settings: What may leave the machine, and how far back.
        queues: The channels on which it goes.
        sender: Sends it, as it sends live records.
    """

    def __init__(
        self,
        repo: BaseRepo,
        stored: StoredRuns,
        state: State,
        settings: Settings,
        queues: Sequence[ExportQueue[Any]],
        sender: Sender,
    ) -> None:
        self._repo = repo
        self._stored = stored
        self._state = state
        self._settings = settings
        self._queues = {queue.name: queue for queue in queues}
        self._sender = sender
        # What is known to be sent, for whoever asks how things stand.
        self.backlogs: dict[str, Backlog] = {}

    @property
    def is_possible(self) -> bool:
        """Whether something is to be sent, as far as is known, and can be."""
        return any(
            (name in self.backlogs or queue.ask(lambda held: held.left) is not None)
            and queue.wait_for_room(0.0)
            for name, queue in self._queues.items()
        )

    def run(self, pause: Callable[[float], bool], *, unknown_until: int | None = None) -> None:
        """Send all that can be sent now.

        Args:
            pause: Waits some seconds; returns whether to go on.
            unknown_until: Until when it is not known what was delivered, if that is so.

        Raises:
            StateError: The state cannot be read or written.
            Exception: What the repository raises.
        """
        with self._state.lease() as is_ours:
            if not is_ours:
                return
            self._take_on(unknown_until)
            targets = [
                _Target(queue, self.backlogs[name])
                for name, queue in self._queues.items()
                if name in self.backlogs and queue.wait_for_room(0.0)
            ]
            if targets:
                self._send(targets, pause)

    def _take_on(self, unknown_until: int | None) -> None:
        """Take on what dead processes and the queues of this one have left."""
        heritage = Inheritance(self._state, self._queues, self._believed)
        unknown = None if unknown_until is None else self._unknown(unknown_until)
        has_left = []
        for name, queue in self._queues.items():
            left = queue.ask(lambda held: held.left)
            if left is not None and queue.wait_for_room(0.0):
                heritage.add(name, Progress(*left))
                has_left.append(queue)
            if unknown is not None:
                heritage.add(name, unknown)
        if heritage.is_new:
            self._state.take_on(heritage.backlogs, heritage.gone, heritage.ended)
        for queue in has_left:
            # What was left meanwhile is met on the way.
            queue.ask(Holding.take_left)
        self.backlogs = {
            name: backlog for name, backlog in heritage.backlogs.items() if name in self._queues
        }

    def _unknown(self, until: int = FOREVER) -> Progress | None:
        """Return what to send where nothing is known; ``None`` if it cannot be told apart."""
        if not self._stored.keeps("trace_id"):
            # What this project has written cannot be told from what was there before.
            return None
        return Progress(time.time_ns() - int(self._settings.catch_up * 1e9), 0, until)

    def _believed(self, progress: Progress) -> Progress:
        if progress.since <= time.time_ns() + _TOLERANCE:
            return progress
        return self._unknown() or progress._replace(since=0)

    def _send(self, targets: list[_Target], pause: Callable[[float], bool]) -> None:
        since = min(target.backlog.since for target in targets)
        noted = began = time.monotonic()
        goes_on = True
        try:
            for count, one in enumerate(retold(self._repo, self._stored, since), start=1):
                self._offer(targets, one, pause)
                now = time.monotonic()
                if count % _RECORDS_AT_ONCE == 0:
                    goes_on = pause(now - began)
                    began = time.monotonic()
                if now - noted >= _SECONDS_BETWEEN_NOTES:
                    self._note(targets)
                    noted = now
                if not goes_on or not any(target.is_on for target in targets):
                    break
            else:
                for target in targets:
                    target.is_read = target.is_on
            while goes_on and any(not one.queue.wait_until_sent_again(1.0) for one in targets):
                self._note(targets)
                goes_on = pause(0.0)
        finally:
            self._note(targets)

    def _offer(self, targets: list[_Target], one: Retold, pause: Callable[[float], bool]) -> None:
        """Send a record on those channels that have not yet sent it."""
        event = one.event
        positions = {
            target.queue.name: target.position - 1
            for target in targets
            if target.is_on and target.is_about(event) and target.passes(one)
        }
        if not positions or not self._is_ours(one):
            return
        for target in targets:
            if target.queue.name in positions:
                while target.is_on and not target.queue.wait_for_room(1.0):
                    target.is_on = target.queue.error is None and pause(0.0)
                if not target.is_on:
                    # It is sent from here on the next time.
                    target.stop_before(positions.pop(target.queue.name))
        if positions:
            passage = Passage(event.created, event.task_name or "", event.action or "", positions)
            self._sender.send(event, one.step, passage)

    def _is_ours(self, one: Retold) -> bool:
        if not one.event.is_task_event or not self._settings.exports(one.event.task_name or ""):
            return False
        return not self._stored.keeps("trace_id") or bool(one.fields.get("trace_id"))

    def _note(self, targets: list[_Target]) -> None:
        """Note how far each channel has come."""
        changed, finished = {}, []
        for target in targets:
            name = target.queue.name
            noted = target.noted()
            if noted is None:
                continue
            if target.is_read and noted.done == target.position:
                finished.append(name)
                self.backlogs.pop(name, None)
            else:
                changed[name] = self.backlogs[name] = noted
        self._state.take_on(changed, finished=finished)


class _Target:
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
        self._is_other = False

    def is_about(self, event: TaskEvent) -> bool:
        """Return whether an event counts among those that were to be sent."""
        return event.created >= self.backlog.since

    def passes(self, one: Retold) -> bool:
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
        self._marks.append((self.position, mark, one.event.created))
        return one.event.created <= self.backlog.until

    def stop_before(self, position: int) -> None:
        """Take back that a record passes: the channel takes nothing any more."""
        self.position = position
        self._marks.pop()

    def noted(self) -> Backlog | None:
        """Return what is left of the backlog; ``None`` if there is nothing new to tell."""
        if self._is_other or (self.is_read and self.position < self.backlog.done):
            return self.backlog._replace(done=0, mark="")
        done = self.queue.settled_until(self.position)
        if done is None or done <= self.backlog.done:
            return None if done is None or not self.is_read else self.backlog
        while self._marks and self._marks[0][0] <= done:
            _, self._mark, self._reached = self._marks.popleft()
        waiting = max(self.backlog.waiting - (done - self.backlog.done), 0)
        return self.backlog._replace(
            done=done, mark=self._mark, waiting=waiting, reached=self._reached
        )


def _mark_of(one: Retold) -> str:
    event = one.event
    text = f"{event.created}\0{event.task_name}\0{event.action}\0{event.run_id}"
    return blake2b(text.encode(), digest_size=8).hexdigest()

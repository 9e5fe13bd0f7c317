"""Sending records from the repository that did not get through when they were written.

In: the backlogs of the channels of this process, and of dead processes. Out: the records, handed
over to the channels in the order of the repository, and the progress, stored now and then.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from rocketry_otel._export.buffer import Buffer
from rocketry_otel._export.record_ref import RecordRef
from rocketry_otel._history.reconstruct import HistoryReader
from rocketry_otel._model.durations import NANOSECONDS
from rocketry_otel._runtime.forks import after_fork_in_child
from rocketry_otel._runtime.scope import NAME

from .checkpoint import FOREVER, Backlog, Checkpoint, with_earlier
from .cursor import Cursor
from .memory_state import MemoryState
from .reading import Reading
from .state_db import StateError
from .takeover import Takeover

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from redbird import BaseRepo

    from rocketry_otel._export.buffer import Overflow
    from rocketry_otel._export.counters import Counters
    from rocketry_otel._export.queue import ExportQueue
    from rocketry_otel._history.reconstruct import Crashes, Reconstructed
    from rocketry_otel._history.run_lookup import RunLookup
    from rocketry_otel._settings import Settings
    from rocketry_otel._telemetry.emitter import SignalEmitter

    from .state import State

_logger = logging.getLogger(NAME)

# Nanoseconds. A checkpoint from further in the future is not trusted: the clock was wrong, or the
# file was damaged.
_TOLERANCE = 60 * NANOSECONDS
_SECONDS_BETWEEN_CHECKPOINTS = 1.0
# A process that is killed early has still stored a checkpoint.
_RECORDS_BETWEEN_CHECKPOINTS = 500
# For another process that holds the lease and sends nothing, in seconds.
_PATIENCE = 15.0
# Bounds the time until this thread sees that it must stop.
_LONGEST_WAIT = 0.2
# After so many records the tasks of this process have their turn.
_RECORDS_AT_ONCE = 50
# So many records are kept in memory for a channel that is behind another one.
_MOST_KEPT = 1_000


class CatchUp:
    """Sends undelivered records of this process and of dead ones from the repository.

    Args:
        repo: The repository.
        run_lookup: The runs in it.
        state: The delivery progress.
        settings: Which tasks are exported, and how far back.
        queues: The channels that send.
        emitter: Sends the records, as it sends live ones.
        counters: Counts the items that the repository no longer has.
        crashes: The crash records that are stored beside the repository.
    """

    def __init__(
        self,
        repo: BaseRepo,
        run_lookup: RunLookup,
        state: State | MemoryState,
        settings: Settings,
        queues: Sequence[ExportQueue[Any]],
        emitter: SignalEmitter,
        counters: Counters,
        crashes: Crashes | None = None,
    ) -> None:
        self._repo = repo
        self._run_lookup = run_lookup
        self._state = state
        # Used while the state cannot be.
        self._spare = MemoryState()
        self._settings = settings
        self._queues = {queue.name: queue for queue in queues}
        self._emitter = emitter
        self._counters = counters
        self._crashes = crashes
        self._start_afresh()
        after_fork_in_child(self._start_afresh)

    def _start_afresh(self) -> None:
        # Also read for the status of delivery.
        self.backlogs: dict[str, Backlog] = {}
        self._is_logged = False
        self._paused: Reading | None = None
        self._refused_since: float | None = None
        # How many items each queue has left to the repository, and how many it had sent again
        # before.
        self._expected: dict[str, tuple[int, int]] = {}
        # The overflow of each queue that is in the spare state.
        self._in_memory: dict[str, Overflow] = {}

    @property
    def is_possible(self) -> bool:
        """Whether a channel has a backlog, and takes items."""
        return any(
            (name in self.backlogs or queue.has_overflow) and queue.wait_for_room(0.0)
            for name, queue in self._queues.items()
        )

    def run(self, pause: Callable[[float], bool]) -> None:
        """Send all that can be sent now.

        If the state cannot be used, or another process holds the lease for very long, only the
        records of this process are sent.

        Args:
            pause: Waits some seconds; returns whether to go on.

        Raises:
            Exception: What the repository raises.
        """
        try:
            with self._state.lease() as is_ours:
                if is_ours:
                    self._refused_since = None
                    self._take_on()
                    self._send_all(self._state, pause)
                    return
        except StateError as error:
            _logger.debug("The state of delivery cannot be used", exc_info=error)
        else:
            # The holder of the lease sends the records of this process too; but it may hang.
            now = time.monotonic()
            self._refused_since = self._refused_since or now
            if now - self._refused_since < _PATIENCE:
                return
        self._take_on_in_memory()
        self._send_all(self._spare, pause)

    def _send_all(self, state: State | MemoryState, pause: Callable[[float], bool]) -> None:
        ready = [
            name
            for name, queue in self._queues.items()
            if name in self.backlogs
            and queue.wait_for_room(0.0)
            # The items of an earlier turn have positions of that turn.
            and queue.wait_until_sent_again(0.0)
        ]
        if ready:
            self._log_begin(ready)
            self._send(self._resumed(ready, state) or self._begun(ready, state), pause)
        self._log_end()

    def _begun(self, ready: list[str], state: State | MemoryState) -> Reading:
        cursors = {name: Cursor(self._queues[name], self.backlogs[name]) for name in ready}
        since = min(cursor.backlog.since for cursor in cursors.values())
        history = HistoryReader(self._repo, self._run_lookup, since, crashes=self._crashes)
        return Reading(state, history, cursors)

    def _resumed(self, ready: list[str], state: State | MemoryState) -> Reading | None:
        """Return the paused reading if each of its backlogs is as the reading left it."""
        reading, self._paused = self._paused, None
        if reading is None or reading.state is not state or not reading.cursors.keys() >= {*ready}:
            return None
        reading.cursors = {
            name: cursor
            for name, cursor in reading.cursors.items()
            if name in self.backlogs or not cursor.is_read
        }
        for name, cursor in reading.cursors.items():
            if not cursor.resume(self.backlogs.get(name), is_on=name in ready):
                return None
        reading.resume()
        return reading

    def _log_begin(self, ready: list[str]) -> None:
        if not self._is_logged:
            self._is_logged = True
            since = min(self.backlogs[name].oldest for name in ready) / NANOSECONDS
            _logger.info(
                "Undelivered records since %s are sent from the repository.",
                datetime.fromtimestamp(max(since, 0.0)).astimezone().isoformat(" ", "seconds"),
            )

    def _log_end(self) -> None:
        if self._is_logged and not self.backlogs:
            self._is_logged = False
            _logger.info("All undelivered records have been sent from the repository.")

    def _take_on(self) -> None:
        """Take on the backlogs of dead processes, and the overflow of the queues of this one."""
        takeover = Takeover(self._state, self._queues, self._believed)
        unknown_until = self._state.unknown_until()
        unknown = None if unknown_until is None else self._unknown(unknown_until)
        handed_over = self._handed_over_now()
        for name in self._queues:
            if name in handed_over:
                takeover.add(name, Checkpoint(*handed_over[name]))
            if unknown is not None:
                takeover.add(name, unknown)
        if takeover.backlogs or takeover.is_new or unknown_until is not None:
            # Unchanged backlogs are stored too: if they cannot be stored, nothing is sent.
            self._state.take_on(
                takeover.backlogs, takeover.gone, takeover.ended, known_until=unknown_until
            )
        for name, left in handed_over.items():
            self._queues[name].ask(partial(Buffer.confirm_handed_over, handed_over=left))
            self._expect(name, left)
        if self._in_memory:
            self._in_memory.clear()
            self._spare.take_on({}, finished=list(self._spare.backlogs()))
        self._state.sweep(takeover.writers)
        self.backlogs = {
            name: backlog for name, backlog in takeover.backlogs.items() if name in self._queues
        }

    def _take_on_in_memory(self) -> None:
        """Take on the overflow of the queues of this process, in memory.

        It is confirmed only when it was sent, so that no checkpoint is ahead of it.
        """
        backlogs = self._spare.backlogs()
        for name, left in self._handed_over_now().items():
            before = self._in_memory.get(name)
            if before != left:
                self._in_memory[name] = left
                new = left if before is None else left._replace(items=left.items - before.items)
                backlogs[name] = with_earlier(backlogs.get(name), Checkpoint(*new))
                self._expect(name, new)
        self._spare.take_on(backlogs)
        self.backlogs = backlogs

    def _handed_over_now(self) -> dict[str, Overflow]:
        """Hand over the overflow of each queue that has room now."""
        ready = (name for name, queue in self._queues.items() if queue.wait_for_room(0.0))
        handed_over = {name: self._queues[name].ask(Buffer.hand_over) for name in ready}
        return {name: left for name, left in handed_over.items() if left is not None}

    def _expect(self, name: str, left: Overflow) -> None:
        """Expect as many items of the repository as were left to it."""
        queue = self._queues[name]
        items, sent_before = self._expected.get(name, (0, queue.sent_again))
        self._expected[name] = (items + left.items, sent_before)

    def _unknown(self, until: int = FOREVER) -> Checkpoint | None:
        """Return the checkpoint to use if none is stored; ``None`` for a foreign model."""
        if not self._run_lookup.keeps("trace_id"):
            # Records of this project cannot be distinguished from older ones.
            return None
        return Checkpoint(time.time_ns() - self._settings.catch_up * NANOSECONDS, 0, until)

    def _believed(self, checkpoint: Checkpoint) -> Checkpoint:
        if checkpoint.since <= time.time_ns() + _TOLERANCE:
            return checkpoint
        return self._unknown() or checkpoint._replace(since=0)

    def _send(self, reading: Reading, pause: Callable[[float], bool]) -> None:
        state, cursors = reading.state, [*reading.cursors.values()]
        behind: deque[tuple[Reconstructed, set[str]]] = deque()
        stored, worked = time.monotonic(), time.thread_time()
        goes_on = is_whole = True
        try:
            for count, (one, offered) in enumerate(reading, start=1):
                self._offer(offered, one, pause)
                names = {cursor.queue.name for cursor in offered if not cursor.is_on}
                if names and len(behind) <= _MOST_KEPT:
                    behind.append((one, names))
                now = time.monotonic()
                if count % _RECORDS_AT_ONCE == 0:
                    # As long as it took: half of the time is for the tasks of this process.
                    goes_on = pause(time.thread_time() - worked)
                    worked = time.thread_time()
                is_time = now - stored >= _SECONDS_BETWEEN_CHECKPOINTS
                if is_time or count % _RECORDS_BETWEEN_CHECKPOINTS == 0:
                    self._checkpoint(cursors, state)
                    stored = now
                if not goes_on or not any(cursor.is_on for cursor in cursors):
                    break
            else:
                is_whole = reading.is_whole(pause)
                for cursor in cursors:
                    cursor.is_read = cursor.is_on and is_whole
            while goes_on and any(
                not one.queue.wait_until_sent_again(_LONGEST_WAIT) for one in cursors
            ):
                self._checkpoint(cursors, state)
                goes_on = pause(0.0)
        finally:
            self._checkpoint(cursors, state)
        is_over = self.backlogs.keys().isdisjoint(reading.cursors)
        if goes_on and is_whole and not is_over and len(behind) <= _MOST_KEPT:
            reading.kept.extendleft(reversed(behind))
            self._paused = reading

    def _offer(
        self, cursors: list[Cursor], one: Reconstructed, pause: Callable[[float], bool]
    ) -> None:
        """Send a record on the channels that have not sent it."""
        event = one.event
        positions = {
            cursor.queue.name: cursor.position - 1
            for cursor in cursors
            if cursor.is_on and cursor.is_about(event) and cursor.passes(one)
        }
        if not positions or not self._is_ours(one):
            return
        for cursor in cursors:
            if cursor.queue.name in positions:
                while cursor.is_on and not cursor.queue.wait_for_room(_LONGEST_WAIT):
                    cursor.is_on = cursor.queue.error is None and pause(0.0)
                if not cursor.is_on:
                    # The next turn sends it.
                    cursor.stop_before(positions.pop(cursor.queue.name))
        if positions:
            record_ref = RecordRef(
                event.created, event.task_name or "", event.action or "", positions
            )
            self._emitter.send(event, one.step, record_ref)

    def _is_ours(self, one: Reconstructed) -> bool:
        if not one.event.is_task_event or not self._settings.exports(one.event.task_name or ""):
            return False
        return not self._run_lookup.keeps("trace_id") or bool(one.fields.get("trace_id"))

    def _checkpoint(self, cursors: list[Cursor], state: State | MemoryState) -> None:
        """Store how far each channel has come."""
        changed, finished = {}, []
        for cursor in cursors:
            name = cursor.queue.name
            left = cursor.progress()
            if left is None:
                continue
            if cursor.is_read and left.done == cursor.position:
                finished.append(name)
                self.backlogs.pop(name, None)
                self._count_missing(name)
            else:
                changed[name] = self.backlogs[name] = left
        if changed or finished:
            state.take_on(changed, finished=finished)
        if state is self._spare:
            for name in finished:
                overflow = self._in_memory.pop(name, None)
                self._queues[name].ask(partial(Buffer.confirm_handed_over, handed_over=overflow))

    def _count_missing(self, name: str) -> None:
        """Count the items that were left to the repository and are no longer in it."""
        items, sent_before = self._expected.pop(name, (0, 0))
        queue = self._queues[name]
        missing = items - (queue.sent_again - sent_before)
        if missing > 0:
            self._counters.add(queue.signal, "dropped", missing, "not_in_repository")

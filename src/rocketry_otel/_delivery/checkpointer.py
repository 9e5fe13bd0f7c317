"""Storing how far this process has come with the delivery of its records."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from rocketry_otel._export.buffer import Buffer
from rocketry_otel._model.durations import NANOSECONDS
from rocketry_otel._runtime.forks import after_fork_in_child

from .checkpoint import Checkpoint
from .state_db import StateError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from rocketry_otel._export.queue import ExportQueue

    from .memory_state import MemoryState
    from .state import State

# Nanoseconds. Records may come so much later than they were created, for example from a child
# process. Only a clock that jumps makes a task wait for a checkpoint.
_MARGIN = 2 * NANOSECONDS
# Later than any record: without a checkpoint, each record makes one.
_FOREVER = 2**63


class Checkpointer:
    """Keeps the stored checkpoint from being ahead of delivery.

    A record is expected before it is written to the repository. From then on the checkpoint is not
    later than the record, until all channels have settled it.

    Args:
        state: Where checkpoints are stored.
        queues: The channels.
        on_error: Called with the error if a checkpoint cannot be stored, and with ``None`` when
            one is stored.
    """

    def __init__(
        self,
        state: State | MemoryState,
        queues: Sequence[ExportQueue[Any]],
        on_error: Callable[[StateError | None], None],
    ) -> None:
        self._state = state
        self._queues = queues
        self._on_error = on_error
        self._start_afresh()
        after_fork_in_child(self._start_afresh)

    def _start_afresh(self) -> None:
        self._lock = threading.RLock()
        self._saving = threading.RLock()
        self._number = 0
        self._expected: dict[int, int] = {}
        self._newest = 0
        self._is_open = False
        self._stored: dict[str, Checkpoint] | None = None
        self._stored_until = _FOREVER
        self._first: int | None = None

    def expect(self, created: int) -> int:
        """Expect a record that is about to be written; store a checkpoint if it needs one.

        Args:
            created: When the record was created, in nanoseconds since the epoch.

        Returns:
            The number to give to ``settle`` once all channels have the record.
        """
        with self._lock:
            self._number += 1
            number = self._number
            self._expected[number] = created
            self._newest = created
            self._is_open = True
            if self._first is None:
                self._first = created
            must_store = self._state.is_durable and created < self._stored_until
        if must_store:
            self.save()
        return number

    def settle(self, number: int) -> None:
        """Expect a record no longer: all channels have it now."""
        with self._lock:
            self._expected.pop(number, None)

    @property
    def is_settled(self) -> bool:
        """Whether no record is expected and no item waits."""
        with self._lock:
            if self._expected:
                return False
        return all(queue.ask(Buffer.oldest) is None for queue in self._queues)

    @property
    def is_stored(self) -> bool:
        """Whether the stored checkpoint is the current one."""
        with self._lock:
            is_known = self._stored == self._checkpoints() and not self._state.has_unsaved
            return is_known or not self._state.is_durable

    def save(self, *, once_more: bool = False) -> None:
        """Store a checkpoint, if the state survives the process.

        Args:
            once_more: Whether to store it though it has not changed: the file may be lost.
        """
        if not self._state.is_durable:
            return
        with self._saving:
            if not self._is_open:
                return  # the process has left; a late thread must not enter it again
            with self._lock:
                checkpoint = self._checkpoints()
                is_known = checkpoint == self._stored and not self._state.has_unsaved
                if is_known and not once_more:
                    return
                until = max((one.since for one in checkpoint.values()), default=0)
                # Records that are expected from now on see this, and wait for the next checkpoint.
                self._stored_until = max(until, self._stored_until)
            try:
                self._state.save(checkpoint, self._first or 0)
                # If the state is lost, the checkpoints of other processes are lost too.
                self._first = max(time.time_ns(), self._newest)
            except StateError as error:
                with self._lock:
                    # Records do not wait for a state that fails: the worker tries again.
                    self._stored, self._stored_until = None, 0
                self._on_error(error)
                return
            with self._lock:
                self._stored, self._stored_until = checkpoint, until
            self._on_error(None)

    def leave(self) -> None:
        """Store an orderly end if nothing waits; the next record stores a checkpoint again."""
        with self._saving:
            if self.is_settled:
                self.close()

    def close(self) -> None:
        """Store how far this process has come at its end."""
        with self._saving:
            if not self._is_open:
                return
            self.save()
            with self._lock:
                # From now on a record stores a checkpoint again; it waits until this is over.
                self._is_open = False
                self._stored, self._stored_until = None, _FOREVER
            try:
                if self.is_settled:
                    self._state.leave()
                else:
                    self._state.end()
            except StateError as error:
                self._on_error(error)

    def _checkpoints(self) -> dict[str, Checkpoint]:
        # In this order: a record that is settled meanwhile is in the queues already.
        newest = self._newest
        expected = min(self._expected.values(), default=newest)
        return {queue.name: self._checkpoint_of(queue, expected) for queue in self._queues}

    def _checkpoint_of(self, queue: ExportQueue[Any], expected: int) -> Checkpoint:
        oldest, count = queue.ask(lambda held: (held.oldest(), held.count()))
        since = expected if oldest is None else min(expected, oldest)
        return Checkpoint(since - _MARGIN, count)

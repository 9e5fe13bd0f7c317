"""Noting how far this process has come with delivering what it writes."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from rocketry_otel._export.buffer import Buffer
from rocketry_otel._runtime.forks import after_fork_in_child

from .checkpoint import Checkpoint
from .state_db import StateError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from rocketry_otel._export.queue import ExportQueue

    from .memory_state import MemoryState
    from .state import State

# Records come in the order of their times but for this, as a child process that sends its own
# to its parent may be late: only a clock that jumps makes a task wait for a note.
_MARGIN = 2_000_000_000
# Later than any record can be created: each is noted until something is.
_FOREVER = 2**63


class Checkpointer:
    """Sees to it that what is noted is never ahead of what is delivered.

    A record is expected before it is written to the repository. From then on the note says that
    what was created since is not delivered yet, until all channels have settled it.

    Args:
        state: Where it is noted.
        queues: The channels.
        told: Told why something cannot be noted, and ``None`` when it is.
    """

    def __init__(
        self,
        state: State | MemoryState,
        queues: Sequence[ExportQueue[Any]],
        told: Callable[[StateError | None], None],
    ) -> None:
        self._state = state
        self._queues = queues
        self._logged = told
        self._start_afresh()
        after_fork_in_child(self._start_afresh)

    def _start_afresh(self) -> None:
        self._lock = threading.RLock()
        self._saving = threading.RLock()
        self._number = 0
        self._expected: dict[int, int] = {}
        self._newest = 0
        self._is_open = False
        self._noted: dict[str, Checkpoint] | None = None
        self._noted_until = _FOREVER
        self._first: int | None = None

    def expect(self, created: int) -> int:
        """Note, if need be, that a record is about to be written.

        Args:
            created: When it was created, in nanoseconds since the epoch.

        Returns:
            What to give to ``settle`` once all channels have it.
        """
        with self._lock:
            self._number += 1
            number = self._number
            self._expected[number] = created
            self._newest = created
            self._is_open = True
            if self._first is None:
                self._first = created
            must_note = self._state.is_durable and created < self._noted_until
        if must_note:
            self.save()
        return number

    def settle(self, number: int) -> None:
        """Let go of a record, which all channels have by now."""
        with self._lock:
            self._expected.pop(number, None)

    @property
    def is_settled(self) -> bool:
        """Whether nothing waits anywhere."""
        with self._lock:
            if self._expected:
                return False
        return all(queue.ask(Buffer.oldest) is None for queue in self._queues)

    @property
    def is_noted(self) -> bool:
        """Whether what is noted is how it is."""
        with self._lock:
            is_known = self._noted == self._checkpoints() and not self._state.has_unsaved
            return is_known or not self._state.is_durable

    def save(self, *, once_more: bool = False) -> None:
        """Note how far this process has come, if it outlives the process.

        Args:
            once_more: Whether to note it though it has not changed: the note may be lost.
        """
        if not self._state.is_durable:
            return
        with self._saving:
            if not self._is_open:
                return  # a thread that comes late must not show a process that has left
            with self._lock:
                checkpoint = self._checkpoints()
                is_known = checkpoint == self._noted and not self._state.has_unsaved
                if is_known and not once_more:
                    return
                until = max((one.since for one in checkpoint.values()), default=0)
                # What is expected from now on sees this, and waits for its turn to note it.
                self._noted_until = max(until, self._noted_until)
            try:
                self._state.save(checkpoint, self._first or 0)
                # Should the state be lost, what others have left is not known until then either.
                self._first = max(time.time_ns(), self._newest)
            except StateError as error:
                with self._lock:
                    # No record waits for what cannot be done: the next try is not a record's.
                    self._noted, self._noted_until = None, 0
                self._logged(error)
                return
            with self._lock:
                self._noted, self._noted_until = checkpoint, until
            self._logged(None)

    def leave(self) -> None:
        """Note an orderly end if nothing waits; the next record is noted anew."""
        with self._saving:
            if self.is_settled:
                self.close()

    def close(self) -> None:
        """Note where this process has come at its end."""
        with self._saving:
            if not self._is_open:
                return
            self.save()
            with self._lock:
                # From now on a record is noted anew: it waits until this is over.
                self._is_open = False
                self._noted, self._noted_until = None, _FOREVER
            try:
                if self.is_settled:
                    self._state.leave()
                else:
                    self._state.end()
            except StateError as error:
                self._logged(error)

    def _checkpoints(self) -> dict[str, Checkpoint]:
        # In this order: what leaves the expected meanwhile is in the queues already.
        newest = self._newest
        expected = min(self._expected.values(), default=newest)
        return {queue.name: self._checkpoint_of(queue, expected) for queue in self._queues}

    def _checkpoint_of(self, queue: ExportQueue[Any], expected: int) -> Checkpoint:
        oldest, count = queue.ask(lambda held: (held.oldest(), held.count()))
        since = expected if oldest is None else min(expected, oldest)
        return Checkpoint(since - _MARGIN, count)

"""The state of delivery that ends with the process: of a repository in memory, or as a spare."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rocketry_otel._runtime.forks import after_fork_in_child

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from .checkpoint import Backlog, Checkpoint, DeadLetter


class MemoryState:
    """Backlogs by channel. No other process knows them, and so none is waited for.

    A forked child begins with none: those of its parent are the parent's to send. Dead letters
    are counted elsewhere, and not stored.
    """

    is_durable = False
    has_unsaved = False

    def __init__(self) -> None:
        self._start_afresh()
        after_fork_in_child(self._start_afresh)

    def _start_afresh(self) -> None:
        # Guards the backlogs.
        self._lock = threading.Lock()
        self._backlogs: dict[str, Backlog] = {}

    @contextmanager
    def lease(self) -> Iterator[bool]:
        """Be the one process that sends from the repository."""
        yield True

    def backlogs(self) -> dict[str, Backlog]:
        """Return the backlogs by channel."""
        with self._lock:
            return dict(self._backlogs)

    def take_on(
        self,
        backlogs: Mapping[str, Backlog],
        gone: Iterable[tuple[str, str]] = (),
        finished: Iterable[str] = (),
        known_until: int | None = None,
    ) -> None:
        """Store backlogs, and forget those of finished channels."""
        del gone, known_until
        with self._lock:
            for name in finished:
                self._backlogs.pop(name, None)
            self._backlogs.update(backlogs)

    def undelivered(self) -> list[tuple[str, str, int]]:
        """Return the begin of each backlog, with its channel and no process."""
        return [("", name, backlog.since) for name, backlog in self.backlogs().items()]

    def writers(self) -> dict[str, dict[str, Checkpoint]]:
        """Return the checkpoints of other processes: none."""
        return {}

    def is_alive(self, writer: str) -> bool:
        """Return whether another process lives: none is known."""
        del writer
        return False

    def unknown_until(self) -> int | None:
        """Return until when the deliveries are unknown: never."""
        return None

    def is_known(self) -> bool:
        """Return whether all deliveries are known."""
        return True

    def save(self, checkpoint: Mapping[str, Checkpoint], first: int) -> None:
        """Store no checkpoint: no other process would read it."""

    def add_dead_letters(self, channel: str, refusals: Iterable[DeadLetter], now: float) -> None:
        """Store no dead letter."""

    def leave(self) -> None:
        """Do nothing at the end of the process."""

    def end(self) -> None:
        """Do nothing at the end of the process."""

    def sweep(self, known: Collection[str]) -> None:
        """Do nothing: no process leaves files."""

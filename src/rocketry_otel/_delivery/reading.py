"""One reading of the repository for all channels that catch up; it may pause between two turns."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rocketry_otel._history.reconstruct import HistoryReader, Reconstructed

    from .cursor import Cursor
    from .memory_state import MemoryState
    from .state import State


class Reading:
    """A reading of the repository that may pause between two turns.

    Without pauses, a collector that comes and goes would make each turn read the whole backlog.
    A reading goes on only if its channels are where it left them. A pause loses nothing:

    - This process or another one may take on more records during a pause. These are in the
      repository. So a reading that has paused goes on to the end that the repository has then.
    - Records may become visible before its position: another process may commit late. At its end
      a reading that has paused compares the keys of the records that it has met with the keys
      that the repository has now. If these differ, it does not complete a backlog. Another
      reading begins, which checks the marks of the cursors.

    Args:
        state: Where the backlogs are kept.
        history: The records.
        cursors: The channels that take part, by name.

    Attributes:
        kept: Records before its position, and the channels that have not passed them.
    """

    def __init__(
        self, state: State | MemoryState, history: HistoryReader, cursors: dict[str, Cursor]
    ) -> None:
        self.state = state
        self.cursors = cursors
        self.kept: deque[tuple[Reconstructed, set[str]]] = deque()
        self._is_resumed = self._has_old_end = False
        self._history = history
        self._records = iter(history)

    def __iter__(self) -> Iterator[tuple[Reconstructed, list[Cursor]]]:
        """Give each record with the cursors that have not passed it."""
        while self.kept:
            one, names = self.kept.popleft()
            yield one, [self.cursors[name] for name in names]
        while True:
            for one in self._records:
                yield one, [*self.cursors.values()]
            if not (self._has_old_end and self._history.can_go_on):
                return
            self._has_old_end, self._records = False, iter(self._history)

    def resume(self) -> None:
        """Go on after a pause."""
        self._is_resumed = self._has_old_end = True

    def is_whole(self, pause: Callable[[float], bool]) -> bool:
        """Return whether it has met all records that the repository has now."""
        return not self._is_resumed or self._history.is_whole(partial(pause, 0.0))

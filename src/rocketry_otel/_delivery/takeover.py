"""Taking over undelivered records: of processes that died, and of channels no longer used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rocketry_otel._export.channel import signal_of

from .checkpoint import Checkpoint, with_earlier

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from rocketry_otel._export.queue import ExportQueue

    from .checkpoint import Backlog
    from .memory_state import MemoryState
    from .state import State


class Takeover:
    """The backlogs of this process after it has taken over those of dead ones.

    Args:
        state: The delivery progress.
        queues: The channels of this process, by name.
        believed: Returns a plausible checkpoint for that of another process.

    Attributes:
        backlogs: The backlogs by channel, those of living processes included.
        gone: The processes and channels that were taken over.
        writers: The other processes that have stored a checkpoint.

    Raises:
        StateError: The state cannot be read.
    """

    def __init__(
        self,
        state: State | MemoryState,
        queues: Mapping[str, ExportQueue[Any]],
        believed: Callable[[Checkpoint], Checkpoint],
    ) -> None:
        self._queues = queues
        self._before = state.backlogs()
        self.backlogs: dict[str, Backlog] = dict(self._before)
        self.gone: list[tuple[str, str]] = []
        stored = state.writers()
        self.writers: Collection[str] = stored.keys()
        dead = {writer for writer in stored if not state.is_alive(writer)}
        served = {name for writer in stored.keys() - dead for name in stored[writer]}
        for writer in dead:
            for channel, checkpoint in stored[writer].items():
                if self._take_over(channel, served, believed(checkpoint)):
                    self.gone.append((writer, channel))
        for channel in self._before.keys() - queues.keys():
            its = self._before[channel]
            if self._take_over(channel, served, Checkpoint(its.since, its.waiting, its.until)):
                del self.backlogs[channel]

    @property
    def is_new(self) -> bool:
        """Whether anything has changed."""
        return bool(self.gone) or self.backlogs != self._before

    @property
    def ended(self) -> set[str]:
        """The channels that have no backlog any more."""
        return self._before.keys() - self.backlogs.keys()

    def add(self, channel: str, checkpoint: Checkpoint) -> None:
        """Add undelivered records to the backlog of a channel of this process."""
        self.backlogs[channel] = with_earlier(self.backlogs.get(channel), checkpoint)

    def _take_over(self, channel: str, served: set[str], checkpoint: Checkpoint) -> bool:
        """Add the undelivered records of a channel; return whether it has a successor here."""
        successors = self._successors(channel, served)
        for successor in successors:
            self.add(successor, checkpoint)
        return bool(successors)

    def _successors(self, channel: str, served: set[str]) -> list[str]:
        """Return the channels of this process that send the records of a channel.

        That is the channel of the same name. If no living process has one, the collector has
        moved: then it is each channel of the same signal.
        """
        if channel in self._queues:
            return [channel]
        if channel in served:
            return []
        signal = signal_of(channel)
        return [name for name, queue in self._queues.items() if queue.signal == signal]

"""What is to be sent of what others have left: processes that died, channels nobody uses."""

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
    """What the channels of this process are to send from the repository.

    Args:
        state: What is known of what was delivered.
        queues: The channels of this process, by name.
        believed: Returns what to believe of what another process has noted.

    Attributes:
        backlogs: What is to be sent, by channel, those of other processes among them.
        gone: The processes and channels that it was taken over from.
        writers: The other processes that have noted something.

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
        noted = state.writers()
        self.writers: Collection[str] = noted.keys()
        dead = {writer for writer in noted if not state.is_alive(writer)}
        served = {name for writer in noted.keys() - dead for name in noted[writer]}
        for writer in dead:
            for channel, checkpoint in noted[writer].items():
                if self._take_over(channel, served, believed(checkpoint)):
                    self.gone.append((writer, channel))
        for channel in self._before.keys() - queues.keys():
            its = self._before[channel]
            if self._take_over(channel, served, Checkpoint(its.since, its.waiting, its.until)):
                del self.backlogs[channel]

    @property
    def is_new(self) -> bool:
        """Whether anything is to be noted."""
        return bool(self.gone) or self.backlogs != self._before

    @property
    def ended(self) -> set[str]:
        """The channels that have nothing to be sent any more."""
        return self._before.keys() - self.backlogs.keys()

    def add(self, channel: str, checkpoint: Checkpoint) -> None:
        """Add to what is to be sent on a channel of this process."""
        self.backlogs[channel] = with_earlier(self.backlogs.get(channel), checkpoint)

    def _take_over(self, channel: str, served: set[str], checkpoint: Checkpoint) -> bool:
        """Add what was left on a channel; return whether one of this process is its heir."""
        heirs = self._successors(channel, served)
        for heir in heirs:
            self.add(heir, checkpoint)
        return bool(heirs)

    def _successors(self, channel: str, served: set[str]) -> list[str]:
        """Return the channels of this process that are to send what was left on one.

        It is the same one, if there is; or those of the signal, if nobody uses that one any
        more: the collector has moved.
        """
        if channel in self._queues:
            return [channel]
        if channel in served:
            return []
        signal = signal_of(channel)
        return [name for name, queue in self._queues.items() if queue.signal == signal]

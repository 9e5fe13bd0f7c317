"""Sending dead letters again, after the collector was mended."""

from __future__ import annotations

from collections import defaultdict
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rocketry_otel._delivery.state import State
from rocketry_otel._delivery.state_db import StateError
from rocketry_otel._delivery.state_path import repository_path, state_folder
from rocketry_otel._errors import RepositoryError
from rocketry_otel._export.channel import signal_of
from rocketry_otel._runtime.suppression import suppressed
from rocketry_otel._settings import Settings

from .replay import chosen
from .result import Replay, Tally
from .sending import channels, send_again

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from redbird import BaseRepo

    from rocketry_otel._delivery.checkpoint import DeadLetter
    from rocketry_otel._export.batch import Entry
    from rocketry_otel._export.queue import ExportQueue
    from rocketry_otel._export.record_ref import Key

    _DeadLetters = list[tuple[str, DeadLetter]]


@suppressed()
def replay_refused(
    repo: BaseRepo,
    *,
    dry_run: bool = False,
    patience: float = 60.0,
    settings: Settings | None = None,
    progress: Callable[[Replay], None] | None = None,
) -> Replay:
    """Send the dead letters again: the records that a destination has refused for good.

    Args:
        repo: The repository, durable.
        dry_run: Whether to count only, and send nothing.
        patience: Seconds without progress before this gives up.
        settings: Our own settings; without them, those of the environment.
        progress: Called now and then with the result so far, and once more at the end, even after
            an error or an interrupt.

    Returns:
        The result. Records that are accepted now are dead letters no longer.

    Raises:
        SettingsError: If ``settings`` is not given and the environment has a bad value, or if
            the variables name no destination.
        RepositoryError: The repository, or its delivery progress, cannot be read or written.
    """
    settings = settings or Settings()
    folder = state_folder(repo, settings.state_dir)
    state = None if folder is None or not folder.is_dir() else State(folder, repository_path(repo))
    with _repository_errors():
        refused = [] if state is None else state.refused.all()
    tally = Tally(refused[-1][1].created if refused else None, progress)
    with tally.to_the_end():
        if state is not None and refused:
            first, last = refused[0][1].created, refused[-1][1].created
            again = _Again(refused)
            history = chosen(repo, settings, tally, first, last)
            if dry_run:
                again.look(history, tally)
            else:
                with channels(settings, tally) as where:
                    again.follow(where.queues)
                    send_again(history, where, tally, patience, wanted_by=again.channels_for)
            tally.left_out = 0 if tally.is_cut_short else again.count_left_out()
            result = tally.result()
            if not (dry_run or tally.is_cut_short or result.waiting):
                with _repository_errors():
                    state.refused.remove(again.accepted())
    return tally.result()


class _Again:
    """Dead letters that are sent again.

    Args:
        refused: The dead letters with their channels.
    """

    def __init__(self, refused: _DeadLetters) -> None:
        self._refused = refused
        self._channels: defaultdict[Key, set[str]] = defaultdict(set)
        for channel, refusal in refused:
            self._channels[refusal[:3]].add(channel)
        self._queues: Sequence[ExportQueue[Any]] = ()
        self._sent: set[tuple[str, Key]] = set()
        self._refused_again: set[tuple[str, Key]] = set()

    def follow(self, queues: Sequence[ExportQueue[Any]]) -> None:
        """Send on these channels, and remember the records that they refuse again."""
        self._queues = queues
        for queue in queues:
            queue.add_dead_letters = self._noting(queue.add_dead_letters)

    def _noting(self, count: Callable[..., None]) -> Callable[..., None]:
        def add_dead_letters(
            queue: ExportQueue[Any], part: list[Entry], refused: int, reason: str
        ) -> None:
            count(queue, part, refused, reason)
            self._refused_again.update(
                (queue.signal, record_ref[:3]) for _, record_ref in part if record_ref is not None
            )

        return add_dead_letters

    def look(self, history: Iterator[Any], tally: Tally) -> None:
        """Count the records that would be sent."""
        for one in history:
            key = (one.event.created, one.event.task_name, one.event.action)
            if key in self._channels:
                self._sent.update((signal_of(channel), key) for channel in self._channels[key])
                tally.add(one)

    def channels_for(self, key: Key) -> Collection[str]:
        """Return the channels that send a record: those of the signal that was refused.

        The collector may have another address by now.
        """
        wanted = set()
        for channel in self._channels.get(key, ()):
            signal = signal_of(channel)
            names = {queue.name for queue in self._queues if queue.signal == signal}
            wanted |= {channel} & names or names
            if names:
                self._sent.add((signal, key))
        return wanted

    def accepted(self) -> Iterable[tuple[str, DeadLetter]]:
        """Return the dead letters that were sent and not refused again."""
        gone = self._sent - self._refused_again
        return [one for one in self._refused if (signal_of(one[0]), one[1][:3]) in gone]

    def count_left_out(self) -> int:
        """Return how many dead letters were not sent."""
        return sum((signal_of(one[0]), one[1][:3]) not in self._sent for one in self._refused)


@contextmanager
def _repository_errors() -> Iterator[None]:
    try:
        yield
    except StateError as error:
        raise RepositoryError(f"the dead letters cannot be read at present: {error}") from error

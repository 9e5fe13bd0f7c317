"""Sending again what a collector has refused, once it has been mended."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from ._replay import channels, nothing, send_again
from ._replay_summary import Replay, Tally
from ._retelling import retold
from ._settings import Settings
from ._state import State
from ._state_place import state_folder
from ._stored import StoredRuns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from redbird import BaseRepo

    from ._delivery import ExportQueue
    from ._dispatch import Entry
    from ._passage import Key
    from ._progress import Refusal


def replay_refused(
    repo: BaseRepo,
    *,
    patience: float = 60.0,
    settings: Settings | None = None,
    progress: Callable[[Replay], None] | None = None,
) -> Replay:
    """Send again what was refused for good, and is set aside with its reason.

    Args:
        repo: The repository, durable.
        patience: Seconds for which nothing may get through, before this gives up.
        settings: Our own settings; without them, those of the environment.
        progress: Called now and then with how far it is.

    Returns:
        What became of it. What is accepted now is no longer set aside.

    Raises:
        SettingsError: If ``settings`` is not given and the environment has a bad value.
        Exception: What the repository raises.
    """
    settings = settings or Settings()
    stored = StoredRuns(repo)
    folder = state_folder(repo, settings.state_dir)
    state = None if folder is None or not folder.is_dir() else State(folder)
    refused = [] if state is None else state.refused()
    times = [refusal.created for _, refusal in refused]
    first, last = min(times, default=0), max(times, default=0)
    tally = Tally(stored, first, last, progress or nothing)
    if state is None or not refused:
        return tally.result()
    with channels(settings, tally) as (queues, sender):
        again = _remember_refusals(queues)
        wanted = _wanted_by(refused, queues)
        send_again(
            retold(repo, stored, first, last),
            queues,
            sender,
            settings,
            tally,
            patience,
            wanted_by=lambda key: iter(wanted.get(key, ())),
        )
    if not (tally.is_cut_short or tally.waiting):
        state.no_longer_refused(
            (channel, refusal)
            for channel, refusal in refused
            if (channel.partition(" ")[0], refusal[:3]) not in again
        )
    return tally.result()


def _remember_refusals(queues: Sequence[ExportQueue[Any]]) -> set[tuple[str, Key]]:
    """Return what is refused again from now on, by signal."""
    again: set[tuple[str, Key]] = set()
    for queue in queues:
        count = queue.set_aside

        def set_aside(
            queue: ExportQueue[Any],
            part: list[Entry],
            refused: int,
            reason: str,
            count: Any = count,
        ) -> None:
            count(queue, part, refused, reason)
            again.update((queue.signal, passage[:3]) for _, passage in part if passage is not None)

        queue.set_aside = set_aside
    return again


def _wanted_by(
    refused: list[tuple[str, Refusal]], queues: Sequence[ExportQueue[Any]]
) -> dict[Key, set[str]]:
    """Return the channels that are to send each record: those of the signal that was refused."""
    wanted: defaultdict[Key, set[str]] = defaultdict(set)
    for channel, refusal in refused:
        signal = channel.partition(" ")[0]
        names: Iterator[str] = (queue.name for queue in queues if queue.signal == signal)
        exact = channel in (queue.name for queue in queues)
        wanted[refusal[:3]].update([channel] if exact else names)
    return dict(wanted)

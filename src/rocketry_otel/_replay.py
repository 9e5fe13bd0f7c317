"""Sending the history of a repository to a collector."""

from __future__ import annotations

import time
from contextlib import contextmanager
from datetime import datetime, timezone
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, Any

from opentelemetry.metrics import NoOpMeterProvider

from . import _own_providers as own
from ._counts import Counts
from ._outage import Outage
from ._passage import Passage
from ._progress import FOREVER
from ._providers import Providers
from ._replay_summary import Replay, Tally
from ._retelling import retold
from ._sending import Sender
from ._settings import Settings
from ._stored import StoredRuns

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterator, Sequence

    from redbird import BaseRepo

    from ._delivery import ExportQueue
    from ._dispatch import Entry
    from ._passage import Key
    from ._retelling import Retold

_SECONDS_BETWEEN_LOOKS = 0.2
_NANOSECONDS = 1_000_000_000


def replay(
    repo: BaseRepo,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    task: str = "*",
    dry_run: bool = False,
    patience: float = 60.0,
    settings: Settings | None = None,
    progress: Callable[[Replay], None] | None = None,
) -> Replay:
    """Send the history in a repository to where the ``OTEL_*`` variables say.

    Each record becomes the same telemetry as when it was live, with the same ids, as far as
    the model of the repository keeps what that is made of. Metrics are not sent: a run is never
    counted again. The memory that it takes does not grow with the history.

    Args:
        repo: A repository that Rocketry wrote, with or without this project, of any model.
        since: Only records that were created at this time or later. Without a time zone, it is
            local time.
        until: Only records that were created at this time or before.
        task: A pattern (``*``, ``?``, ``[...]``) of the names of tasks.
        dry_run: Whether to send nothing, and only tell what would be sent.
        patience: Seconds for which nothing may get through, before this gives up.
        settings: Our own settings; without them, those of the environment.
        progress: Called now and then with how far it is.

    Returns:
        What became of it.

    Raises:
        SettingsError: If ``settings`` is not given and the environment has a bad value.
        Exception: What the repository raises.
    """
    settings = settings or Settings()

    def is_wanted(one: Retold) -> bool:
        return fnmatchcase(one.event.task_name or "", task)

    stored = StoredRuns(repo)
    history = retold(repo, stored, _nanoseconds(since) or 0, _nanoseconds(until))
    tally = Tally(stored, _nanoseconds(since), _nanoseconds(until), progress or nothing)
    if dry_run:
        for one in history:
            if _is_to_be_sent(one, settings) and is_wanted(one):
                tally.add(one)
        return tally.result()
    with channels(settings, tally) as (queues, sender):
        send_again(
            (one for one in history if is_wanted(one)), queues, sender, settings, tally, patience
        )
    return tally.result()


def send_again(
    history: Iterator[Retold],
    queues: Sequence[ExportQueue[Any]],
    sender: Sender,
    settings: Settings,
    tally: Tally,
    patience: float,
    wanted_by: Callable[[Key], Iterator[str]] | None = None,
) -> None:
    """Send records through channels as fast as these take them.

    Args:
        history: The records.
        queues: The channels.
        sender: Sends them.
        settings: What may leave the machine.
        tally: Counts what becomes of them.
        patience: Seconds for which nothing may get through, before this gives up.
        wanted_by: Returns the names of the channels that are to send a record; all do without.
    """
    names = [queue.name for queue in queues]
    for position, one in enumerate(history):
        if not _is_to_be_sent(one, settings):
            continue
        event = one.event
        key = (event.created, event.task_name or "", event.action or "")
        wanted = names if wanted_by is None else list(wanted_by(key))
        if not wanted:
            continue
        for queue in queues:
            if not _wait(queue.wait_for_room, tally, patience):
                tally.is_cut_short = True
                return
        sender.send(event, one.step, Passage(*key, positions=dict.fromkeys(wanted, position)))
        tally.add(one)
    for queue in queues:
        if not _wait(partial(_is_sent, queue), tally, patience):
            break
    tally.waiting = sum(queue.ask(lambda held: held.count()) for queue in queues)


def _is_sent(queue: ExportQueue[Any], timeout: float) -> bool:
    queue.wait_for(queue.hurry(), time.monotonic() + timeout)
    return queue.ask(lambda held: held.first_position(queue.name)) is None


def _wait(is_done: Callable[[float], bool], tally: Tally, patience: float) -> bool:
    """Wait for a channel; return whether it got there before patience was lost."""
    while not is_done(_SECONDS_BETWEEN_LOOKS):
        tally.look()
        if time.monotonic() - tally.moved_at > patience:
            return False
    return True


@contextmanager
def channels(settings: Settings, tally: Tally) -> Iterator[tuple[list[ExportQueue[Any]], Sender]]:
    """Give our own channels from the environment, and what sends through them."""
    counts = Counts()
    outage = Outage(counts)
    tracer, spans = own.tracer_provider(counts, outage)
    logger, log_records = own.logger_provider(counts, outage)
    providers = Providers(tracer, logger, NoOpMeterProvider(), [*spans, *log_records])
    tally.counts = counts
    tally.queues = queues = providers.queues
    refused: Counter[str] = tally.refused

    def set_aside(_: Any, __: list[Entry], count: int, reason: str) -> None:
        refused[reason] += count

    for queue in queues:
        queue.set_aside = set_aside
    try:
        yield queues, Sender(providers, settings, lambda _, __: None)
    finally:
        providers.close(time.monotonic())


def _is_to_be_sent(one: Retold, settings: Settings) -> bool:
    return one.event.is_task_event and settings.exports(one.event.task_name or "")


def _nanoseconds(when: datetime | None) -> int | None:
    if when is None:
        return None
    since_epoch = when.astimezone(timezone.utc) - datetime.fromtimestamp(0, timezone.utc)
    seconds = since_epoch.days * 86_400 + since_epoch.seconds
    return min(max(seconds * _NANOSECONDS + since_epoch.microseconds * 1000, 0), FOREVER)


def nothing(_: Replay) -> None:
    """Show nothing."""

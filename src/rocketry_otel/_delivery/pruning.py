"""Removing old records once they are delivered."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from rocketry_otel._export.buffer import Buffer
from rocketry_otel._export.channel import signal_of
from rocketry_otel._history.retention import prune
from rocketry_otel._runtime.scope import NAME

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from redbird import BaseRepo

    from rocketry_otel._export.queue import ExportQueue
    from rocketry_otel._model.retention import Retention

    from .checkpoint import Backlog
    from .memory_state import MemoryState
    from .state import State

_logger = logging.getLogger(NAME)

_NANOSECONDS = 1_000_000_000


def prune_delivered(
    repo: BaseRepo,
    retention: Retention,
    abandoned_after: int,
    state: State | MemoryState,
    queues: Sequence[ExportQueue[Any]],
    backlogs: Mapping[str, Backlog],
) -> None:
    """Remove the records that are older than they need be kept, and delivered everywhere.

    Nothing is done while another process does it, or sends from the repository.

    Args:
        repo: The repository.
        retention: How long records are kept.
        abandoned_after: For how many seconds is kept what is for a signal that nobody sends any
            more, or may have to be sent again since nothing is known.
        state: What is known of what was delivered, by all processes.
        queues: The channels of this process.
        backlogs: What is to be sent on them from the repository.

    Raises:
        StateError: It is not known what was delivered.
        Exception: What the repository raises.
    """
    with state.lease() as is_ours:
        if not is_ours:
            return
        now = time.time_ns()
        times: list[int | None] = [
            now,
            *_undelivered(state, queues, now - abandoned_after * _NANOSECONDS),
        ]
        times += [queue.ask(Buffer.oldest) for queue in queues]
        times += [backlog.oldest for backlog in backlogs.values()]
        delivered = min(one for one in times if one is not None)
        removed = prune(repo, retention, acknowledged=delivered, now=now)
    _logger.debug("%d records were removed from the repository, for they are old", removed)


def _undelivered(
    state: State | MemoryState, queues: Sequence[ExportQueue[Any]], abandoned: int
) -> list[int]:
    """Return since when something may not be delivered, on each channel of each process.

    Args:
        state: What is known of it.
        queues: The channels of this process.
        abandoned: From when on is kept what is for a signal that nobody sends any more, and what
            of nothing is known: it may be sent again.
    """
    noted = state.undelivered()
    living = {writer for writer, _, _ in noted if writer and state.is_alive(writer)}
    sent = {queue.signal for queue in queues}
    sent |= {signal_of(channel) for writer, channel, _ in noted if writer in living}
    since = [
        since if signal_of(channel) in sent else max(since, abandoned)
        for _, channel, since in noted
    ]
    is_lost = bool(queues) and not state.is_known()
    return [*since, abandoned] if is_lost else since

"""Removing old records once they are delivered."""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING, Any

from rocketry_otel._export.buffer import Buffer
from rocketry_otel._export.channel import signal_of
from rocketry_otel._history.retention import prune
from rocketry_otel._model.durations import NANOSECONDS
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

_SECONDS_BETWEEN_PRUNINGS = 3600.0
# With a count, records are also removed when a tenth of it was added, but no more often than this.
_SHARE = 10
_LEAST_SECONDS = 10.0


class PruningTimes:
    """When to remove old records: each hour; with a count, as often as the rate asks for.

    Args:
        retention: How long records are kept; ``None`` if they are never removed.
    """

    def __init__(self, retention: Retention | None) -> None:
        self._retention = retention
        self._last = -math.inf
        self._added = 0

    def note_record(self) -> None:
        """Count a record of this process. Where threads meet, one may be missed."""
        self._added += 1

    def is_due(self, now: float) -> bool:
        """Return whether it is time, by the monotonic clock in seconds."""
        if self._retention is None:
            return False
        since = now - self._last
        count = self._retention.count
        are_many = count is not None and self._added * _SHARE >= count
        return since >= _SECONDS_BETWEEN_PRUNINGS or (are_many and since >= _LEAST_SECONDS)

    def note_removal(self, now: float, *, is_complete: bool) -> None:
        """Note a removal of old records; an incomplete one is tried again as soon as may be."""
        self._last = now
        if is_complete:
            self._added = 0


def prune_delivered(
    repo: BaseRepo,
    retention: Retention,
    abandoned_after: int,
    state: State | MemoryState,
    queues: Sequence[ExportQueue[Any]],
    backlogs: Mapping[str, Backlog],
) -> bool:
    """Remove old records that are delivered on all channels.

    Does nothing while another process prunes or catches up.

    Args:
        repo: The repository.
        retention: How long records are kept.
        abandoned_after: Seconds for which undelivered records are kept if no process sends their
            signal any more, or if the delivery progress was lost.
        state: The delivery progress of all processes.
        queues: The channels of this process.
        backlogs: Their backlogs.

    Returns:
        Whether all old records were delivered, and so are removed.

    Raises:
        StateError: The delivery progress cannot be read.
        Exception: The repository has raised it.
    """
    with state.lease() as is_ours:
        if not is_ours:
            return False
        now = time.time_ns()
        times: list[int | None] = [
            now,
            *_undelivered(state, queues, now - abandoned_after * NANOSECONDS),
        ]
        times += [queue.ask(Buffer.oldest) for queue in queues]
        times += [backlog.oldest for backlog in backlogs.values()]
        delivered = min(one for one in times if one is not None)
        pruned = prune(repo, retention, acknowledged=delivered, now=now)
    _logger.debug("%d old records were removed from the repository", pruned.removed)
    return pruned.is_complete


def _undelivered(
    state: State | MemoryState, queues: Sequence[ExportQueue[Any]], abandoned: int
) -> list[int]:
    """Return since when records may be undelivered, on each channel of each process.

    Args:
        state: The delivery progress.
        queues: The channels of this process.
        abandoned: Records since then are kept though no process sends their signal, or though
            their delivery is unknown; in nanoseconds since the epoch.
    """
    stored = state.undelivered()
    living = {writer for writer, _, _ in stored if writer and state.is_alive(writer)}
    sent = {queue.signal for queue in queues}
    sent |= {signal_of(channel) for writer, channel, _ in stored if writer in living}
    since = [
        since if signal_of(channel) in sent else max(since, abandoned)
        for _, channel, since in stored
    ]
    is_lost = bool(queues) and not state.is_known()
    return [*since, abandoned] if is_lost else since

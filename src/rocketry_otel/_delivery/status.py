"""The status of delivery, from queues, backlogs and counters."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from rocketry_otel._export.buffer import Buffer
from rocketry_otel._export.status import Delivery, SignalDelivery
from rocketry_otel._model.durations import NANOSECONDS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rocketry_otel._export.counters import Counters
    from rocketry_otel._export.queue import ExportQueue

    from .checkpoint import Backlog


def status_of(
    queues: Sequence[ExportQueue[Any]], backlogs: Mapping[str, Backlog], counters: Counters
) -> Delivery:
    """Return the status of delivery.

    Args:
        queues: The channels.
        backlogs: Their backlogs.
        counters: The number of items by their outcome.
    """
    return Delivery(
        traces=_of_signal("traces", queues, backlogs, counters),
        logs=_of_signal("logs", queues, backlogs, counters),
    )


def _of_signal(
    signal: str,
    queues: Sequence[ExportQueue[Any]],
    backlogs: Mapping[str, Backlog],
    counters: Counters,
) -> SignalDelivery:
    ours = [queue for queue in queues if queue.signal == signal]
    # Another thread may finish a backlog meanwhile.
    found = (backlogs.get(queue.name) for queue in ours)
    its_backlogs = [backlog for backlog in found if backlog is not None]
    oldest = [created for queue in ours if (created := queue.ask(Buffer.oldest)) is not None]
    oldest += [backlog.oldest for backlog in its_backlogs]
    return SignalDelivery(
        # Log lines have a channel of their own to each destination.
        destinations=tuple(queue.destination.name for queue in ours if not queue.for_lines),
        delivered=counters.total(signal, "delivered"),
        waiting=sum(queue.ask(Buffer.count) for queue in ours)
        + sum(backlog.waiting for backlog in its_backlogs),
        refused=counters.of(signal, "failed").get("refused", 0),
        dropped=counters.total(signal, "dropped"),
        oldest_waiting=_time_of(min(oldest)) if oldest else None,
        last_error=next((queue.last_error for queue in ours if queue.last_error), None),
    )


def _time_of(created: int) -> datetime:
    return datetime.fromtimestamp(created / NANOSECONDS, tz=timezone.utc)

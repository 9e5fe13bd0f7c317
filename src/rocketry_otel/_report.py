"""How delivery stands, for people and for metrics."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Protocol
from weakref import ref

from ._holding import Holding

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ._counts import Counts
    from ._delivery import ExportQueue
    from ._progress import Backlog

_NANOSECONDS = 1e9


@dataclass(frozen=True)
class SignalDelivery:
    """How the delivery of spans, or that of log records, stands.

    All counts are of this process since its start, and of all destinations together. What goes
    to a provider of the application's own is not known here.

    Attributes:
        destinations: Where it goes.
        delivered: How many items were accepted there.
        waiting: How many wait to be, as far as is known: here, or in the repository.
        refused: How many were refused for good.
        dropped: How many were not sent, for whatever reason.
        oldest_waiting: When the oldest record was created that waits; ``None`` if none does.
        last_error: What last went wrong; ``None`` if nothing has.
    """

    destinations: tuple[str, ...] = ()
    delivered: int = 0
    waiting: int = 0
    refused: int = 0
    dropped: int = 0
    oldest_waiting: datetime | None = None
    last_error: str | None = None


@dataclass(frozen=True)
class Delivery:
    """How delivery stands.

    Attributes:
        traces: That of spans.
        logs: That of log records.
    """

    traces: SignalDelivery = SignalDelivery()
    logs: SignalDelivery = SignalDelivery()


class HasDelivery(Protocol):
    """Whoever knows how delivery stands."""

    @property
    def delivery(self) -> Delivery:
        """How it stands."""
        ...


def report(
    queues: Sequence[ExportQueue[Any]], backlogs: Mapping[str, Backlog], counts: Counts
) -> Delivery:
    """Return how delivery stands.

    Args:
        queues: The channels.
        backlogs: What is to be sent on them from the repository.
        counts: What became of telemetry so far.
    """
    return Delivery(
        traces=_of_signal("traces", queues, backlogs, counts),
        logs=_of_signal("logs", queues, backlogs, counts),
    )


def delivery_of(owner: HasDelivery) -> Callable[[], Delivery]:
    """Return a function that tells how delivery stands, and does not keep its owner alive."""
    weak = ref(owner)

    def delivery() -> Delivery:
        known = weak()
        return Delivery() if known is None else known.delivery

    return delivery


def _of_signal(
    signal: str,
    queues: Sequence[ExportQueue[Any]],
    backlogs: Mapping[str, Backlog],
    counts: Counts,
) -> SignalDelivery:
    ours = [queue for queue in queues if queue.signal == signal]
    # Another thread may be at the end of one just now.
    found = (backlogs.get(queue.name) for queue in ours)
    its_backlogs = [backlog for backlog in found if backlog is not None]
    oldest = [created for queue in ours if (created := queue.ask(Holding.oldest)) is not None]
    oldest += [backlog.oldest for backlog in its_backlogs]
    return SignalDelivery(
        destinations=tuple(queue.destination.name for queue in ours),
        delivered=counts.total(signal, "delivered"),
        waiting=sum(queue.ask(Holding.count) for queue in ours)
        + sum(backlog.waiting for backlog in its_backlogs),
        refused=counts.of(signal, "failed").get("refused", 0),
        dropped=counts.total(signal, "dropped"),
        oldest_waiting=_time_of(min(oldest)) if oldest else None,
        last_error=next((queue.last_error for queue in ours if queue.last_error), None),
    )


def _time_of(created: int) -> datetime:
    return datetime.fromtimestamp(created / _NANOSECONDS, tz=timezone.utc)

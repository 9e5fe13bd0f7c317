"""How delivery stands, as users and metrics see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol
from weakref import ref

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime


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


def combined(deliveries: Sequence[Delivery]) -> Delivery:
    """Return the status of several deliveries as one."""
    if len(deliveries) == 1:
        return deliveries[0]
    return Delivery(
        _combined([delivery.traces for delivery in deliveries]),
        _combined([delivery.logs for delivery in deliveries]),
    )


def _combined(signals: Sequence[SignalDelivery]) -> SignalDelivery:
    oldest = [one.oldest_waiting for one in signals if one.oldest_waiting is not None]
    errors = [one.last_error for one in signals if one.last_error is not None]
    return SignalDelivery(
        destinations=tuple(dict.fromkeys(name for one in signals for name in one.destinations)),
        delivered=sum(one.delivered for one in signals),
        waiting=sum(one.waiting for one in signals),
        refused=sum(one.refused for one in signals),
        dropped=sum(one.dropped for one in signals),
        oldest_waiting=min(oldest, default=None),
        last_error=errors[-1] if errors else None,
    )


class HasDelivery(Protocol):
    """Whoever knows how delivery stands."""

    @property
    def delivery(self) -> Delivery:
        """How it stands."""
        ...


def delivery_of(owner: HasDelivery) -> Callable[[], Delivery]:
    """Return a function that tells how delivery stands, and does not keep its owner alive."""
    weak = ref(owner)

    def delivery() -> Delivery:
        known = weak()
        return Delivery() if known is None else known.delivery

    return delivery

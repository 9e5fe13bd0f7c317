"""The status of delivery, as users and metrics see it.

In: the counts and times of a handler's channels. Out: ``handler.delivery``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol
from weakref import ref

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime


@dataclass(frozen=True)
class SignalDelivery:
    """The delivery of spans, or of log records.

    All counts are of this process since its start, and of all destinations together. Items of the
    application's own providers are not counted.

    Attributes:
        destinations: The destinations of the signal.
        delivered: The number of items that were accepted.
        waiting: The number of items that wait in memory or in the repository, as far as is known.
        refused: The number of items that were refused for good.
        dropped: The number of items that were not sent, for any reason.
        oldest_waiting: When the oldest waiting record was created; ``None`` if nothing waits.
        last_error: The reason of the last failure; ``None`` if nothing has failed.
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
    """The delivery of a handler's telemetry.

    Attributes:
        traces: The delivery of spans.
        logs: The delivery of log records.
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
    """An object that knows the status of delivery."""

    @property
    def delivery(self) -> Delivery:
        """The delivery of its telemetry."""
        ...


def delivery_of(owner: HasDelivery) -> Callable[[], Delivery]:
    """Return a function that returns the status of delivery, and does not keep its owner alive."""
    weak = ref(owner)

    def delivery() -> Delivery:
        known = weak()
        return Delivery() if known is None else known.delivery

    return delivery

"""What became of the demo's telemetry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rocketry_otel._instrumentation.handler import OTelRepoHandler

_SIGNALS = ("traces", "logs")
# For a destination that has not accepted anything so far.
_SECONDS_WITHOUT_HOPE = 0.5


@dataclass(frozen=True)
class Delivery:
    """What was delivered, and where to.

    Attributes:
        endpoints: Where telemetry goes, each address once.
        spans: How many spans were accepted there.
        log_records: How many log records were.
        complete: Whether all that there was, metrics too, was accepted.
    """

    endpoints: tuple[str, ...]
    spans: int
    log_records: int
    complete: bool


def deliver(handler: OTelRepoHandler, timeout: float) -> Delivery:
    """Send what waits, and tell what was delivered so far.

    Args:
        handler: The handler, before it is closed.
        timeout: Seconds to wait at most. It is less if nothing has got through so far and
            something is known to be amiss.
    """
    logs = handler.delivery.logs
    hopeless = logs.last_error is not None and not logs.delivered
    complete = handler.flush(min(timeout, _SECONDS_WITHOUT_HOPE) if hopeless else timeout)
    delivery = handler.delivery
    names = delivery.traces.destinations + delivery.logs.destinations
    return Delivery(
        tuple(dict.fromkeys(map(_base, names))),
        delivery.traces.delivered,
        delivery.logs.delivered,
        complete,
    )


def _base(destination: str) -> str:
    """Return the address that signals of one endpoint have in common."""
    for signal in _SIGNALS:
        destination = destination.removesuffix(f"/v1/{signal}")
    return destination

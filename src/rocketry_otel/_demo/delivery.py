"""How much of the demo's telemetry was delivered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rocketry_otel._instrumentation.handler import OTelRepoHandler

_SIGNALS = ("traces", "logs")
# The time limit for a destination that has not accepted anything.
_SECONDS_WITHOUT_HOPE = 0.5


@dataclass(frozen=True)
class Delivery:
    """How much telemetry was delivered, and the destinations.

    Attributes:
        endpoints: The addresses of the destinations, each once.
        spans: The number of accepted spans.
        log_records: The number of accepted log records.
        complete: Whether everything was accepted, metrics included.
    """

    endpoints: tuple[str, ...]
    spans: int
    log_records: int
    complete: bool


def deliver(handler: OTelRepoHandler, timeout: float) -> Delivery:
    """Send the queues of a handler, and return how much was delivered.

    The timeout is in seconds. If nothing was accepted yet and an error is known, it is shorter.
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
    """Return the address of an endpoint, without the path of a signal."""
    for signal in _SIGNALS:
        destination = destination.removesuffix(f"/v1/{signal}")
    return destination

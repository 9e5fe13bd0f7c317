"""What became of the demo's telemetry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rocketry_otel._handler import OTelRepoHandler

_SIGNALS = ("traces", "logs", "metrics")
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
    bridge = handler._bridge  # noqa: SLF001  # nothing public tells yet
    hopeless = bridge._outage.is_on and not _delivered(handler, "logs")  # noqa: SLF001
    complete = handler.flush(min(timeout, _SECONDS_WITHOUT_HOPE) if hopeless else timeout)
    signals = bridge._signals  # noqa: SLF001
    channels = () if signals is None else signals.providers.channels
    return Delivery(
        tuple(dict.fromkeys(_base(channel.destination.name) for channel in channels)),
        _delivered(handler, "traces"),
        _delivered(handler, "logs"),
        complete,
    )


def _delivered(handler: OTelRepoHandler, signal: str) -> int:
    return handler._bridge.counts.total(signal, "delivered")  # noqa: SLF001


def _base(destination: str) -> str:
    """Return the address that signals of one endpoint have in common."""
    for signal in _SIGNALS:
        destination = destination.removesuffix(f"/v1/{signal}")
    return destination

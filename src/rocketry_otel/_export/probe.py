"""Sends one marked item to each destination, and puts the answer into words.

In: a signal. Out: for each destination the outcome, and how to cure it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from time import time_ns
from typing import TYPE_CHECKING, Any

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from rocketry_otel._runtime.suppression import suppressed

from . import otel_env as environment
from .exporters import destinations, quiet
from .responses import Answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .responses import Result

# No panel, alert or count of ours has a service of this name.
SERVICE = "rocketry-otel-check"
ITEM = "rocketry-otel check"

_HEADERS = "OTEL_EXPORTER_OTLP_HEADERS"
_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
_CERTIFICATE = "OTEL_EXPORTER_OTLP_CERTIFICATE"
_CLIENT = (
    "set OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY to files of an "
    "authority that it trusts"
)


@dataclass(frozen=True)
class Probe:
    """The outcome of one marked item.

    Attributes:
        signal: ``traces``, ``logs`` or ``metrics``.
        destination: The destination as people may see it.
        outcome: ``accepted``, or one or two words for what went wrong.
        reason: What the destination, or the connection to it, answered.
        cure: What to do about it; empty if it was accepted.
    """

    signal: str
    destination: str
    outcome: str
    reason: str = ""
    cure: str = ""

    @property
    def is_accepted(self) -> bool:
        """Whether the item was accepted."""
        return self.outcome == _ACCEPTED


_ACCEPTED = "accepted"


@dataclass(frozen=True)
class _Cure:
    """An outcome, how it is recognised, and its cure.

    Attributes:
        outcome: The outcome in one or two words.
        marks: One of these is in the reason.
        cure: What to do about it.
    """

    outcome: str
    marks: tuple[str, ...]
    cure: str


# In this order: the first that is recognised counts.
_CURES = (
    _Cure("wrong address", ("needs http:// or https://",), "write the address with its scheme"),
    _Cure("wrong port", ("does not speak",), ""),
    _Cure(
        "TLS",
        ("CERTIFICATE_VERIFY_FAILED",),
        f"set {_CERTIFICATE} to the file of the authority that signed the collector's "
        "certificate; the certificate is for the name of the host in the address",
    ),
    _Cure(
        "TLS",
        ("WRONG_VERSION", "RECORD_LAYER"),
        "https:// needs a collector with TLS, and http:// one without",
    ),
    _Cure(
        "client certificate",
        ("SSL", "Handshake", "handshake"),
        f"the collector asks for a certificate, or refuses this one: {_CLIENT}",
    ),
    _Cure(
        "TLS",
        ("certificate",),
        f"see whether the files are there that {_CERTIFICATE} and the variables beside it name",
    ),
    _Cure(
        "unauthorised",
        ("HTTP 401", "HTTP 403", "UNAUTHENTICATED", "PERMISSION_DENIED"),
        f"set {_HEADERS} to the token of your backend, for example Authorization=Bearer%20TOKEN",
    ),
    _Cure(
        "redirect",
        ("HTTP 301", "HTTP 302", "HTTP 303", "HTTP 307", "HTTP 308"),
        f"set {_ENDPOINT} to the address that it leads to, without the part from /v1 on; "
        "exporters follow no redirect",
    ),
    _Cure(
        "host unknown",
        ("Name or service not known", "lookup failed", "resolv", "NameResolution"),
        f"correct the name of the host in {_ENDPOINT}; in a container, localhost is the container "
        "itself",
    ),
    _Cure(
        "refused",
        ("Connection refused", "ConnectionRefused", "Failed to connect"),
        f"nothing listens there: start the collector (rocketry-otel stack init), or correct "
        f"{_ENDPOINT}; in a container, localhost is the container itself",
    ),
    _Cure(
        "no answer",
        ("imeout", "timed out", "DEADLINE_EXCEEDED", "Deadline"),
        "see whether a firewall or a proxy lets the connection through; "
        "OTEL_EXPORTER_OTLP_TIMEOUT is the time limit in seconds",
    ),
    _Cure(
        "overloaded",
        ("HTTP 429", "HTTP 503", "RESOURCE_EXHAUSTED"),
        "the collector is there, but accepts nothing at present: see its log; the application "
        "tries again until it does",
    ),
    _Cure(
        "closed",
        ("ConnectionReset", "RemoteDisconnected", "BrokenPipe", "Socket closed"),
        "it ends the connection without an answer. It may need TLS: write https://. It may ask for "
        f"a certificate: {_CLIENT}. Or it speaks another protocol: OTEL_EXPORTER_OTLP_PROTOCOL",
    ),
)


def probe_signal(signal: str) -> list[Probe]:
    """Send one marked item of a signal to each of its destinations.

    Args:
        signal: ``traces``, ``logs`` or ``metrics``.

    Returns:
        The outcomes; none if no exporter is chosen or the only one cannot be made, which the log
        explains.
    """
    found = []
    with suppressed():
        for destination in destinations(signal):
            result = destination.export(_batch(signal))
            destination.shutdown()
            found.append(_probe(signal, destination.name, result))
    return found


def _probe(signal: str, destination: str, result: Result) -> Probe:
    if result.answer is Answer.ACCEPTED:
        if not result.rejected:
            return Probe(signal, destination, _ACCEPTED)
        cure = "see the log of the collector; what it rejects is not sent again"
        return Probe(signal, destination, "partial", result.reason or "1 item rejected", cure)
    for one in _CURES:
        if any(mark in result.reason for mark in one.marks):
            # Some reasons have the cure in them.
            return Probe(signal, destination, one.outcome, result.reason, one.cure)
    if result.unknown:
        cure = (
            f"it takes no {signal} at this path: correct {_ENDPOINT}, which has no /v1 at its end "
            f"over HTTP, or set OTEL_{signal.upper()}_EXPORTER=none if it takes no {signal}"
        )
        return Probe(signal, destination, "no path", result.reason, cure)
    outcome = "data refused" if result.answer is Answer.REFUSED else "unavailable"
    return Probe(signal, destination, outcome, result.reason, "see the log of the collector")


def _batch(signal: str) -> Any:
    # Limits, samplers and switches of the SDK are for the application.
    names = [name for name in os.environ if name.startswith("OTEL_")]
    with environment.without(names), quiet():
        resource = Resource({"service.name": SERVICE})
        return {"traces": _span, "logs": _log_record, "metrics": _metric}[signal](resource)


def _span(resource: Resource) -> Sequence[Any]:
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    span = provider.get_tracer(SERVICE).start_span(ITEM)
    span.end()
    return [span]


def _log_record(resource: Resource) -> Sequence[Any]:
    now = time_ns()
    record = LogRecord(
        timestamp=now,
        observed_timestamp=now,
        severity_number=SeverityNumber.INFO,
        severity_text="INFO",
        body=ITEM,
    )
    scope = InstrumentationScope(SERVICE)
    return [ReadableLogRecord(log_record=record, resource=resource, instrumentation_scope=scope)]


def _metric(resource: Resource) -> Any:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], resource=resource, shutdown_on_exit=False)
    provider.get_meter(SERVICE).create_counter("rocketry.otel.check", "1").add(1)
    data = reader.get_metrics_data()
    provider.shutdown()
    return data

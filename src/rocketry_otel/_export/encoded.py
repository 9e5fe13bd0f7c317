"""Requests of items that are encoded already.

In: encoded items, and items of the SDK between them, such as spans of a task's body. Out: the bytes
of a request, which the SDK's exporter sends as its own: compressed, with its headers and time-out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext

from rocketry_otel._runtime.forks import no_fork

from .encoding import field, text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from .encoding import Limits


class Scope:
    """The resource and the instrumentation scope of items, which come once in each request.

    The SDK encodes them. Its requests of spans and of log records have the same form here.

    Args:
        provider: A provider of the SDK.
        instrument: A tracer or a logger of it.
        limits: The limits of its items.
    """

    def __init__(self, provider: Any, instrument: Any, limits: Limits) -> None:
        self.limits = limits
        span = ReadableSpan(
            "",
            SpanContext(1, 1, is_remote=False),
            resource=provider.resource,
            # A logger has no public name for it in older SDKs, a tracer in none.
            instrumentation_scope=instrument._instrumentation_scope,  # noqa: SLF001
        )
        with no_fork:  # the encoder may be imported here
            of_resource = _encoder("traces")([span]).resource_spans[0]
        of_scope = of_resource.scope_spans[0]
        self._resource = field(1, of_resource.resource.SerializePartialToString())
        self._resource_url = text(3, of_resource.schema_url)
        self._scope = field(1, of_scope.scope.SerializePartialToString())
        self._scope_url = text(3, of_scope.schema_url)

    def part(self, contents: Iterable[bytes]) -> bytes:
        """Return a part of a request.

        Args:
            contents: The items, as fields of ``ScopeSpans`` or ``ScopeLogs``.
        """
        of_scope = b"".join((self._scope, *contents, self._scope_url))
        return field(1, self._resource + field(2, of_scope) + self._resource_url)


class Encoded(NamedTuple):
    """A span or a log record as bytes.

    Attributes:
        scope: Its resource and scope.
        content: The item, as a field of ``ScopeSpans`` or ``ScopeLogs``.
    """

    scope: Scope
    content: bytes


def request_of(signal: str, batch: Sequence[Any]) -> bytes:
    """Return the request of a batch.

    Args:
        signal: ``traces`` or ``logs``.
        batch: Encoded items, and items of the SDK.

    Raises:
        Exception: An item of the SDK cannot be encoded.
    """
    contents: dict[Scope, list[bytes]] = {}
    others = []
    for item in batch:
        if isinstance(item, Encoded):
            contents.setdefault(item.scope, []).append(item.content)
        else:
            others.append(item)
    parts = [scope.part(its) for scope, its in contents.items()]
    if others:
        parts.append(_encoder(signal)(others).SerializePartialToString())
    # A field that may be repeated goes on where it has ended.
    return b"".join(parts)


def sender_of(exporter: Any) -> Callable[[bytes], object] | None:
    """Return the function by which an exporter of the SDK sends bytes; ``None`` if it has none.

    The SDK has no public one. Newer exporters have a client, older ones a method.
    """
    client = getattr(exporter, "_client", None)
    send = getattr(client, "export", None) or getattr(exporter, "_export", None)
    return send if callable(send) else None


def is_too_large(exporter: Any, request: bytes) -> bool:
    """Return whether a request exceeds the exporter's limit, which older ones do not have."""
    return 0 < getattr(exporter, "_max_request_size", 0) < len(request)


def _encoder(signal: str) -> Callable[[Sequence[Any]], Any]:
    # Slow to import, and not needed for gRPC or the console.
    if signal == "traces":
        from opentelemetry.exporter.otlp.proto.common.trace_encoder import (  # noqa: PLC0415
            encode_spans,
        )

        return encode_spans
    from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs  # noqa: PLC0415

    return encode_logs

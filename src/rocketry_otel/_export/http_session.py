"""The connection of an HTTP exporter, which reads the collector's answers.

In: requests of the SDK's exporter. Out: the answer, as a result. Only a destination over HTTP needs
this module: the HTTP library and protobuf are slow to import.
"""

from __future__ import annotations

import zlib
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from http.client import BadStatusLine, RemoteDisconnected
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from requests.exceptions import InvalidSchema, MissingSchema
from requests.structures import CaseInsensitiveDict

from .bounded_http import BoundedAdapter, limit
from .responses import LONGEST_ANSWER, Answer, NotAcceptedError, Result, accepted, shown

_RESPONSES: dict[str, Any] = {
    "traces": ExportTraceServiceResponse,
    "logs": ExportLogsServiceResponse,
    "metrics": ExportMetricsServiceResponse,
}

# The fault is in the request, which would be refused again. All other statuses may be cured at the
# collector (a token, a path, a quota), and the items are kept.
_REFUSED_STATUS = frozenset({400, 413, 415, 422})
_UNKNOWN_STATUS = frozenset({404, 405, 501})

_NEEDS_SCHEME = (
    "the address needs http:// or https:// at its beginning (OTEL_EXPORTER_OTLP_ENDPOINT or "
    "OTEL_EXPORTER_OTLP_{}_ENDPOINT)"
)
_NOT_HTTP = (
    "the port does not speak HTTP, and may be one for gRPC: set OTEL_EXPORTER_OTLP_PROTOCOL=grpc, "
    "or use the port of OTLP over HTTP (4318 as a rule)"
)

# Only the head is used of an answer that is no acceptance.
_LONGEST_ERROR_PAGE = 64 * 1024
_LONGEST_HEADS = 1024 * 1024
_PIECE = 64 * 1024


class WatchedSession(requests.Session):
    """A session that raises ``NotAcceptedError`` for each answer but an acceptance.

    Args:
        signal: The signal, by which a response is decoded to find a partial success.
    """

    def __init__(self, signal: str) -> None:
        super().__init__()
        self._signal = signal
        self._result: Result | None = None
        for scheme in ("http://", "https://"):
            self.mount(scheme, BoundedAdapter())
        # A collector that sets another cookie with each answer would fill the memory.
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))

    def take_result(self) -> Result | None:
        """Return the result of the last request, once; ``None`` if there was no request."""
        result, self._result = self._result, None
        return result

    def send(self, request: Any, **kwargs: Any) -> requests.Response:
        """Send a request; raises ``NotAcceptedError`` unless it is accepted.

        The time-out covers the whole request, to the last byte of the answer.
        """
        kwargs |= {"allow_redirects": False, "stream": True}
        try:
            with limit(kwargs.get("timeout"), LONGEST_ANSWER + _LONGEST_HEADS):
                response = self._send_once_more_if_reset(request, kwargs)
                content = _content(response)
        except Exception as error:
            raise self._unavailable(error) from error
        self._result = _result_of(response, content, self._signal)
        if self._result.answer is not Answer.ACCEPTED:
            raise NotAcceptedError(self._result)
        return response

    def prepare_request(self, request: requests.Request) -> requests.PreparedRequest:
        """Prefer an ``Authorization`` header to one from ``.netrc`` or the address."""
        try:
            prepared = super().prepare_request(request)
        except requests.RequestException as error:
            raise self._unavailable(error) from error
        headers = CaseInsensitiveDict(request.headers or {})
        given = headers.get("authorization", self.headers.get("authorization"))
        if given is not None:
            prepared.headers["Authorization"] = given
        return prepared

    def _unavailable(self, error: Exception) -> NotAcceptedError:
        root = _root(error)
        reason = shown(root)
        if isinstance(root, InvalidSchema | MissingSchema):
            reason = _NEEDS_SCHEME.format(self._signal.upper())
        elif isinstance(root, BadStatusLine) and not isinstance(root, RemoteDisconnected):
            reason = _NOT_HTTP
        self._result = Result(Answer.UNAVAILABLE, reason)
        return NotAcceptedError(self._result)

    def merge_environment_settings(
        self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any
    ) -> Any:
        """Prefer the certificates of ``OTEL_EXPORTER_OTLP_CERTIFICATE`` to others' variables."""
        if verify is None and self.verify is not True:
            verify = self.verify
        return super().merge_environment_settings(url, proxies, stream, verify, cert)

    def _send_once_more_if_reset(self, request: Any, kwargs: Any) -> requests.Response:
        try:
            return super().send(request, **kwargs)
        except requests.ConnectionError as error:
            # A collector may close an old connection that was kept open: that is no outage.
            if not isinstance(_root(error), ConnectionResetError | BrokenPipeError):
                raise
            return super().send(request, **kwargs)


def _root(error: BaseException) -> BaseException:
    """Return the cause of an error of the HTTP library: that is the part people can read."""
    seen: set[int] = set()
    while id(error) not in seen:
        seen.add(id(error))
        reason = getattr(error, "reason", None)
        inner = reason if isinstance(reason, BaseException) else None
        inner = inner or next((arg for arg in error.args if isinstance(arg, BaseException)), None)
        if inner is None:
            break
        error = inner
    return error


def _content(response: requests.Response) -> bytes:
    """Read an answer; if it is longer than its limit, the connection is closed."""
    # Not decoded: a few bytes may unpack to any number of bytes.
    content = bytearray()
    most = LONGEST_ANSWER if _is_yes(response) else _LONGEST_ERROR_PAGE
    while len(content) <= most and (piece := response.raw.read(_PIECE, decode_content=False)):
        content += piece
    if len(content) > most:
        response.close()
        content.clear()
    # The rest must not be read.
    response._content = b""  # noqa: SLF001  # the library has no public way
    response._content_consumed = True  # type: ignore[attr-defined]  # noqa: SLF001  # the same
    return _unpacked(bytes(content), response.headers.get("content-encoding", ""))


def _unpacked(content: bytes, encoding: str) -> bytes:
    """Return the content of an answer without its compression; empty if it is too long."""
    if encoding.strip().lower() not in {"gzip", "deflate"}:
        return content
    try:
        # Of zlib's format or of gzip's.
        unpacked = zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(content, LONGEST_ANSWER + 1)
    except zlib.error:
        return b""
    return unpacked if len(unpacked) <= LONGEST_ANSWER else b""


def _is_yes(response: requests.Response) -> bool:
    return 200 <= response.status_code < 300  # noqa: PLR2004  # HTTP's range of success


def _result_of(response: requests.Response, content: bytes, signal: str) -> Result:
    status = response.status_code
    if _is_yes(response):
        return _accepted_over_http(signal, content)
    answer = Answer.REFUSED if status in _REFUSED_STATUS else Answer.UNAVAILABLE
    reason = f"HTTP {status} {response.reason or ''}".strip()
    if "location" in response.headers:
        reason += f" to {response.headers['location']} (is the endpoint right?)"
    return Result(
        answer,
        reason,
        retry_after=_retry_after(response.headers.get("retry-after")),
        unknown=status in _UNKNOWN_STATUS,
    )


def _retry_after(value: str | None) -> float | None:
    """Return the seconds that an HTTP ``Retry-After`` header asks for (RFC 9110)."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            when = parsedate_to_datetime(value)
        except (TypeError, ValueError, OverflowError):
            return None
        if when.tzinfo is None:
            when = when.replace(tzinfo=timezone.utc)
        seconds = (when - datetime.now(timezone.utc)).total_seconds()
    return seconds


def _accepted_over_http(signal: str, content: bytes) -> Result:
    try:
        return accepted(_RESPONSES[signal].FromString(content))
    except Exception:  # noqa: BLE001  # some servers answer JSON or text: they took the batch
        return Result(Answer.ACCEPTED)

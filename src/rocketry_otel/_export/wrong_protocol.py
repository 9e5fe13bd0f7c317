"""Finds out whether the OpenTelemetry distribution sends gRPC to a port that speaks HTTP.

The distribution of ``opentelemetry-instrument`` sets the protocol to gRPC, and its exporters only
report that the collector is unavailable. In: the ``OTEL_*`` variables. Out: at most one warning.
Our own exporters see the answer of the collector themselves: see ``responses``.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from urllib.parse import urlsplit

from rocketry_otel._runtime.scope import NAME

from . import otel_env as environment
from .endpoint import visible
from .responses import NOT_GRPC

_logger = logging.getLogger(NAME)

_GRPC_PORT, _HTTP_PORT = 4317, 4318
_SECONDS = 2.0
# What every HTTP/2 client sends first, with no settings. A server of HTTP/2, and so of gRPC,
# answers with a frame of settings, whose fourth byte is 4.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_TYPE, _SETTINGS = 3, 4


def warn_if_wrong() -> None:
    """Warn if traces are sent by gRPC, and what listens does not speak it.

    It opens one or two connections, and waits 2 s for each answer at most. TLS is not looked at.
    """
    exporter = environment.text("OTEL_TRACES_EXPORTER") or environment.EXPORTER_DEFAULT
    if environment.protocol("traces") != "grpc" or exporter != environment.EXPORTER_DEFAULT:
        return
    endpoint = environment.text("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    endpoint = endpoint or f"http://localhost:{_GRPC_PORT}"
    try:
        parts = urlsplit(endpoint)
        host, port = parts.hostname, parts.port or _GRPC_PORT
    except ValueError:
        return  # the exporter reports a bad address
    # Without a scheme, the exporter uses TLS.
    if parts.scheme != "http" or host is None:
        return
    speaks_grpc = _speaks_grpc(host, port)
    if speaks_grpc is False:
        _logger.warning("No telemetry reaches %s: %s", visible(endpoint), NOT_GRPC)
    elif speaks_grpc is None and port == _GRPC_PORT and _speaks_grpc(host, _HTTP_PORT) is False:
        _logger.warning(
            "Nothing listens at %s, where telemetry is sent by gRPC, but port %d of the same host "
            "speaks HTTP: set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf",
            visible(endpoint),
            _HTTP_PORT,
        )


def _speaks_grpc(host: str, port: int) -> bool | None:
    """Return whether a port answers as a server of gRPC does; ``None`` if it does not answer."""
    answer = b""
    with (
        contextlib.suppress(OSError),
        socket.create_connection((host, port), timeout=_SECONDS) as connection,
    ):
        connection.sendall(_PREFACE)
        while len(answer) <= _TYPE and (piece := connection.recv(64)):
            answer += piece
    return answer[_TYPE] == _SETTINGS if len(answer) > _TYPE else None

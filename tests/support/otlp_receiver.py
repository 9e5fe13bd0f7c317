"""A real OTLP receiver inside the test process, which can misbehave on demand.

::

    with OTLPReceiver() as receiver:
        export_something_to(receiver.http_endpoint)
        assert receiver.wait_for(lambda it: len(it.spans) == 1)

        receiver.behave(Status(503))  # a collector in trouble
        receiver.stop()               # connection refused, the port number stays ours
        receiver.start()              # and back on the same port
"""

from __future__ import annotations

import gzip
import selectors
import socket
import ssl
import struct
import threading
import zlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2, logs_service_pb2_grpc
from opentelemetry.proto.collector.metrics.v1 import (
    metrics_service_pb2,
    metrics_service_pb2_grpc,
)
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from typing_extensions import Self

from .certificates import Certificate

LOOPBACK = "127.0.0.1"


# --------------------------------------------------------------------------- how to misbehave


@dataclass(frozen=True)
class Ok:
    """Accept the data."""

    taken = True


@dataclass(frozen=True)
class Status:
    """Refuse with an HTTP status, or with the gRPC status that means the same.

    Attributes:
        code: The HTTP status, for gRPC translated by ``GRPC_STATUS_OF``.
        retry_after: Seconds, as the header ``Retry-After`` or as gRPC's ``RetryInfo``. A text is
            for the header alone.
        message: Words to go with it: HTTP's reason, or gRPC's details.
    """

    code: int
    retry_after: float | str | None = None
    message: str | None = None
    taken = False


@dataclass(frozen=True)
class Hang:
    """Read the request and answer nothing until ``release()``, ``stop()`` or the end.

    Attributes:
        taken: Whether the data is taken in all the same, as by a collector whose answer is lost.
    """

    taken: bool = False


@dataclass(frozen=True)
class Reset:
    """Read the request and reset the TCP connection in place of an answer.

    Attributes:
        taken: Whether the data is taken in all the same, as by a collector whose answer is lost.
    """

    taken: bool = False


@dataclass(frozen=True)
class Redirect:
    """Send the client elsewhere, as a proxy does that wants a login first.

    Whoever follows finds a web page there and status 200. gRPC knows no redirect and gets
    ``UNKNOWN``, as its clients see one.
    """

    location: str = "/login"
    code: int = 301
    taken = False


@dataclass(frozen=True)
class PartialSuccess:
    """Answer 200, with a body that reports a rejected part.

    The whole request counts as taken, since the answer does not name the part.
    """

    rejected: int
    message: str = ""
    taken = True


@dataclass(frozen=True)
class Slow:
    """Take the data in at once and answer ``seconds`` later."""

    seconds: float
    taken = True


@dataclass(frozen=True)
class Raw:
    """Answer over HTTP with these very bytes, and end the connection. gRPC gets ``UNKNOWN``.

    Attributes:
        head: The first bytes.
        piece: The bytes to send after them, again and again while the client stays.
        times: How often ``piece`` is sent.
        pause: How many seconds lie between two pieces.
    """

    head: bytes
    piece: bytes = b""
    times: int = 1
    pause: float = 0.0
    taken = False


Fault = Ok | Status | Hang | Reset | Redirect | PartialSuccess | Slow | Raw
FaultChoice = Callable[[int, str], Fault]

# The canonical pairs of `google.rpc.Code`.
GRPC_STATUS_OF = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    409: grpc.StatusCode.ABORTED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    501: grpc.StatusCode.UNIMPLEMENTED,
    502: grpc.StatusCode.UNAVAILABLE,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}


# --------------------------------------------------------------------------- what has arrived


class ReceivedSpan(NamedTuple):
    """A span and where it comes from."""

    resource: Resource
    scope: InstrumentationScope
    span: Span


class ReceivedLogRecord(NamedTuple):
    """A log record and where it comes from."""

    resource: Resource
    scope: InstrumentationScope
    log_record: LogRecord


class ReceivedMetric(NamedTuple):
    """A metric and where it comes from."""

    resource: Resource
    scope: InstrumentationScope
    metric: Metric


@dataclass
class Arrival:
    """One request that reached the receiver, whatever came of it.

    Attributes:
        protocol: ``http`` or ``grpc``.
        signal: ``traces``, ``logs`` or ``metrics``.
        message: The decoded request.
        headers: HTTP headers or gRPC metadata, names in lower case.
        fault: The behaviour of the receiver for it.
        taken: Whether its data counts as taken in.
    """

    protocol: str
    signal: str
    message: Any
    headers: dict[str, str]
    fault: Fault = field(default_factory=Ok)
    taken: bool = False


@dataclass(frozen=True)
class _Signal:
    """The differences between traces, logs and metrics on the wire."""

    name: str
    request: type[Message]
    response: type[Message]
    partial_success: type[Message]
    rejected_field: str
    register: Callable[[Any, grpc.Server], None]

    def answer(self, fault: Fault) -> Message:
        if not isinstance(fault, PartialSuccess):
            return self.response()
        rejected = {self.rejected_field: fault.rejected, "error_message": fault.message}
        return self.response(partial_success=self.partial_success(**rejected))


_SIGNALS = (
    _Signal(
        "traces",
        trace_service_pb2.ExportTraceServiceRequest,
        trace_service_pb2.ExportTraceServiceResponse,
        trace_service_pb2.ExportTracePartialSuccess,
        "rejected_spans",
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server,
    ),
    _Signal(
        "logs",
        logs_service_pb2.ExportLogsServiceRequest,
        logs_service_pb2.ExportLogsServiceResponse,
        logs_service_pb2.ExportLogsPartialSuccess,
        "rejected_log_records",
        logs_service_pb2_grpc.add_LogsServiceServicer_to_server,
    ),
    _Signal(
        "metrics",
        metrics_service_pb2.ExportMetricsServiceRequest,
        metrics_service_pb2.ExportMetricsServiceResponse,
        metrics_service_pb2.ExportMetricsPartialSuccess,
        "rejected_data_points",
        metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server,
    ),
)


def attributes_of(key_values: Iterable[KeyValue]) -> dict[str, Any]:
    """Give attributes as a dict whose values have the very type that they have on the wire."""
    return {key_value.key: value_of(key_value.value) for key_value in key_values}


def value_of(value: AnyValue) -> Any:
    """Give the Python value of an OTLP value: ``1`` stays int, ``1.0`` float, ``True`` bool."""
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [value_of(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return attributes_of(value.kvlist_value.values)
    return getattr(value, kind)


# --------------------------------------------------------------------------- the receiver


class OTLPReceiver:
    """Receives OTLP over HTTP and gRPC on two loopback ports and keeps what it decodes.

    Args:
        tls: Certificate to serve with; without one both ports speak plain text.
        client_ca: Certificate authority that every client must have a certificate of.
        required_header: Name and value that every request must bear, or be answered 401.
        grpc: Whether to listen for gRPC at all. A process that forks is better off without
            gRPC's own threads in it.
    """

    def __init__(
        self,
        *,
        tls: Certificate | None = None,
        client_ca: Path | None = None,
        required_header: tuple[str, str] | None = None,
        grpc: bool = True,
    ) -> None:
        self._scheme = "https" if tls else "http"
        self._required_header = required_header
        self._changed = threading.Condition()
        self._arrivals: list[Arrival] = []
        self._malformed: list[str] = []
        self._failures: list[Exception] = []
        self._fault: Fault | FaultChoice = Ok()
        self._requests_since_behave = 0
        self._releases = 0
        self._ports: list[_Port] = []
        self._http = _HTTPSide(self, tls, client_ca)
        self._ports.append(self._http.port)
        self._grpc = _GRPCSide(self, tls, client_ca) if grpc else None
        if self._grpc:
            self._ports.append(self._grpc.port)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if error is None:
            self.close()
        else:
            self._close()

    # Where it is

    @property
    def http_endpoint(self) -> str:
        """Base address for OTLP/HTTP, without ``/v1/traces``."""
        return f"{self._scheme}://{LOOPBACK}:{self._http.port.number}"

    @property
    def grpc_endpoint(self) -> str:
        """Address for OTLP/gRPC."""
        if self._grpc is None:
            raise RuntimeError("This receiver was made with grpc=False")
        return f"{self._scheme}://{LOOPBACK}:{self._grpc.port.number}"

    # What has arrived

    @property
    def requests(self) -> list[Arrival]:
        """Every request that arrived, in order, the refused ones too."""
        with self._changed:
            return list(self._arrivals)

    @property
    def request_headers(self) -> list[dict[str, str]]:
        """Headers of every request that arrived, in the order of ``requests``."""
        return [arrival.headers for arrival in self.requests]

    @property
    def malformed(self) -> list[str]:
        """Why requests could not be understood: must be empty whatever the exporter does."""
        with self._changed:
            return list(self._malformed)

    @property
    def trace_requests(self) -> list[Any]:
        """The trace requests that were taken in."""
        return self._taken("traces")

    @property
    def log_requests(self) -> list[Any]:
        """The log requests that were taken in."""
        return self._taken("logs")

    @property
    def metric_requests(self) -> list[Any]:
        """The metric requests that were taken in."""
        return self._taken("metrics")

    @property
    def spans(self) -> list[ReceivedSpan]:
        """Every span that was taken in, as often as it was."""
        return [
            ReceivedSpan(of_resource.resource, of_scope.scope, span)
            for request in self.trace_requests
            for of_resource in request.resource_spans
            for of_scope in of_resource.scope_spans
            for span in of_scope.spans
        ]

    @property
    def log_records(self) -> list[ReceivedLogRecord]:
        """Every log record that was taken in, as often as it was."""
        return [
            ReceivedLogRecord(of_resource.resource, of_scope.scope, log_record)
            for request in self.log_requests
            for of_resource in request.resource_logs
            for of_scope in of_resource.scope_logs
            for log_record in of_scope.log_records
        ]

    @property
    def metrics(self) -> list[ReceivedMetric]:
        """Every metric that was taken in, as often as it was."""
        return [
            ReceivedMetric(of_resource.resource, of_scope.scope, metric)
            for request in self.metric_requests
            for of_resource in request.resource_metrics
            for of_scope in of_resource.scope_metrics
            for metric in of_scope.metrics
        ]

    def wait_for(self, condition: Callable[[OTLPReceiver], object], timeout: float = 10) -> bool:
        """Wait until the condition holds; it is looked at whenever something arrives.

        Returns:
            Whether it held within the time.
        """
        with self._changed:
            return self._changed.wait_for(lambda: bool(condition(self)), timeout)

    def clear(self) -> None:
        """Forget the telemetry so far."""
        with self._changed:
            self._arrivals.clear()
            self._malformed.clear()

    # What it does

    def behave(self, fault: Fault | FaultChoice) -> None:
        """Do this with every request from now on.

        Args:
            fault: A fault, or a function that is given the number of the request, from 0 since
                this call, and its signal, and returns one.
        """
        with self._changed:
            self._fault = fault
            self._requests_since_behave = 0

    def release(self) -> None:
        """Take in and answer the requests that hang now; later ones hang as they did."""
        with self._changed:
            self._releases += 1
            self._changed.notify_all()

    def start(self) -> None:
        """Listen, again on the same ports after ``stop()``."""
        for port in self._ports:
            port.open()

    def stop(self) -> None:
        """Drop every connection and refuse new ones; the telemetry so far is kept."""
        for port in self._ports:
            port.shut()

    def close(self) -> None:
        """Stop for good; no thread, socket or port number is left.

        Raises:
            AssertionError: If the receiver itself or a function given to ``behave`` failed.
        """
        self._close()
        if self._failures:
            raise AssertionError("The receiver itself failed") from self._failures[0]

    def _close(self) -> None:
        self.stop()
        if self._grpc:
            self._grpc.close()
        for port in self._ports:
            port.give_back()

    # For the two sides of it

    def _taken(self, signal: str) -> list[Any]:
        return [it.message for it in self.requests if it.signal == signal and it.taken]

    def _receive(self, arrival: Arrival, gone: Callable[[], bool]) -> Fault:
        """Keep the request, wait as long as the fault demands, and return the answer."""
        with self._changed:
            fault = arrival.fault = self._choose_fault(arrival)
            arrival.taken = fault.taken
            self._arrivals.append(arrival)
            self._changed.notify_all()

            if isinstance(fault, Slow):
                left = self._changed.wait_for(gone, fault.seconds)
                return Reset() if left else Ok()
            if isinstance(fault, Hang):
                before = self._releases
                self._changed.wait_for(lambda: gone() or self._releases != before)
                if gone():
                    return Reset()
                arrival.taken = True
                self._changed.notify_all()
                return Ok()
            return fault

    def _wait_unless(self, gone: Callable[[], bool], seconds: float) -> bool:
        with self._changed:
            return self._changed.wait_for(gone, seconds)

    def _choose_fault(self, arrival: Arrival) -> Fault:
        if self._required_header:
            name, value = self._required_header
            if arrival.headers.get(name.lower()) != value:
                return Status(401)
        number = self._requests_since_behave
        self._requests_since_behave += 1
        return self._fault(number, arrival.signal) if callable(self._fault) else self._fault

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _note_malformed(self, why: str) -> None:
        with self._changed:
            self._malformed.append(why)
            self._changed.notify_all()

    def _note_failure(self, error: Exception) -> None:
        with self._changed:
            self._failures.append(error)


# --------------------------------------------------------------------------- a port


class _Connection:
    """A client's connection, which another thread may end."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.gone = False

    def hang_up(self) -> None:
        """Make the thread that serves this connection come to its end."""
        self.gone = True
        with suppress(OSError):
            # Not `self.socket.shutdown`, which takes a TLS socket's state from under its thread.
            socket.socket.shutdown(self.socket, socket.SHUT_RDWR)

    def reset(self) -> None:
        """The same, but the client gets a reset: nothing may be sent before the close."""
        self.reset_on_close()
        with suppress(OSError):
            socket.socket.shutdown(self.socket, socket.SHUT_RD)

    def reset_on_close(self) -> None:
        linger_for_no_time = struct.pack("ii", 1, 0)
        with suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_for_no_time)


class _Port:
    """A loopback port that can be shut and opened again, with a thread for each connection.

    While it is shut a socket that does not listen holds the number: connections are refused,
    and no other socket, not even a client's outgoing connection, gets that port meanwhile.
    """

    def __init__(
        self,
        serve: Callable[[_Connection], None],
        receiver: OTLPReceiver,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._serve = serve
        self._receiver = receiver
        self._tls = tls
        self._lock = threading.Lock()
        self._threads: dict[threading.Thread, _Connection] = {}
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None
        self._holder: socket.socket | None = self._bind(0)
        self.number: int = self._holder.getsockname()[1]

    def open(self) -> None:
        if self._listener:
            return
        self.give_back()
        self._listener = self._bind(self.number)
        self._listener.listen(128)
        self._acceptor = threading.Thread(target=self._accept, args=(self._listener,), daemon=True)
        self._acceptor.start()

    def shut(self) -> None:
        if not self._listener or not self._acceptor:
            return
        listener, acceptor = self._listener, self._acceptor
        self._listener = self._acceptor = None
        with listener:
            # Closing alone would not wake the acceptor, nor end the copy that a fork may have made.
            listener.shutdown(socket.SHUT_RDWR)
            acceptor.join()
        self._holder = self._bind(self.number)
        with self._lock:
            serving = dict(self._threads)
        for connection in serving.values():
            connection.hang_up()
        self._receiver._wake()
        for thread in serving:
            thread.join()

    def give_back(self) -> None:
        if self._holder:
            self._holder.close()
            self._holder = None

    def _bind(self, number: int) -> socket.socket:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((LOOPBACK, number))
        return sock

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            try:
                if self._tls:
                    # The handshake waits for the client: left to the connection's own thread.
                    sock = self._tls.wrap_socket(
                        sock, server_side=True, do_handshake_on_connect=False
                    )
            except OSError:
                sock.close()
                continue
            connection = _Connection(sock)
            thread = threading.Thread(target=self._run, args=(connection,), daemon=True)
            with self._lock:
                self._threads[thread] = connection
            thread.start()

    def _run(self, connection: _Connection) -> None:
        try:
            if isinstance(connection.socket, ssl.SSLSocket):
                connection.socket.do_handshake()
            self._serve(connection)
        except OSError:
            pass  # The client has left, or its certificate will not do.
        except Exception as error:  # noqa: BLE001 - it is raised where the test sees it
            self._receiver._note_failure(error)
        finally:
            connection.socket.close()
            with self._lock:
                del self._threads[threading.current_thread()]


# --------------------------------------------------------------------------- OTLP/HTTP


class _HTTPSide:
    """OTLP over HTTP/1.1."""

    def __init__(
        self, receiver: OTLPReceiver, tls: Certificate | None, client_ca: Path | None
    ) -> None:
        self._receiver = receiver
        self.port = _Port(self._serve, receiver, _server_context(tls, client_ca))

    def _serve(self, connection: _Connection) -> None:
        _HTTPHandler(connection, self._receiver)


def _server_context(tls: Certificate | None, client_ca: Path | None) -> ssl.SSLContext | None:
    if tls is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.certificate_file, tls.key_file)
    if client_ca:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


class _HTTPHandler(BaseHTTPRequestHandler):
    """Serves one connection, request after request, until either side ends it."""

    protocol_version = "HTTP/1.1"
    # Head and body are two writes: together with the client's delayed ack that costs 40 ms.
    disable_nagle_algorithm = True
    signals: Mapping[str, _Signal] = {f"/v1/{signal.name}": signal for signal in _SIGNALS}

    def __init__(self, link: _Connection, receiver: OTLPReceiver) -> None:
        self._link = link
        self._receiver = receiver
        super().__init__(link.socket, (LOOPBACK, 0), None)

    def do_POST(self) -> None:
        try:
            signal, message = self._read()
        except _MalformedError as error:
            self._receiver._note_malformed(str(error))
            self.close_connection = True
            self._send_error(error.status, str(error))
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        arrival = Arrival("http", signal.name, message, headers)
        self._answer(signal, self._receiver._receive(arrival, lambda: self._link.gone))

    def do_GET(self) -> None:
        """Serve the target of a redirect: a page that is no collector."""
        self._send(200, b"<h1>Please log in</h1>", {"Content-Type": "text/html"})

    def log_message(self, *_: object) -> None:
        """Keep quiet: `requests` has it all."""

    def _read(self) -> tuple[_Signal, Message]:
        if "Content-Length" not in self.headers:
            raise _MalformedError(411, "No Content-Length")
        body = self.rfile.read(int(self.headers["Content-Length"]))
        # A client that takes it for its proxy sends the whole address.
        signal = self.signals.get(urlsplit(self.path).path)
        if signal is None:
            raise _MalformedError(404, f"No signal has the path {self.path}")
        content_type = self.headers["Content-Type"]
        if content_type != "application/x-protobuf":
            raise _MalformedError(415, f"Content-Type is {content_type}")
        try:
            return signal, signal.request.FromString(self._decompress(body))
        except (DecodeError, OSError, EOFError, zlib.error) as error:
            raise _MalformedError(400, f"Cannot decode the body: {error!r}") from error

    def _decompress(self, body: bytes) -> bytes:
        encoding = self.headers.get("Content-Encoding", "identity")
        if encoding == "gzip":
            return gzip.decompress(body)
        if encoding == "deflate":
            return zlib.decompress(body)
        if encoding == "identity":
            return body
        raise _MalformedError(415, f"Content-Encoding is {encoding}")

    def _answer(self, signal: _Signal, fault: Fault) -> None:
        if isinstance(fault, Reset):
            self.close_connection = True
            self._link.reset_on_close()
        elif isinstance(fault, Status):
            wait = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
            self._send_error(fault.code, "as the test wants it", wait, fault.message)
        elif isinstance(fault, Raw):
            self.close_connection = True
            self._send_raw(fault)
        elif isinstance(fault, Redirect):
            self._send(fault.code, b"", {"Location": fault.location})
        else:
            self._send(200, signal.answer(fault).SerializeToString(), _PROTOBUF)

    def _send_error(
        self,
        code: int,
        message: str,
        headers: Mapping[str, str] | None = None,
        phrase: str | None = None,
    ) -> None:
        body = status_pb2.Status(message=message).SerializeToString()
        self._send(code, body, {**_PROTOBUF, **(headers or {})}, phrase)

    def _send_raw(self, fault: Raw) -> None:
        self.wfile.write(fault.head)
        for _ in range(fault.times):
            if self._receiver._wait_unless(lambda: self._link.gone, fault.pause):
                return
            self.wfile.write(fault.piece)

    def _send(
        self, code: int, body: bytes, headers: Mapping[str, str], phrase: str | None = None
    ) -> None:
        self.send_response(code, phrase)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


_PROTOBUF = {"Content-Type": "application/x-protobuf"}


class _MalformedError(Exception):
    """A request that is no OTLP/HTTP."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


# --------------------------------------------------------------------------- OTLP/gRPC


class _GRPCSide:
    """OTLP over gRPC: a server that runs all the time, behind a port that comes and goes.

    The relay between them can reset and refuse connections, as grpcio cannot.
    """

    def __init__(
        self, receiver: OTLPReceiver, tls: Certificate | None, client_ca: Path | None
    ) -> None:
        self._receiver = receiver
        self._relayed: dict[int, _Connection] = {}
        self.port = _Port(self._relay, receiver)
        self._executor = ThreadPoolExecutor(max_workers=32, thread_name_prefix="otlp-receiver")
        self._server = grpc.server(
            self._executor,
            options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1)],
        )
        for signal in _SIGNALS:
            signal.register(_GRPCServicer(self, signal), self._server)
        self._inner_port = self._listen(tls, client_ca)
        self._server.start()

    def close(self) -> None:
        self._server.stop(grace=None).wait()
        self._executor.shutdown(wait=True)

    def _listen(self, tls: Certificate | None, client_ca: Path | None) -> int:
        address = f"{LOOPBACK}:0"
        if tls is None:
            return self._server.add_insecure_port(address)
        pair = (tls.key_file.read_bytes(), tls.certificate_file.read_bytes())
        authority = client_ca.read_bytes() if client_ca else None
        credentials = grpc.ssl_server_credentials([pair], authority, client_ca is not None)
        return self._server.add_secure_port(address, credentials)

    def _relay(self, connection: _Connection) -> None:
        client = connection.socket
        with socket.create_connection((LOOPBACK, self._inner_port)) as server:
            for sock in (client, server):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            relayed_as = server.getsockname()[1]
            self._relayed[relayed_as] = connection
            try:
                _copy_both_ways(client, server)
            finally:
                del self._relayed[relayed_as]

    def receive(self, signal: _Signal, message: Message, context: grpc.ServicerContext) -> Message:
        metadata = {name.lower(): value for name, value in context.invocation_metadata()}
        arrival = Arrival("grpc", signal.name, message, metadata)
        context.add_callback(self._receiver._wake)
        try:
            fault = self._receiver._receive(arrival, lambda: not context.is_active())
        except Exception as error:
            self._receiver._note_failure(error)
            raise

        if isinstance(fault, Reset):
            port = context.peer().rpartition(":")[2]
            # A client that has left has none any more.
            connection = self._relayed.get(int(port)) if port.isdigit() else None
            if connection:
                connection.reset()
            context.abort(grpc.StatusCode.UNAVAILABLE, "The connection was reset")
        if isinstance(fault, Redirect):
            context.abort(grpc.StatusCode.UNKNOWN, f"HTTP status {fault.code} from a proxy")
        if isinstance(fault, Status):
            if isinstance(fault.retry_after, int | float):
                context.set_trailing_metadata([_retry_info(fault, fault.retry_after)])
            context.abort(GRPC_STATUS_OF[fault.code], fault.message or "as the test wants it")
        if isinstance(fault, Raw):
            context.abort(grpc.StatusCode.UNKNOWN, "HTTP/1.1 on a port for gRPC")
        return signal.answer(fault)


class _GRPCServicer:
    """The one method of each of OTLP's three gRPC services."""

    def __init__(self, side: _GRPCSide, signal: _Signal) -> None:
        self._side = side
        self._signal = signal

    def Export(self, request: Message, context: grpc.ServicerContext) -> Message:  # noqa: N802
        return self._side.receive(self._signal, request, context)


def _retry_info(fault: Status, seconds: float) -> tuple[str, bytes]:
    """Say in gRPC's way when to come again."""
    delay = duration_pb2.Duration()
    delay.FromNanoseconds(int(seconds * 1e9))
    details = any_pb2.Any()
    details.Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    code: int = GRPC_STATUS_OF[fault.code].value[0]
    status = status_pb2.Status(code=code, message="as the test wants it", details=[details])
    return "grpc-status-details-bin", status.SerializeToString()


def _copy_both_ways(one: socket.socket, other: socket.socket) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(one, selectors.EVENT_READ, other)
        selector.register(other, selectors.EVENT_READ, one)
        while True:
            for key, _ in selector.select():
                data = key.fileobj.recv(65536)
                if not data:
                    return
                key.data.sendall(data)


__all__ = [
    "GRPC_STATUS_OF",
    "Arrival",
    "Fault",
    "Hang",
    "OTLPReceiver",
    "Ok",
    "PartialSuccess",
    "Raw",
    "ReceivedLogRecord",
    "ReceivedMetric",
    "ReceivedSpan",
    "Redirect",
    "Reset",
    "Slow",
    "Status",
    "attributes_of",
    "value_of",
]

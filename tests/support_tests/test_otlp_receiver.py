from __future__ import annotations

import gc
import gzip
import os
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
import requests
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status as RPCStatus
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import (
    OTLPLogExporter as GRPCLogExporter,
)
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import (
    OTLPMetricExporter as GRPCMetricExporter,
)
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (
    OTLPSpanExporter as GRPCSpanExporter,
)
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import (
    OTLPLogExporter as HTTPLogExporter,
)
from opentelemetry.exporter.otlp.proto.http.metric_exporter import (
    OTLPMetricExporter as HTTPMetricExporter,
)
from opentelemetry.exporter.otlp.proto.http.trace_exporter import (
    OTLPSpanExporter as HTTPSpanExporter,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from tests.support.certificates import Certificates, make_certificates
from tests.support.otlp_receiver import (
    Hang,
    Ok,
    OTLPReceiver,
    PartialSuccess,
    Raw,
    Redirect,
    Reset,
    Slow,
    Status,
    attributes_of,
)

RESOURCE = Resource({"service.name": "tests"})
ATTRIBUTES = {
    "text": "a",
    "yes": True,
    "whole": 1,
    "real": 1.0,
    "many": ["a", "b"],
}
SUCCESS, FAILURE = SpanExportResult.SUCCESS, SpanExportResult.FAILURE
PROTOCOLS = ["http", "grpc"]

both_protocols = pytest.mark.parametrize("protocol", PROTOCOLS)


@pytest.fixture
def receiver() -> Iterator[OTLPReceiver]:
    """A receiver of both protocols that behaves."""
    with OTLPReceiver() as receiver:
        yield receiver


@pytest.fixture(autouse=True)
def _no_other_authority(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep requests from preferring the machine's certificates to those of the exporter."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """All certificates that TLS needs."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@contextmanager
def span_exporter(
    protocol: str, receiver: OTLPReceiver, timeout: float = 10, **options
) -> Iterator[SpanExporter]:
    """The SDK's exporter for the protocol, shut down in the end."""
    if protocol == "http":
        endpoint = f"{receiver.http_endpoint}/v1/traces"
        exporter = HTTPSpanExporter(endpoint=endpoint, timeout=timeout, **options)
    else:
        exporter = GRPCSpanExporter(endpoint=receiver.grpc_endpoint, timeout=timeout, **options)
    try:
        yield exporter
    finally:
        exporter.shutdown()


def a_span(name: str = "a span") -> ReadableSpan:
    """A span that has ended."""
    tracer = TracerProvider(resource=RESOURCE, shutdown_on_exit=False).get_tracer("a.scope")
    span = tracer.start_span(name, attributes=ATTRIBUTES)
    span.end()
    return span


def export(protocol: str, receiver: OTLPReceiver, timeout: float = 10, **options):
    """Export one span and give the result."""
    with span_exporter(protocol, receiver, timeout, **options) as exporter:
        return export_with(exporter, a_span())


def export_with(exporter: SpanExporter, span: ReadableSpan) -> SpanExportResult:
    """Export one span and give the result, also where an old exporter raises instead."""
    try:
        return exporter.export([span])
    except requests.RequestException:
        return FAILURE


def otlp_request(
    receiver: OTLPReceiver, path: str = "/v1/traces", body: bytes = b"", **headers: str
) -> urllib.request.Request:
    """Make a request of our own; the empty body is an empty OTLP request."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return urllib.request.Request(  # noqa: S310
        f"{receiver.http_endpoint}{path}",
        body,
        {"Content-Type": "application/x-protobuf", **named},
    )


def post(request: urllib.request.Request) -> int:
    """Send a request and give the status of the answer."""
    try:
        with urllib.request.urlopen(request) as response:  # noqa: S310
            return response.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


# What arrives


@both_protocols
def test_decodes_spans(receiver: OTLPReceiver, protocol: str) -> None:
    """A span arrives with its resource, its scope and attributes of the very type they had."""
    assert export(protocol, receiver) is SUCCESS

    (received,) = receiver.spans
    assert received.span.name == "a span"
    assert received.scope.name == "a.scope"
    assert attributes_of(received.resource.attributes) == {"service.name": "tests"}
    attributes = attributes_of(received.span.attributes)
    assert attributes == ATTRIBUTES
    assert [type(value) for value in attributes.values()] == [str, bool, int, float, list]
    assert len(receiver.trace_requests) == 1
    assert receiver.requests[0].protocol == protocol
    assert receiver.malformed == []


@both_protocols
def test_decodes_log_records(receiver: OTLPReceiver, protocol: str) -> None:
    """A log record arrives with its resource, its scope, its body and nested attributes."""
    exporter = (
        HTTPLogExporter(endpoint=f"{receiver.http_endpoint}/v1/logs")
        if protocol == "http"
        else GRPCLogExporter(endpoint=receiver.grpc_endpoint)
    )
    provider = LoggerProvider(resource=RESOURCE, shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    attributes = {"nested": {"a": 1, "b": [None, 2.5]}}
    record = LogRecord(
        timestamp=1, severity_number=SeverityNumber.INFO, body="a body", attributes=attributes
    )
    provider.get_logger("a.scope").emit(record)
    provider.shutdown()

    (received,) = receiver.log_records
    assert received.log_record.body.string_value == "a body"
    assert attributes_of(received.log_record.attributes) == attributes
    assert received.scope.name == "a.scope"
    assert attributes_of(received.resource.attributes) == {"service.name": "tests"}
    assert len(receiver.log_requests) == 1


@both_protocols
def test_decodes_metrics(receiver: OTLPReceiver, protocol: str) -> None:
    """A metric arrives with its resource, its scope and its data points."""
    exporter = (
        HTTPMetricExporter(endpoint=f"{receiver.http_endpoint}/v1/metrics")
        if protocol == "http"
        else GRPCMetricExporter(endpoint=receiver.grpc_endpoint)
    )
    reader = PeriodicExportingMetricReader(exporter)
    provider = MeterProvider([reader], resource=RESOURCE, shutdown_on_exit=False)
    provider.get_meter("a.scope").create_counter("a.counter").add(3, {"key": "value"})
    provider.shutdown()

    (received,) = receiver.metrics
    assert received.metric.name == "a.counter"
    (point,) = received.metric.sum.data_points
    assert point.as_int == 3
    assert attributes_of(point.attributes) == {"key": "value"}
    assert received.scope.name == "a.scope"
    assert attributes_of(received.resource.attributes) == {"service.name": "tests"}
    assert len(receiver.metric_requests) == 1


@pytest.mark.parametrize("compression", list(Compression))
def test_decompresses_http(receiver: OTLPReceiver, compression: Compression) -> None:
    """A request over HTTP is decoded whichever compression the exporter has chosen."""
    assert export("http", receiver, compression=compression) is SUCCESS

    encoding = None if compression is Compression.NoCompression else compression.value
    assert receiver.request_headers[0].get("content-encoding") == encoding
    assert len(receiver.spans) == 1


@both_protocols
def test_keeps_headers(receiver: OTLPReceiver, protocol: str) -> None:
    """The headers of each request are kept with names in lower case."""
    export(protocol, receiver, headers={"x-tenant": "One"})

    (headers,) = receiver.request_headers
    assert headers["x-tenant"] == "One"


def test_reuses_a_connection(receiver: OTLPReceiver) -> None:
    """An exporter's requests over HTTP share one connection, and none waits for a late ack."""
    with span_exporter("http", receiver) as exporter:
        exporter.export([a_span()])
        start = time.monotonic()
        for _ in range(20):
            exporter.export([a_span()])
        taken = time.monotonic() - start

    assert len(receiver.spans) == 21
    assert taken < 20 * 0.04


def test_many_clients_at_once(receiver: OTLPReceiver) -> None:
    """No span is lost or doubled when several exporters send at the same time."""
    names = {f"{protocol} {number}" for protocol in PROTOCOLS for number in range(8)}

    def export_one(name: str) -> None:
        with span_exporter(name.split(maxsplit=1)[0], receiver) as exporter:
            exporter.export([a_span(name)])

    threads = [threading.Thread(target=export_one, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(it.span.name for it in receiver.spans) == sorted(names)


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("/v1/spans", b"", {}, 404),
        ("/v1/traces", b"{}", {"Content_Type": "application/json"}, 415),
        ("/v1/traces", b"\xff", {}, 400),
        ("/v1/traces", b"no gzip", {"Content_Encoding": "gzip"}, 400),
        ("/v1/traces", b"no deflate", {"Content_Encoding": "deflate"}, 400),
        ("/v1/traces", b"", {"Content_Encoding": "br"}, 415),
    ],
)
def test_notes_what_is_no_otlp(
    receiver: OTLPReceiver, path: str, body: bytes, headers: dict[str, str], status: int
) -> None:
    """A request that is no OTLP is refused and noted, and does not count as one that arrived."""
    assert post(otlp_request(receiver, path, body, **headers)) == status

    assert len(receiver.malformed) == 1
    assert receiver.requests == []


@pytest.mark.parametrize(
    ("encoding", "compress"),
    [("gzip", gzip.compress), ("deflate", zlib.compress), ("identity", bytes)],
)
def test_reads_bodies_of_other_clients(
    receiver: OTLPReceiver, encoding: str, compress: Callable[[bytes], bytes]
) -> None:
    """A body that no Python exporter made is decoded in each of the three encodings."""
    body = compress(ExportTraceServiceRequest().SerializeToString())

    assert post(otlp_request(receiver, body=body, Content_Encoding=encoding)) == 200
    assert len(receiver.trace_requests) == 1


def test_clear(receiver: OTLPReceiver) -> None:
    """What arrived before ``clear`` is forgotten, and what arrives later is kept."""
    export("http", receiver)
    receiver.clear()
    assert (receiver.requests, receiver.spans) == ([], [])

    export("http", receiver)
    assert len(receiver.spans) == 1


# Waiting


def test_wait_for_ends_with_the_arrival(receiver: OTLPReceiver) -> None:
    """A wait ends as soon as what it waits for arrives, without polling."""
    waiting = threading.Event()
    result: list[bool] = []

    def wait() -> None:
        def condition(it: OTLPReceiver) -> bool:
            waiting.set()
            return len(it.spans) == 2

        result.append(receiver.wait_for(condition, timeout=30))

    thread = threading.Thread(target=wait)
    thread.start()
    assert waiting.wait(10)
    for _ in range(2):
        export("http", receiver)
    thread.join(10)

    assert result == [True]


def test_wait_for_gives_up(receiver: OTLPReceiver) -> None:
    """A wait without an arrival ends after its timeout, and returns false."""
    assert receiver.wait_for(lambda it: it.spans, timeout=0.01) is False


# Faults


@both_protocols
@pytest.mark.parametrize("code", [400, 401, 403, 404, 413, 429, 500, 502, 503, 504])
def test_status(receiver: OTLPReceiver, protocol: str, code: int) -> None:
    """A refused request makes the export fail; it arrived, but nothing was taken in."""
    receiver.behave(Status(code))

    # Long enough to connect on a busy machine; an exporter may try again meanwhile.
    assert export(protocol, receiver, timeout=3) is FAILURE

    assert receiver.requests[0].fault == Status(code)
    assert not receiver.requests[0].taken
    assert receiver.spans == []


def test_retry_after_over_http(receiver: OTLPReceiver) -> None:
    """The answer has a ``Retry-After``."""
    receiver.behave(Status(503, retry_after=7))

    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(otlp_request(receiver))  # noqa: S310

    with raised.value as answer:
        assert answer.headers["Retry-After"] == "7"


def test_retry_after_over_grpc(receiver: OTLPReceiver) -> None:
    """The answer has the delay in its details, as every collector's over gRPC."""
    receiver.behave(Status(503, retry_after=7))

    with grpc.insecure_channel(receiver.grpc_endpoint.removeprefix("http://")) as channel:
        with pytest.raises(grpc.RpcError) as raised:
            TraceServiceStub(channel).Export(ExportTraceServiceRequest(), timeout=10)
        trailers = dict(raised.value.trailing_metadata())

    status = RPCStatus.FromString(trailers["grpc-status-details-bin"])
    info = RetryInfo()
    assert status.details[0].Unpack(info)
    assert info.retry_delay.seconds == 7
    assert status.code == grpc.StatusCode.UNAVAILABLE.value[0]


def test_words_and_date_of_a_status(receiver: OTLPReceiver) -> None:
    """Reason and ``Retry-After`` may be any text, and the delay of gRPC negative."""
    receiver.behave(Status(503, retry_after="-5", message="Too busy"))
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(otlp_request(receiver))  # noqa: S310
    with raised.value as answer:
        assert (answer.reason, answer.headers["Retry-After"]) == ("Too busy", "-5")


def test_raw_bytes_over_http(receiver: OTLPReceiver) -> None:
    """The answer is what the test gives, piece by piece, to the end of the connection."""
    receiver.behave(Raw(b"HTTP/1.0 200 Fine\r\n\r\n", b"ab", 3, pause=0.01))
    with urllib.request.urlopen(otlp_request(receiver)) as answer:  # noqa: S310
        assert (answer.reason, answer.read()) == ("Fine", b"ababab")
    assert receiver.spans == []


def test_raw_bytes_over_grpc(receiver: OTLPReceiver) -> None:
    """A client of gRPC gets a status, since it cannot read anything else."""
    receiver.behave(Raw(b"HTTP/1.0 200 Fine\r\n\r\n"))
    assert export("grpc", receiver) is FAILURE


@both_protocols
def test_hang(receiver: OTLPReceiver, protocol: str) -> None:
    """A hanging request ends by the exporter's own timeout, and counts as not taken in."""
    receiver.behave(Hang())

    start = time.monotonic()
    assert export(protocol, receiver, timeout=0.3) is FAILURE
    assert 0.3 <= time.monotonic() - start < 5

    assert len(receiver.requests) == 1
    assert receiver.spans == []


@both_protocols
def test_release(receiver: OTLPReceiver, protocol: str) -> None:
    """A hanging request is taken in and answered once it is released."""
    receiver.behave(Hang())
    results: list[SpanExportResult] = []
    thread = threading.Thread(target=lambda: results.append(export(protocol, receiver)))
    thread.start()
    assert receiver.wait_for(lambda it: it.requests)
    assert receiver.spans == []

    receiver.release()
    thread.join(10)

    assert results == [SUCCESS]
    assert len(receiver.spans) == 1


@both_protocols
def test_reset(receiver: OTLPReceiver, protocol: str) -> None:
    """A reset connection makes the exporter connect and send once more."""
    receiver.behave(lambda n, _: Reset() if n == 0 else Ok())

    assert export(protocol, receiver) is SUCCESS

    assert [it.fault for it in receiver.requests] == [Reset(), Ok()]
    assert len(receiver.spans) == 1


def test_reset_is_a_reset(receiver: OTLPReceiver) -> None:
    """The client of a reset connection sees a reset, not an orderly end."""
    receiver.behave(Reset())

    with pytest.raises(ConnectionResetError):
        post(otlp_request(receiver))


@both_protocols
def test_taken_although_the_answer_is_lost(receiver: OTLPReceiver, protocol: str) -> None:
    """Data that was taken in before the connection broke arrives twice when it is sent again."""
    receiver.behave(lambda n, _: Reset(taken=True) if n == 0 else Ok())

    assert export(protocol, receiver) is SUCCESS

    assert len(receiver.spans) == 2


@both_protocols
def test_taken_although_it_hangs(receiver: OTLPReceiver, protocol: str) -> None:
    """Data can count as taken in although the exporter never hears of it."""
    receiver.behave(Hang(taken=True))

    assert export(protocol, receiver, timeout=0.2) is FAILURE

    assert len(receiver.spans) == 1


def test_redirect_over_http(receiver: OTLPReceiver) -> None:
    """A redirect is answered with its location, where a page waits that is no collector."""
    receiver.behave(Redirect("/elsewhere"))

    assert post(otlp_request(receiver)) == 200

    assert receiver.trace_requests == []


def test_redirect_over_grpc(receiver: OTLPReceiver) -> None:
    """A redirect makes an export over gRPC fail."""
    receiver.behave(Redirect())

    assert export("grpc", receiver) is FAILURE
    assert receiver.spans == []


def test_partial_success_over_http(receiver: OTLPReceiver) -> None:
    """The answer to a partial success has the number of rejected spans, and the reason."""
    receiver.behave(PartialSuccess(3, "too old"))

    with urllib.request.urlopen(otlp_request(receiver)) as response:  # noqa: S310
        answer = ExportTraceServiceResponse.FromString(response.read())

    assert answer.partial_success.rejected_spans == 3
    assert answer.partial_success.error_message == "too old"


@both_protocols
def test_partial_success_counts_as_success(receiver: OTLPReceiver, protocol: str) -> None:
    """An exporter takes a partial success for a success: what it does today."""
    receiver.behave(PartialSuccess(1, "too old"))

    assert export(protocol, receiver) is SUCCESS


@both_protocols
def test_slow(receiver: OTLPReceiver, protocol: str) -> None:
    """A slow receiver takes the data in at once and answers later."""
    receiver.behave(Slow(0.3))

    start = time.monotonic()
    assert export(protocol, receiver) is SUCCESS
    assert time.monotonic() - start >= 0.3

    assert len(receiver.spans) == 1


def test_behave_by_function(receiver: OTLPReceiver) -> None:
    """A function chooses the fault by the number since it was set, and by the signal."""
    asked: list[tuple[int, str]] = []

    def choose(number: int, signal: str) -> Ok:
        asked.append((number, signal))
        return Ok()

    for _ in range(2):
        receiver.behave(choose)
        export("http", receiver)
        export("grpc", receiver)
        post(otlp_request(receiver, "/v1/logs"))

    assert asked == [(0, "traces"), (1, "traces"), (2, "logs")] * 2


@both_protocols
def test_error_of_the_test_itself_is_raised(protocol: str) -> None:
    """A function that fails while choosing a fault fails the test that gave it."""

    def choose(number: int, signal: str) -> Ok:
        raise KeyError(number)

    receiver = OTLPReceiver()
    receiver.start()
    receiver.behave(choose)
    export(protocol, receiver, timeout=0.2)

    with pytest.raises(AssertionError) as raised:
        receiver.close()

    assert isinstance(raised.value.__cause__, KeyError)


# Who may send


@both_protocols
def test_required_header(protocol: str) -> None:
    """A request without the required header is refused, and one with it is taken in."""
    with OTLPReceiver(required_header=("Authorization", "Bearer x")) as receiver:
        assert export(protocol, receiver) is FAILURE
        assert export(protocol, receiver, headers={"authorization": "Bearer y"}) is FAILURE
        assert export(protocol, receiver, headers={"authorization": "Bearer x"}) is SUCCESS

        assert [it.fault for it in receiver.requests] == [Status(401), Status(401), Ok()]
        assert len(receiver.spans) == 1


def tls_options(
    protocol: str, certificates: Certificates, client: str | None = None
) -> dict[str, object]:
    """What an exporter is made with to trust the server and to show a certificate."""
    certificate = getattr(certificates, client) if client else None
    if protocol == "http":
        options = {"certificate_file": str(certificates.ca_file)}
        if certificate:
            options["client_certificate_file"] = str(certificate.certificate_file)
            options["client_key_file"] = str(certificate.key_file)
        return options

    pair = (certificate.key_file, certificate.certificate_file) if certificate else ()
    credentials = grpc.ssl_channel_credentials(
        certificates.ca_file.read_bytes(), *(file.read_bytes() for file in pair)
    )
    return {"credentials": credentials}


@both_protocols
def test_tls(certificates: Certificates, protocol: str) -> None:
    """An exporter that trusts the authority delivers over TLS."""
    with OTLPReceiver(tls=certificates.server) as receiver:
        assert receiver.http_endpoint.startswith("https://")
        assert export(protocol, receiver, **tls_options(protocol, certificates)) is SUCCESS

        assert len(receiver.spans) == 1


def test_tls_for_localhost(certificates: Certificates) -> None:
    """The server's certificate holds for the name ``localhost`` as well."""
    with OTLPReceiver(tls=certificates.server) as receiver:
        address = receiver.http_endpoint.replace("127.0.0.1", "localhost")
        context = ssl.create_default_context(cafile=certificates.ca_file)
        with urllib.request.urlopen(address, context=context) as response:  # noqa: S310
            assert response.status == 200


@both_protocols
def test_tls_of_a_stranger(certificates: Certificates, protocol: str, tmp_path: Path) -> None:
    """An exporter that trusts another authority delivers nothing."""
    others = make_certificates(tmp_path)
    with OTLPReceiver(tls=certificates.server) as receiver:
        assert export(protocol, receiver, 0.5, **tls_options(protocol, others)) is FAILURE

        assert receiver.requests == []


@both_protocols
@pytest.mark.parametrize(
    ("client", "expected"), [("client", SUCCESS), ("stranger", FAILURE), (None, FAILURE)]
)
def test_mtls(
    certificates: Certificates, protocol: str, client: str | None, expected: SpanExportResult
) -> None:
    """Where client certificates are demanded, one of the right authority alone delivers."""
    with OTLPReceiver(tls=certificates.server, client_ca=certificates.ca_file) as receiver:
        options = tls_options(protocol, certificates, client)
        assert export(protocol, receiver, 0.5, **options) is expected

        assert len(receiver.spans) == (1 if expected is SUCCESS else 0)


# Coming and going


@both_protocols
def test_outage(receiver: OTLPReceiver, protocol: str) -> None:
    """During an outage nothing is delivered; before and after it everything is."""
    with span_exporter(protocol, receiver, timeout=0.5) as exporter:
        assert export_with(exporter, a_span("before")) is SUCCESS
        receiver.stop()
        assert export_with(exporter, a_span("during")) is FAILURE

    receiver.start()
    with span_exporter(protocol, receiver) as exporter:
        assert export_with(exporter, a_span("after")) is SUCCESS

    assert [it.span.name for it in receiver.spans] == ["before", "after"]


@both_protocols
def test_restart(receiver: OTLPReceiver, protocol: str) -> None:
    """An exporter that is connected when the receiver restarts connects again and delivers."""
    with span_exporter(protocol, receiver) as exporter:
        assert export_with(exporter, a_span("before")) is SUCCESS
        receiver.stop()
        receiver.start()
        assert export_with(exporter, a_span("after")) is SUCCESS

    assert [it.span.name for it in receiver.spans] == ["before", "after"]


def port_of(endpoint: str) -> tuple[str, int]:
    """Host and port of an endpoint."""
    host, _, port = endpoint.rpartition("//")[2].partition(":")
    return host, int(port)


@both_protocols
def test_stopped_means_refused(receiver: OTLPReceiver, protocol: str) -> None:
    """A stopped receiver refuses connections, and nobody else can take its port meanwhile."""
    address = port_of(getattr(receiver, f"{protocol}_endpoint"))
    receiver.stop()

    with socket.socket() as client, pytest.raises(ConnectionRefusedError):
        client.connect(address)
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(address)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # this child does no harm
def test_stopping_reaches_a_forked_child(receiver: OTLPReceiver) -> None:
    """A child that was forked while the receiver listened does not keep its port alive."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    try:
        receiver.stop()
        for endpoint in (receiver.http_endpoint, receiver.grpc_endpoint):
            with socket.socket() as client, pytest.raises(ConnectionRefusedError):
                client.connect(port_of(endpoint))
    finally:
        os.close(writer)
        os.waitpid(child, 0)
        os.close(reader)


def test_start_and_stop_twice(receiver: OTLPReceiver) -> None:
    """To start what runs, or to stop what is stopped, changes nothing."""
    endpoints = receiver.http_endpoint, receiver.grpc_endpoint
    receiver.start()
    receiver.stop()
    receiver.stop()
    receiver.start()

    assert (receiver.http_endpoint, receiver.grpc_endpoint) == endpoints
    assert export("http", receiver) is SUCCESS


def test_without_grpc() -> None:
    """A receiver for HTTP alone has no gRPC endpoint and works as any other."""
    with OTLPReceiver(grpc=False) as receiver:
        with pytest.raises(RuntimeError):
            _ = receiver.grpc_endpoint
        assert export("http", receiver) is SUCCESS


@both_protocols
@pytest.mark.parametrize("fault", [Hang(), Slow(60)], ids=lambda fault: type(fault).__name__)
def test_quick_end_while_requests_hang(protocol: str, fault: Hang | Slow) -> None:
    """The end comes at once although requests hang, and the exporter then fails at once."""
    results: list[SpanExportResult] = []
    with OTLPReceiver() as receiver:
        receiver.behave(fault)
        thread = threading.Thread(
            target=lambda: results.append(export(protocol, receiver, timeout=4))
        )
        thread.start()
        assert receiver.wait_for(lambda it: it.requests)
        start = time.monotonic()
    ended_after = time.monotonic() - start
    thread.join(30)

    assert ended_after < 3
    assert results == [FAILURE]


@both_protocols
def test_leaves_nothing(protocol: str, certificates: Certificates) -> None:
    """Once it is closed, no thread and no socket of it is left."""
    export_once_with_each_kind(protocol, certificates)  # What gRPC keeps for good is now there.
    threads, files = set(threading.enumerate()), open_files()

    for _ in range(3):
        export_once_with_each_kind(protocol, certificates)

    gc.collect()
    assert set(threading.enumerate()) <= threads
    assert open_files() <= files


def export_once_with_each_kind(protocol: str, certificates: Certificates) -> None:
    """Use receivers of each kind, in all the ways that end a connection."""
    for tls in (None, certificates.server):
        with OTLPReceiver(tls=tls) as receiver:
            for fault in (Ok(), Status(400), Reset(), Hang()):
                receiver.behave(fault)
                options = tls_options(protocol, certificates) if tls else {}
                export(protocol, receiver, 0.1, **options)


def open_files() -> int:
    """How many file descriptors this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))

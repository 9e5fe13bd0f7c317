from __future__ import annotations

import gzip
import socket
import threading
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import status_pb2
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    TraceServiceStub,
    add_TraceServiceServicer_to_server,
)

from rocketry_otel._export import http_session, responses
from rocketry_otel._export.exporters import _GRPC_OPTIONS
from rocketry_otel._export.http_session import WatchedSession
from rocketry_otel._export.responses import (
    Answer,
    NotAcceptedError,
    Result,
    WatchedStub,
    shown,
)
from tests.support.certificates import make_certificates
from tests.support.otlp_receiver import (
    Fault,
    Hang,
    Ok,
    OTLPReceiver,
    PartialSuccess,
    Raw,
    Redirect,
    Reset,
    Status,
)

ACCEPTED = Result(Answer.ACCEPTED)


@pytest.fixture
def receiver() -> Iterator[OTLPReceiver]:
    """A receiver, named by the environment."""
    with OTLPReceiver() as receiver:
        yield receiver


@pytest.fixture
def session() -> Iterator[WatchedSession]:
    """A session that watches requests of spans."""
    with WatchedSession("traces") as session:
        yield session


def post(session: WatchedSession, endpoint: str, timeout: float = 10) -> Result | None:
    """Post an empty request as the exporter would; return the session's result."""
    error = None
    try:
        session.post(
            f"{endpoint}/v1/traces",
            ExportTraceServiceRequest().SerializeToString(),
            headers={"Content-Type": "application/x-protobuf"},
            timeout=timeout,
        )
    except NotAcceptedError as caught:
        error = caught
    result = session.take_result()
    assert session.take_result() is None
    if error is not None:
        assert error.result == result
        assert str(error) == error.result.reason
    return result


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (None, ACCEPTED),
        (PartialSuccess(3, "too old"), Result(Answer.ACCEPTED, "too old", rejected=3)),
        (PartialSuccess(-3, "odd"), Result(Answer.ACCEPTED, "odd")),
        (Status(400), Result(Answer.REFUSED, "HTTP 400 Bad Request")),
        (Status(401), Result(Answer.UNAVAILABLE, "HTTP 401 Unauthorized")),
        (Status(404), Result(Answer.UNAVAILABLE, "HTTP 404 Not Found", unknown=True)),
        (
            Status(413),
            # Its wording has changed with Python.
            Result(Answer.REFUSED, f"HTTP 413 {HTTPStatus(413).phrase}"),
        ),
        (
            Status(429, retry_after=7),
            Result(Answer.UNAVAILABLE, "HTTP 429 Too Many Requests", retry_after=7.0),
        ),
        (Status(500), Result(Answer.UNAVAILABLE, "HTTP 500 Internal Server Error")),
        (Status(503), Result(Answer.UNAVAILABLE, "HTTP 503 Service Unavailable")),
        (
            Redirect(),
            Result(
                Answer.UNAVAILABLE, "HTTP 301 Moved Permanently to /login (is the endpoint right?)"
            ),
        ),
        (
            Redirect(code=307),
            Result(
                Answer.UNAVAILABLE, "HTTP 307 Temporary Redirect to /login (is the endpoint right?)"
            ),
        ),
        (
            Reset(),
            Result(
                Answer.UNAVAILABLE, "ConnectionResetError: [Errno 104] Connection reset by peer"
            ),
        ),
    ],
)
def test_http_answer_is_the_collector_s(
    receiver: OTLPReceiver, session: WatchedSession, fault: Fault | None, expected: Result
) -> None:
    """Each status has its own result, and no redirect is followed."""
    if fault is not None:
        receiver.behave(fault)
    assert post(session, receiver.http_endpoint) == expected


def test_missing_collector_is_unavailable(receiver: OTLPReceiver, session: WatchedSession) -> None:
    """The reason is the network's error, without the four libraries around it."""
    receiver.stop()
    result = post(session, receiver.http_endpoint)
    assert result is not None
    assert result.answer is Answer.UNAVAILABLE
    assert "Connection refused" in result.reason
    assert len(result.reason) < 150


def test_hanging_collector_is_unavailable(receiver: OTLPReceiver, session: WatchedSession) -> None:
    """A request ends at its time-out."""
    receiver.behave(Hang())
    result = post(session, receiver.http_endpoint, timeout=0.1)
    assert result is not None
    assert result.answer is Answer.UNAVAILABLE
    assert "Read timed out" in result.reason


def test_closed_connection_is_no_outage(receiver: OTLPReceiver, session: WatchedSession) -> None:
    """After a reset the request is sent once more at once."""
    receiver.behave(lambda number, _: Reset() if number == 0 else PartialSuccess(0))
    assert post(session, receiver.http_endpoint) == ACCEPTED
    assert len(receiver.requests) == 2


@pytest.mark.parametrize(
    "body",
    [b'{"partialSuccess":{}}', b"OK", b"", b"\xff\xff"],
    ids=["JSON", "text", "nothing", "rubbish"],
)
def test_acceptance_may_have_any_body(body: bytes) -> None:
    """Some servers do not answer with protobuf, and have accepted the batch all the same."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    with socket.create_server(("127.0.0.1", 0)) as server, WatchedSession("traces") as session:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                request = b""
                while b"\r\n\r\n" not in request:
                    request += connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        assert post(session, f"http://127.0.0.1:{server.getsockname()[1]}") == ACCEPTED
        thread.join()


def test_otel_certificate_variables_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The HTTP library's own variables do not replace them."""
    certificates = make_certificates(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates.stranger_ca_file))
    with (
        OTLPReceiver(tls=certificates.server, grpc=False) as receiver,
        WatchedSession("traces") as session,
    ):
        result = post(session, receiver.http_endpoint)
        assert result is not None
        assert result.answer is Answer.UNAVAILABLE
        assert "CERTIFICATE_VERIFY_FAILED" in result.reason
        session.verify = str(certificates.ca_file)
        assert post(session, receiver.http_endpoint) == ACCEPTED


def pause_for(value: str | None) -> float | None:
    """Return the pause that a ``Retry-After`` makes."""
    return Result(Answer.UNAVAILABLE, retry_after=http_session._retry_after(value)).retry_after


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("1e-9", 0.5), ("120", 120.0), ("1.5", 1.5), ("86400", 300.0), ("9" * 500, 300.0)],
)
def test_retry_after_in_seconds_is_bounded(value: str, seconds: float) -> None:
    """A pause lasts from half a second to five minutes."""
    assert pause_for(value) == seconds


@pytest.mark.parametrize("has_zone", [True, False])
@pytest.mark.parametrize(("offset", "least", "most"), [(100, 1.0, 100.0), (86_400, 300.0, 300.0)])
def test_retry_after_with_a_date_is_bounded(
    offset: float, least: float, most: float, *, has_zone: bool
) -> None:
    """The pause ends at the date; without a zone it is in GMT, as in HTTP."""
    seconds = pause_for(http_date(offset, has_zone=has_zone))
    assert seconds is not None
    assert least <= seconds <= most


def http_date(offset: float, *, has_zone: bool = True) -> str:
    """Return the date ``offset`` seconds from now, in the form of a header."""
    when = datetime.now(timezone.utc) + timedelta(seconds=offset)
    if has_zone:
        return format_datetime(when, usegmt=True)
    return format_datetime(when.replace(tzinfo=None))


@pytest.mark.parametrize(
    "value",
    [
        *(None, "", "soon", "nan", "²", "Wed, 99 Xyz 2026 00:00:00 GMT"),
        *("0", "-5", "-1e99", "Thu, 01 Jan 2026 00:00:00 GMT"),
    ],
)
def test_retry_after_without_a_pause_is_none(value: str | None) -> None:
    """A header without a pause, or with a bad value, leaves the usual pause."""
    assert pause_for(value) is None


@pytest.mark.parametrize("seconds", [0, -5])
def test_retry_info_without_a_pause_is_none(receiver: OTLPReceiver, seconds: int) -> None:
    """The same holds for gRPC."""
    receiver.behave(Status(503, retry_after=seconds))
    result = call(receiver.grpc_endpoint)
    assert result == Result(Answer.UNAVAILABLE, "gRPC UNAVAILABLE: as the test wants it")


class Sent(Exception):
    """An error with another one inside, as in the HTTP library."""


def test_root_of_a_circular_error_is_found() -> None:
    """Errors wrap one another in arguments and ``reason``; the innermost is shown."""
    root = OSError(111, "refused")
    middle = Sent("middle")
    middle.reason = root  # type: ignore[attr-defined]
    assert http_session._root(Sent(middle)) is root
    one, other = Sent(), Sent()
    one.args, other.args = (other,), (one,)
    assert http_session._root(one) in {one, other}


def test_error_is_shown_in_one_line() -> None:
    """A long error with line breaks stays one line of the log."""
    assert shown(ValueError("a\n  b")) == "ValueError: a b"
    assert shown(ValueError("x" * 1000)) == "ValueError: " + "x" * 285 + "..."
    assert len(shown(ValueError("x" * 1000))) == 300


# ------------------------------------------------------------------------------- hostile text

OK_HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


def test_long_message_is_cut(receiver: OTLPReceiver, session: WatchedSession) -> None:
    """A message of 8 MB becomes one line; the number of refused items counts."""
    receiver.behave(PartialSuccess(3, "no\n" * 2_700_000))
    for result in (post(session, receiver.http_endpoint), call_like_the_exporter(receiver)):
        assert result is not None
        assert (result.answer, result.rejected) == (Answer.ACCEPTED, 3)
        assert len(result.reason) == 300
        assert result.reason.startswith("no no no ")


def call_like_the_exporter(receiver: OTLPReceiver) -> Result | None:
    """Call over gRPC with the options of our exporter."""
    return call(receiver.grpc_endpoint, options=_GRPC_OPTIONS)


@pytest.mark.parametrize(
    "fault", [Raw(OK_HEAD, b"x" * 65536, 16_384), PartialSuccess(3, "no" * 9_000_000)]
)
def test_endless_answer_is_an_acceptance(
    receiver: OTLPReceiver, session: WatchedSession, fault: Fault
) -> None:
    """Only a bounded part of an answer of 1 GB is read."""
    receiver.behave(fault)
    tracemalloc.start()
    try:
        assert post(session, receiver.http_endpoint) == ACCEPTED
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The receiver is in this process too, with its own copies of what it sends.
    assert peak < 8 * responses.LONGEST_ANSWER


def test_endless_grpc_answer_is_an_acceptance(receiver: OTLPReceiver) -> None:
    """Only an acceptance has a message, so its batch is not sent again."""
    receiver.behave(PartialSuccess(3, "no" * 9_000_000))
    assert call_like_the_exporter(receiver) == ACCEPTED


def test_endless_error_page_is_left(receiver: OTLPReceiver, session: WatchedSession) -> None:
    """Only the head is used, and the next request has a new connection."""
    receiver.behave(Raw(b"HTTP/1.1 503 Busy\r\n\r\n", b"x" * 65536, 16_384))
    assert post(session, receiver.http_endpoint) == Result(Answer.UNAVAILABLE, "HTTP 503 Busy")
    receiver.behave(Ok())
    assert post(session, receiver.http_endpoint) == ACCEPTED


@pytest.mark.parametrize(
    "fault",
    [
        Raw(b"HTTP/1.1 200 OK\r\nX: ", b"x", 10**6, pause=0.05),
        Raw(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 10**6, pause=0.05),
        Raw(OK_HEAD, b"x", 10**6, pause=0.05),
        Raw(b"HTTP/1.1 503 Busy\r\n\r\n", b"x", 10**6, pause=0.05),
        Raw(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"1\r\nx\r\n",
            10**6,
            pause=0.05,
        ),
    ],
    ids=["header", "interim answers", "body", "error page", "chunks"],
)
@pytest.mark.parametrize("has_tls", [False, True], ids=["plain", "TLS"])
def test_slow_answer_ends_at_the_time_out(fault: Fault, tmp_path: Path, *, has_tls: bool) -> None:
    """The time-out covers the whole answer, not each byte."""
    certificates = make_certificates(tmp_path) if has_tls else None
    server = certificates.server if certificates else None
    with OTLPReceiver(tls=server, grpc=False) as receiver, WatchedSession("traces") as session:
        if certificates:
            session.verify = str(certificates.ca_file)
        receiver.behave(fault)
        began = time.monotonic()
        result = post(session, receiver.http_endpoint, timeout=0.5)
        assert time.monotonic() - began < 5
    assert result is not None
    assert result.answer is Answer.UNAVAILABLE
    assert "timed out" in result.reason.lower()


def test_answer_by_a_proxy_ends_at_the_time_out(
    receiver: OTLPReceiver, session: WatchedSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests go through the environment's proxy, within the same limits."""
    monkeypatch.setenv("HTTP_PROXY", receiver.http_endpoint)
    for _ in range(2):
        assert post(session, "http://collector.example") == ACCEPTED
    receiver.behave(Raw(OK_HEAD, b"x", 10**6, pause=0.05))
    result = post(session, "http://collector.example", timeout=0.3)
    assert result is not None
    assert "timed out" in result.reason.lower()


def test_endless_head_is_left(receiver: OTLPReceiver, session: WatchedSession) -> None:
    """Interim answers are read up to a limit of bytes."""
    interim = b"HTTP/1.1 100 Continue\r\n\r\n"
    receiver.behave(Raw(b"", interim * 10_000, 10_000))
    result = post(session, receiver.http_endpoint)
    assert result is not None
    assert result.answer is Answer.UNAVAILABLE
    assert "the answer is too long" in result.reason


def test_unread_request_ends_at_the_time_out() -> None:
    """The time-out covers the request, too."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        WatchedSession("traces") as session,
        pytest.raises(NotAcceptedError) as caught,
    ):
        session.post(f"http://127.0.0.1:{server.getsockname()[1]}", b"x" * 10**8, timeout=0.3)
    assert caught.value.result.answer is Answer.UNAVAILABLE
    assert "timed out" in caught.value.result.reason.lower()


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_endless_compressed_answer_is_accepted(
    receiver: OTLPReceiver, session: WatchedSession, encoding: str
) -> None:
    """A small answer may unpack to a huge one; it counts as an acceptance without a message."""
    pack = gzip.compress if encoding == "gzip" else zlib.compress
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: %s\r\n\r\n" % encoding.encode()
    message = ExportTraceServiceResponse(
        partial_success={"rejected_spans": 3, "error_message": "no"}
    )
    receiver.behave(Raw(head, pack(message.SerializeToString())))
    expected = Result(Answer.ACCEPTED, "no", rejected=3)
    assert post(session, receiver.http_endpoint) == expected
    receiver.behave(Raw(head, pack(bytes(10**8))))
    assert post(session, receiver.http_endpoint) == ACCEPTED
    receiver.behave(Raw(head, b"not packed"))
    assert post(session, receiver.http_endpoint) == ACCEPTED


@pytest.mark.parametrize(
    "fault",
    [
        PartialSuccess(1, "a\r\nb\x1b[2J\u202ec\u2028d"),
        Status(400, message="a\tb\x1b[2J\x9b\x7f\x08c"),
        Redirect("/a\x1b[2J\x08b"),
    ],
)
def test_control_characters_are_not_shown(
    receiver: OTLPReceiver, session: WatchedSession, fault: Fault
) -> None:
    """A collector's message cannot begin a log line or move a terminal's cursor."""
    receiver.behave(fault)
    for result in (post(session, receiver.http_endpoint), call(receiver.grpc_endpoint)):
        assert result is not None
        assert result.reason
        assert result.reason.isprintable()


def test_cookies_are_not_kept(receiver: OTLPReceiver, session: WatchedSession) -> None:
    """A collector that sets cookies does not fill the memory."""
    cookies = b"".join(b"Set-Cookie: c%d=1\r\n" % number for number in range(50))
    receiver.behave(Raw(b"HTTP/1.1 200 OK\r\n" + cookies + b"\r\n"))
    assert post(session, receiver.http_endpoint) == ACCEPTED
    assert len(session.cookies) == 0


# ------------------------------------------------------------------------------------- gRPC


def call(endpoint: str, timeout: float = 10, options: Any = ()) -> Result | None:
    """Call the service as the exporter would; return the stub's result."""
    with grpc.insecure_channel(endpoint.removeprefix("http://"), options) as channel:
        stub = WatchedStub(TraceServiceStub(channel))
        try:
            stub.Export(request=ExportTraceServiceRequest(), metadata=(), timeout=timeout)
        except NotAcceptedError as error:
            assert stub.take_result() is None
            return error.result
        result = stub.take_result()
        assert stub.take_result() is None
        return result


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (None, ACCEPTED),
        (PartialSuccess(3, "too old"), Result(Answer.ACCEPTED, "too old", rejected=3)),
        (Status(400), Result(Answer.REFUSED, "gRPC INVALID_ARGUMENT: as the test wants it")),
        (Status(401), Result(Answer.UNAVAILABLE, "gRPC UNAUTHENTICATED: as the test wants it")),
        (
            Status(404),
            Result(Answer.UNAVAILABLE, "gRPC NOT_FOUND: as the test wants it", unknown=True),
        ),
        (
            Status(501),
            Result(Answer.UNAVAILABLE, "gRPC UNIMPLEMENTED: as the test wants it", unknown=True),
        ),
        (
            Status(429, retry_after=7),
            Result(
                Answer.UNAVAILABLE,
                "gRPC RESOURCE_EXHAUSTED: as the test wants it",
                retry_after=7.0,
            ),
        ),
        (Status(503), Result(Answer.UNAVAILABLE, "gRPC UNAVAILABLE: as the test wants it")),
        (Hang(), Result(Answer.UNAVAILABLE, "gRPC DEADLINE_EXCEEDED: Deadline Exceeded")),
    ],
)
def test_grpc_answer_is_the_collector_s(
    receiver: OTLPReceiver, fault: Fault | None, expected: Result
) -> None:
    """Each status has its own result."""
    if fault is not None:
        receiver.behave(fault)
    timeout = 0.2 if isinstance(fault, Hang) else 10
    assert call(receiver.grpc_endpoint, timeout) == expected


@pytest.mark.parametrize("how", ["dead", "resetting"])
def test_unreachable_grpc_is_unavailable(receiver: OTLPReceiver, how: str) -> None:
    """A missing or broken connection is tried again."""
    receiver.behave(Reset())
    if how == "dead":
        receiver.stop()
    result = call(receiver.grpc_endpoint)
    assert result is not None
    assert result.answer is Answer.UNAVAILABLE
    assert result.reason.startswith("gRPC UNAVAILABLE: ")


def test_closed_grpc_channel_is_unavailable() -> None:
    """A call after the end does not halve its batch."""
    channel = grpc.insecure_channel("127.0.0.1:1")
    stub = WatchedStub(TraceServiceStub(channel))
    channel.close()
    with pytest.raises(NotAcceptedError) as caught:
        stub.Export(request=ExportTraceServiceRequest())
    assert caught.value.result == Result(
        Answer.UNAVAILABLE, "ValueError: Cannot invoke RPC on closed channel!"
    )


class Servicer(TraceServiceServicer):
    """A service that ends each call with the given trailing metadata."""

    metadata: tuple[Any, ...] = ()

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
        context.set_trailing_metadata(self.metadata)
        context.abort(grpc.StatusCode.UNAVAILABLE, "busy")


OTHER_DETAIL = any_pb2.Any()
OTHER_DETAIL.Pack(status_pb2.Status(message="something else"))


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("grpc-status-details-bin", b"\xff\xff"),),
        (("grpc-status-details-bin", status_pb2.Status().SerializeToString()),),
        (
            ("x-other", "1"),
            (
                "grpc-status-details-bin",
                status_pb2.Status(details=[OTHER_DETAIL]).SerializeToString(),
            ),
        ),
    ],
    ids=["none", "rubbish", "empty", "other details"],
)
def test_status_details_without_pause_are_ignored(metadata: Any) -> None:
    """A proxy may put any details there; the batch is tried again."""
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

    with ThreadPoolExecutor(1) as executor:
        server = grpc.server(executor)
        servicer = Servicer()
        servicer.metadata = metadata
        add_TraceServiceServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        result = call(f"http://127.0.0.1:{port}")
        server.stop(None).wait()
    assert result == Result(Answer.UNAVAILABLE, "gRPC UNAVAILABLE: busy")


def test_too_large_grpc_message_can_be_halved() -> None:
    """One status of gRPC is for quota and size; only a size is worth halving."""
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

    with ThreadPoolExecutor(1) as executor:
        server = grpc.server(executor, options=[("grpc.max_receive_message_length", 10)])
        add_TraceServiceServicer_to_server(Servicer(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = WatchedStub(TraceServiceStub(channel))
            request = ExportTraceServiceRequest()
            request.resource_spans.add().schema_url = "x" * 100
            with pytest.raises(NotAcceptedError) as caught:
                stub.Export(request=request)
        server.stop(None).wait()
    result = caught.value.result
    assert result.answer is Answer.REFUSED
    assert result.certain is False  # some destinations refuse everything
    assert "larger than max" in result.reason

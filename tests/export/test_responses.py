from __future__ import annotations

import socket
import threading
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
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    TraceServiceStub,
    add_TraceServiceServicer_to_server,
)

from rocketry_otel._export import responses
from rocketry_otel._export.responses import (
    Answer,
    NotAcceptedError,
    Result,
    WatchedSession,
    WatchedStub,
    shown,
)
from tests.support.certificates import make_certificates
from tests.support.otlp_receiver import (
    Fault,
    Hang,
    OTLPReceiver,
    PartialSuccess,
    Redirect,
    Reset,
    Status,
)

ACCEPTED = Result(Answer.ACCEPTED)


@pytest.fixture
def receiver() -> Iterator[OTLPReceiver]:
    """A receiver, which the environment names where that matters."""
    with OTLPReceiver() as receiver:
        yield receiver


@pytest.fixture
def session() -> Iterator[WatchedSession]:
    """A session that watches requests of spans."""
    with WatchedSession("traces") as session:
        yield session


def post(session: WatchedSession, endpoint: str, timeout: float = 10) -> Result | None:
    """Post an empty request as the exporter would; return what the session knows of it."""
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
def test_the_answer_over_http_is_the_collectors_own(
    receiver: OTLPReceiver, session: WatchedSession, fault: Fault | None, expected: Result
) -> None:
    """Each answer of a collector is told as what it is; no redirect is followed."""
    if fault is not None:
        receiver.behave(fault)
    assert post(session, receiver.http_endpoint) == expected


def test_a_collector_that_is_not_there_is_unavailable(
    receiver: OTLPReceiver, session: WatchedSession
) -> None:
    """What people read is the error of the network, not of four libraries around it."""
    receiver.stop()
    result = post(session, receiver.http_endpoint)
    assert result is not None
    assert result.answer is Answer.UNAVAILABLE
    assert "Connection refused" in result.reason
    assert len(result.reason) < 150


def test_a_collector_that_hangs_is_unavailable(
    receiver: OTLPReceiver, session: WatchedSession
) -> None:
    """A request ends when its time is up."""
    receiver.behave(Hang())
    result = post(session, receiver.http_endpoint, timeout=0.1)
    assert result is not None
    assert result.answer is Answer.UNAVAILABLE
    assert "Read timed out" in result.reason


def test_a_connection_that_was_closed_meanwhile_is_no_outage(
    receiver: OTLPReceiver, session: WatchedSession
) -> None:
    """A reset is answered with one more try at once."""
    receiver.behave(lambda number, _: Reset() if number == 0 else PartialSuccess(0))
    assert post(session, receiver.http_endpoint) == ACCEPTED
    assert len(receiver.requests) == 2


@pytest.mark.parametrize(
    "body",
    [b'{"partialSuccess":{}}', b"OK", b"", b"\xff\xff"],
    ids=["JSON", "text", "nothing", "rubbish"],
)
def test_whatever_a_collector_says_with_its_yes_is_a_yes(body: bytes) -> None:
    """Some servers answer other than protobuf: they have taken the batch all the same."""
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


def test_the_certificates_of_otel_variables_win(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Variables of the HTTP library that name other certificates do not replace those given."""
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


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("0", 0.0), ("120", 120.0), ("1.5", 1.5), ("-5", 0.0), ("86400", 300.0), ("9" * 500, 300.0)],
)
def test_a_retry_after_in_seconds_is_read_and_bounded(value: str, seconds: float) -> None:
    """Five minutes are the most that is waited."""
    assert responses._retry_after(value) == seconds


@pytest.mark.parametrize(
    ("offset", "least", "most"),
    [(100.0, 1.0, 100.0), (-86_400.0, 0.0, 0.0), (86_400.0, 300.0, 300.0)],
)
@pytest.mark.parametrize("has_zone", [True, False])
def test_a_retry_after_with_a_date_is_read_and_bounded(
    offset: float, least: float, most: float, *, has_zone: bool
) -> None:
    """The time until then counts; a date without a zone is in GMT, as HTTP has it."""
    when = datetime.now(timezone.utc) + timedelta(seconds=offset)
    value = (
        format_datetime(when, usegmt=True)
        if has_zone
        else format_datetime(when.replace(tzinfo=None))
    )
    seconds = responses._retry_after(value)
    assert seconds is not None
    assert least <= seconds <= most


@pytest.mark.parametrize("value", [None, "", "soon", "nan", "²", "Wed, 99 Xyz 2026 00:00:00 GMT"])
def test_a_retry_after_that_makes_no_sense_is_none(value: str | None) -> None:
    """A header that cannot be understood asks for nothing."""
    assert responses._retry_after(value) is None


class Sent(Exception):
    """An error with another one inside, as the HTTP library has them."""


def test_the_root_of_an_error_is_found_even_in_a_circle() -> None:
    """Errors wrap one another in arguments and in ``reason``; the innermost is shown."""
    root = OSError(111, "refused")
    middle = Sent("middle")
    middle.reason = root  # type: ignore[attr-defined]
    assert responses._root(Sent(middle)) is root
    one, other = Sent(), Sent()
    one.args, other.args = (other,), (one,)
    assert responses._root(one) in {one, other}


def test_an_error_is_shown_in_one_short_line() -> None:
    """Whatever an error says, a line of the log stays a line."""
    assert shown(ValueError("a\n  b")) == "ValueError: a b"
    assert shown(ValueError("x" * 1000)) == "ValueError: " + "x" * 285 + "..."
    assert len(shown(ValueError("x" * 1000))) == 300


# ------------------------------------------------------------------------------------- gRPC


def call(endpoint: str, timeout: float = 10) -> Result | None:
    """Call the service as the exporter would; return what the stub knows of it."""
    with grpc.insecure_channel(endpoint.removeprefix("http://")) as channel:
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
def test_the_answer_over_grpc_is_the_collectors_own(
    receiver: OTLPReceiver, fault: Fault | None, expected: Result
) -> None:
    """Each status of a collector is told as what it is."""
    if fault is not None:
        receiver.behave(fault)
    timeout = 0.2 if isinstance(fault, Hang) else 10
    assert call(receiver.grpc_endpoint, timeout) == expected


@pytest.mark.parametrize("how", ["dead", "resetting"])
def test_a_collector_that_cannot_be_reached_over_grpc_is_unavailable(
    receiver: OTLPReceiver, how: str
) -> None:
    """No connection, and one that breaks, are worth another try."""
    receiver.behave(Reset())
    if how == "dead":
        receiver.stop()
    result = call(receiver.grpc_endpoint)
    assert result is not None
    assert result.answer is Answer.UNAVAILABLE
    assert result.reason.startswith("gRPC UNAVAILABLE: ")


def test_a_channel_that_was_closed_meanwhile_is_unavailable() -> None:
    """A call that comes after the end is no poison: its batch is not halved."""
    channel = grpc.insecure_channel("127.0.0.1:1")
    stub = WatchedStub(TraceServiceStub(channel))
    channel.close()
    with pytest.raises(NotAcceptedError) as caught:
        stub.Export(request=ExportTraceServiceRequest())
    assert caught.value.result == Result(
        Answer.UNAVAILABLE, "ValueError: Cannot invoke RPC on closed channel!"
    )


class Servicer(TraceServiceServicer):
    """A service that ends each call with the trailing metadata that it is given."""

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
def test_details_of_a_status_that_ask_for_nothing_are_left_alone(metadata: Any) -> None:
    """Whatever a proxy puts into a status, the batch is tried again."""
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


def test_a_message_beyond_a_grpc_servers_limit_can_be_halved() -> None:
    """GRPC has one status for a quota and for a size: only the latter is worth halving."""
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
    assert result.certain is False  # some refuse whatever comes
    assert "larger than max" in result.reason

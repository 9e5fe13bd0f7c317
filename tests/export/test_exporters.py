from __future__ import annotations

import gc
import logging
import os
import threading
import time
import weakref
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.util import _importlib_metadata as sdk_metadata

from rocketry_otel._export import exporters
from rocketry_otel._export.buffer import QueueLimits
from rocketry_otel._export.counters import Counters
from rocketry_otel._export.exporters import ExporterDestination, destinations
from rocketry_otel._export.outage import Outage
from rocketry_otel._export.queue import ExportQueue
from rocketry_otel._export.responses import Answer, Result
from tests.support.certificates import Certificates, make_certificates
from tests.support.otlp_receiver import Hang, Ok, OTLPReceiver, Status

ACCEPTED = Result(Answer.ACCEPTED)
PROTOCOLS = ("http/protobuf", "grpc")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority, with its certificates."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def receiver() -> Iterator[OTLPReceiver]:
    """A receiver, named by the environment."""
    with OTLPReceiver() as receiver:
        yield receiver


@pytest.fixture
def spans() -> list[ReadableSpan]:
    """Two spans that have ended."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    for name in ("one", "two"):
        provider.get_tracer("test").start_span(name).end()
    return list(exporter.get_finished_spans())


def endpoint_of(receiver: OTLPReceiver, protocol: str) -> str:
    """Return the address of a receiver."""
    return receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint


def set_variables(monkeypatch: pytest.MonkeyPatch, variables: dict[str, Any]) -> None:
    """Set variables of the OTLP exporters."""
    for name, value in variables.items():
        monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{name}", str(value))


def the_destination(signal: str = "traces") -> ExporterDestination:
    """Return the only destination of a signal."""
    (destination,) = destinations(signal)
    return destination


def names(receiver: OTLPReceiver) -> list[str]:
    """Return the names of the spans that have arrived."""
    return [it.span.name for it in receiver.spans]


def test_default_is_http_to_local_collector() -> None:
    """Without variables, each signal goes to its own path at port 4318 over HTTP."""
    assert [the_destination(signal).name for signal in ("traces", "logs", "metrics")] == [
        "http://localhost:4318/v1/traces",
        "http://localhost:4318/v1/logs",
        "http://localhost:4318/v1/metrics",
    ]


def test_grpc_default_is_port_4317(monkeypatch: pytest.MonkeyPatch) -> None:
    """All signals go to port 4317; an empty variable counts as not set."""
    set_variables(monkeypatch, {"PROTOCOL": "grpc", "ENDPOINT": "", "TRACES_TIMEOUT": ""})
    assert the_destination().name == "http://localhost:4317"
    assert the_destination()._made[0]._endpoint == "localhost:4317"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_spans_arrive_by_either_protocol(
    monkeypatch: pytest.MonkeyPatch,
    receiver: OTLPReceiver,
    spans: list[ReadableSpan],
    protocol: str,
) -> None:
    """An export is accepted and arrives, also after a shutdown."""
    set_variables(monkeypatch, {"PROTOCOL": protocol, "ENDPOINT": endpoint_of(receiver, protocol)})
    destination = the_destination()
    assert destination.export(spans) == ACCEPTED
    assert names(receiver) == ["one", "two"]
    assert [it.protocol for it in receiver.requests] == [protocol.partition("/")[0]]
    destination.shutdown()
    assert destination.export(spans) == ACCEPTED
    assert names(receiver) == ["one", "two", "one", "two"]
    destination.shutdown()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_variables_of_a_signal_win(
    monkeypatch: pytest.MonkeyPatch,
    receiver: OTLPReceiver,
    spans: list[ReadableSpan],
    protocol: str,
) -> None:
    """Endpoint, protocol, headers, compression and timeout can be set for one signal."""
    other = "grpc" if protocol != "grpc" else "http/protobuf"
    endpoint = endpoint_of(receiver, protocol)
    set_variables(
        monkeypatch,
        {
            "ENDPOINT": "http://127.0.0.1:1",
            "PROTOCOL": other,
            "HEADERS": "x-for=all",
            "COMPRESSION": "none",
            "TIMEOUT": "1",
            "TRACES_ENDPOINT": endpoint + ("" if protocol == "grpc" else "/v1/traces"),
            "TRACES_PROTOCOL": protocol,
            "TRACES_HEADERS": "x-for=traces,Authorization=Bearer%20abc",
            "TRACES_COMPRESSION": "gzip",
            "TRACES_TIMEOUT": "9",
        },
    )
    options: dict[str, Any] = {}
    class_of = exporters._exporter_class

    def note(signal: str, name: str) -> Any:
        def make(*args: Any, **given: Any) -> Any:
            options.update(given)
            return class_of(signal, name)(*args, **given)

        return make

    monkeypatch.setattr(exporters, "_exporter_class", note)
    destination = the_destination()
    assert destination.export(spans) == ACCEPTED
    (headers,) = receiver.request_headers
    assert headers["x-for"] == "traces"
    assert headers["authorization"] == "Bearer abc"
    if protocol == "grpc":
        assert options["compression"] is grpc.Compression.Gzip
    else:
        assert headers["content-encoding"] == "gzip"
    assert options["timeout"] == 9.0
    destination.shutdown()
    assert the_destination("logs").export([]).answer is Answer.UNAVAILABLE


@pytest.fixture
def netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with the credentials of the receiver's host."""
    file = tmp_path / "netrc"
    file.write_text("machine 127.0.0.1 login somebody password else\n")
    file.chmod(0o600)
    monkeypatch.setenv("NETRC", str(file))


@pytest.mark.usefixtures("netrc")
@pytest.mark.parametrize(
    ("headers", "user", "expected"),
    [
        ("", "", "Basic c29tZWJvZHk6ZWxzZQ=="),
        ("x-other=1", "", "Basic c29tZWJvZHk6ZWxzZQ=="),
        ("authorization=Bearer%20abc", "", "Bearer abc"),
        ("AUTHORIZATION=Bearer%20abc", "", "Bearer abc"),
        ("authorization=Bearer%20abc", "user:password@", "Bearer abc"),
    ],
)
def test_user_headers_win_over_netrc(
    monkeypatch: pytest.MonkeyPatch,
    receiver: OTLPReceiver,
    spans: list[ReadableSpan],
    headers: str,
    user: str,
    expected: str,
) -> None:
    """A file for other programs does not replace the token of the variables."""
    endpoint = receiver.http_endpoint.replace("://", f"://{user}")
    set_variables(monkeypatch, {"ENDPOINT": endpoint, "HEADERS": headers})
    assert the_destination().export(spans) == ACCEPTED
    assert receiver.request_headers[0]["authorization"] == expected


@pytest.mark.usefixtures("netrc")
def test_proxy_variables_work(
    monkeypatch: pytest.MonkeyPatch, receiver: OTLPReceiver, spans: list[ReadableSpan]
) -> None:
    """Requests go through the proxy, with the headers of the user; ``NO_PROXY`` has exceptions."""
    monkeypatch.setenv("HTTP_PROXY", receiver.http_endpoint)
    variables = {"ENDPOINT": "http://collector.example", "HEADERS": "authorization=Bearer%20abc"}
    set_variables(monkeypatch, {**variables, "TIMEOUT": 5})
    assert the_destination().export(spans) == ACCEPTED
    assert receiver.request_headers[0]["authorization"] == "Bearer abc"
    assert receiver.request_headers[0]["host"] == "collector.example"
    monkeypatch.setenv("NO_PROXY", "collector.example")
    assert the_destination().export(spans).answer is Answer.UNAVAILABLE
    assert len(receiver.requests) == 1


def test_http_can_use_deflate(
    monkeypatch: pytest.MonkeyPatch, receiver: OTLPReceiver, spans: list[ReadableSpan]
) -> None:
    """The specification's third compression works, too."""
    set_variables(monkeypatch, {"ENDPOINT": receiver.http_endpoint, "COMPRESSION": "deflate"})
    assert the_destination().export(spans) == ACCEPTED
    assert receiver.request_headers[0]["content-encoding"] == "deflate"
    assert names(receiver) == ["one", "two"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("mutual", [False, True])
def test_tls_uses_certificates_of_variables(
    monkeypatch: pytest.MonkeyPatch,
    certificates: Certificates,
    spans: list[ReadableSpan],
    protocol: str,
    mutual: object,
) -> None:
    """A collector with a private authority is reached, also one that demands a certificate."""
    client_ca = certificates.ca_file if mutual else None
    with OTLPReceiver(tls=certificates.server, client_ca=client_ca) as receiver:
        set_variables(
            monkeypatch,
            {
                "PROTOCOL": protocol,
                "ENDPOINT": endpoint_of(receiver, protocol),
                "CERTIFICATE": certificates.ca_file,
            },
        )
        if mutual:
            assert the_destination().export(spans).answer is Answer.UNAVAILABLE
            set_variables(
                monkeypatch,
                {
                    "CLIENT_CERTIFICATE": certificates.client.certificate_file,
                    "CLIENT_KEY": certificates.client.key_file,
                },
            )
        assert the_destination().export(spans) == ACCEPTED
        assert names(receiver) == ["one", "two"]
        set_variables(monkeypatch, {"CERTIFICATE": certificates.stranger_ca_file})
        assert the_destination().export(spans).answer is Answer.UNAVAILABLE


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TIMEOUT", "soon"),
        ("TRACES_TIMEOUT", "soon"),
        ("TRACES_TIMEOUT", "-1"),
        ("COMPRESSION", "zstd"),
        ("COMPRESSION", "none"),
        ("TRACES_COMPRESSION", ""),
        ("TRACES_PROTOCOL", "carrier pigeon"),
        ("HEADERS", "no equals sign"),
    ],
)
def test_bad_value_does_not_stop_the_export(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    receiver: OTLPReceiver,
    spans: list[ReadableSpan],
    protocol: str,
    variable: str,
    value: str,
) -> None:
    """As the specification demands, a bad value is ignored with a warning."""
    if value == "carrier pigeon":
        protocol = "http/protobuf"  # the default, which takes its place
    set_variables(
        monkeypatch,
        {
            "PROTOCOL": protocol,
            "ENDPOINT": endpoint_of(receiver, protocol),
            variable: value,
        },
    )
    assert the_destination().export(spans) == ACCEPTED
    assert names(receiver) == ["one", "two"]
    warned = [record.getMessage() for record in caplog.records]
    assert len(warned) == (0 if value in {"", "none"} else 1)
    assert os.environ[f"OTEL_EXPORTER_OTLP_{variable}"] == value


def test_unknown_exporter_is_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning names it, and the other exporters work."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "zipkin,console")
    assert the_destination().name == "console"
    assert [record.getMessage() for record in caplog.records] == [
        (
            "OTEL_TRACES_EXPORTER names zipkin, which cannot be used: LookupError: no such "
            "exporter is installed; there are console, none, otlp, otlp_proto_grpc, otlp_proto_http"
        )
    ]


def test_none_turns_a_signal_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name ``none`` gives no destination."""
    monkeypatch.setenv("OTEL_LOGS_EXPORTER", "none")
    assert destinations("logs") == []


def test_each_exporter_is_a_destination(
    monkeypatch: pytest.MonkeyPatch, receiver: OTLPReceiver, spans: list[ReadableSpan]
) -> None:
    """Collector and console are separate destinations."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp,console")
    set_variables(monkeypatch, {"ENDPOINT": receiver.http_endpoint})
    otlp, console = destinations("traces")
    assert [otlp.name, console.name] == [f"{receiver.http_endpoint}/v1/traces", "console"]
    assert otlp.export(spans) == ACCEPTED
    assert names(receiver) == ["one", "two"]
    console.shutdown()


@pytest.mark.parametrize(
    ("exporter", "protocol"), [("otlp_proto_http", "http"), ("otlp_proto_grpc", "grpc")]
)
def test_sdk_names_of_exporters_work(
    monkeypatch: pytest.MonkeyPatch,
    receiver: OTLPReceiver,
    spans: list[ReadableSpan],
    exporter: str,
    protocol: str,
) -> None:
    """The SDK's names contain the protocol."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", exporter)
    set_variables(monkeypatch, {"ENDPOINT": endpoint_of(receiver, protocol)})
    receiver.behave(Status(503))
    assert the_destination().export(spans).answer is Answer.UNAVAILABLE
    assert [it.protocol for it in receiver.requests] == [protocol]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_unencodable_batch_is_refused_unsent(
    monkeypatch: pytest.MonkeyPatch,
    receiver: OTLPReceiver,
    spans: list[ReadableSpan],
    protocol: str,
) -> None:
    """The batch can be halved, and an earlier answer is not taken for its own."""
    set_variables(monkeypatch, {"PROTOCOL": protocol, "ENDPOINT": endpoint_of(receiver, protocol)})
    destination = the_destination()
    poison = TracerProvider(shutdown_on_exit=False).get_tracer("t").start_span("\ud800")
    poison.end()
    receiver.behave(Status(503))
    assert destination.export(spans).answer is Answer.UNAVAILABLE
    result = destination.export([*spans, poison])
    assert (result.answer, result.certain) == (Answer.REFUSED, True)
    assert len(receiver.requests) == 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("fault", [Status(503), Status(400), Hang(), None])
def test_exporters_are_quiet_on_our_threads(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    receiver: OTLPReceiver,
    spans: list[ReadableSpan],
    protocol: str,
    fault: Any,
) -> None:
    """The result reports a failure; the application's own exporters still log."""
    caplog.set_level(logging.DEBUG)
    endpoint = endpoint_of(receiver, protocol)
    set_variables(monkeypatch, {"PROTOCOL": protocol, "ENDPOINT": endpoint, "TIMEOUT": "0.2"})
    if fault is None:
        receiver.stop()
    else:
        receiver.behave(fault)
    destination = the_destination()
    assert destination.export(spans).answer is not Answer.ACCEPTED
    destination.shutdown()
    # The receiver logs in this process, too.
    lines = [(it.name, it.getMessage()) for it in caplog.records if it.name != "grpc._server"]
    assert lines == []
    receiver.start()
    receiver.behave(Status(400))
    theirs = OTLPSpanExporter(f"{receiver.http_endpoint}/v1/traces")
    assert theirs.export(spans) is SpanExportResult.FAILURE
    assert "opentelemetry.exporter.otlp.proto.http.trace_exporter" in {
        record.name for record in caplog.records
    }


class Exporter:
    """A third party's exporter."""

    def __init__(self, answer: object = SpanExportResult.SUCCESS) -> None:
        self.answer = answer
        self.ended = 0

    def export(self, _: object) -> object:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def shutdown(self) -> None:
        self.ended += 1
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (SpanExportResult.SUCCESS, ACCEPTED),
        (SpanExportResult.FAILURE, Result(Answer.REFUSED, "the exporter reports a failure")),
        (None, Result(Answer.REFUSED, "the exporter reports a failure")),
        (OSError(5, "disk"), Result(Answer.REFUSED, "OSError: [Errno 5] disk")),
    ],
)
def test_third_party_failure_is_final(answer: object, expected: Result) -> None:
    """Its connection is unknown, so its failure gives no reason to halve the batch."""
    exporter = Exporter(answer)
    destination = ExporterDestination(lambda: (exporter, None), "theirs")
    assert destination.name == "theirs"
    assert destination.export([1]) == expected
    assert destination.preference("answer") is answer
    assert destination.preference("nothing") is None
    destination.shutdown()
    assert exporter.ended == 1


class ShutsDown:
    """A watch that shuts its destination down just before the exporter is called."""

    def __init__(self, destination: ExporterDestination) -> None:
        self.destination = destination

    def take_result(self) -> None:
        self.destination.shutdown()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_shut_down_exporter_refuses_nothing(
    monkeypatch: pytest.MonkeyPatch,
    receiver: OTLPReceiver,
    spans: list[ReadableSpan],
    protocol: str,
) -> None:
    """The SDK's exporter fails once it is shut down; the batch can still be sent later."""
    set_variables(monkeypatch, {"PROTOCOL": protocol, "ENDPOINT": endpoint_of(receiver, protocol)})
    destination = the_destination()
    assert destination._made is not None
    monkeypatch.setattr(destination, "_made", (destination._made[0], ShutsDown(destination)))
    result = destination.export(spans)
    assert result == Result(Answer.UNAVAILABLE, "the exporter is shut down")
    assert receiver.requests == []
    assert destination.export(spans).answer is Answer.ACCEPTED
    assert len(receiver.spans) == len(spans)


def test_export_during_a_shutdown_uses_another_exporter() -> None:
    """To close a connection can take long; nothing is given to an exporter that is closing."""
    at_work, may_end = threading.Event(), threading.Event()
    made: list[Exporter] = []

    class Slow(Exporter):
        def shutdown(self) -> None:
            self.answer = SpanExportResult.FAILURE
            at_work.set()
            assert may_end.wait(10)

    def make() -> tuple[Exporter, None]:
        made.append(Exporter() if made else Slow())
        return made[-1], None

    destination = ExporterDestination(make, "theirs")
    closing = threading.Thread(target=destination.shutdown)
    closing.start()
    assert at_work.wait(10)
    assert destination.export([1]) == ACCEPTED
    may_end.set()
    closing.join()
    assert destination.export([1]) == ACCEPTED
    assert len(made) == 2


def test_forked_child_makes_its_own_exporter() -> None:
    """The child neither uses nor closes nor releases the parent's connection."""
    made: list[weakref.ref[Exporter]] = []

    def make() -> tuple[Exporter, None]:
        exporter = Exporter()
        made.append(weakref.ref(exporter))
        return exporter, None

    destination = ExporterDestination(make, "theirs")
    # The same call as in a child, without a fork: this object sees no difference.
    destination._leave_it_to_the_parent()
    destination.shutdown()
    parents = made[0]()
    assert parents is not None
    assert parents.ended == 0
    assert destination.preference("answer") is None
    assert destination.export([1]) == ACCEPTED
    assert len(made) == 2
    del parents
    gc.collect()
    assert made[0]() is not None


def test_child_without_exporter_loses_items() -> None:
    """The items are lost with a reason, and nothing is raised."""
    exporters = iter([(Exporter(), None)])
    destination = ExporterDestination(lambda: next(exporters), "theirs")
    destination._leave_it_to_the_parent()
    assert destination.export([1]) == Result(Answer.REFUSED, "StopIteration:")


def test_grpc_is_not_used_after_a_cut_call(
    monkeypatch: pytest.MonkeyPatch, receiver: OTLPReceiver, spans: list[ReadableSpan]
) -> None:
    """The child would hang or abort, so its items are lost, with the cure in the reason."""
    set_variables(monkeypatch, {"PROTOCOL": "grpc", "ENDPOINT": receiver.grpc_endpoint})
    destination = the_destination()
    destination._leave_it_to_the_parent()
    monkeypatch.setattr(exporters.calls, "were_cut", True)
    assert destination.export(spans) == Result(
        Answer.REFUSED,
        "RuntimeError: gRPC cannot be used in a process that was forked in the midst of a call; "
        "http/protobuf can",
    )
    assert receiver.requests == []


def test_credential_provider_gives_the_session(
    monkeypatch: pytest.MonkeyPatch, receiver: OTLPReceiver, spans: list[ReadableSpan]
) -> None:
    """The SDK's variable names the provider, and requests use its session."""
    session = requests.Session()
    session.headers["X-From"] = "provider"
    monkeypatch.setattr(
        EntryPoint, "load", _loading(EntryPoint.load, {"of-the-test": lambda: session})
    )
    group = "opentelemetry_otlp_credential_provider"
    entry_point = EntryPoint("of-the-test", "nowhere:nothing", group)
    their_entry_points = sdk_metadata.entry_points

    def entry_points(**wanted: str) -> Any:
        return [entry_point] if wanted.get("group") == group else their_entry_points(**wanted)

    from opentelemetry.exporter.otlp.proto.http import _common  # noqa: PLC0415

    monkeypatch.setattr(_common, "entry_points", entry_points)
    monkeypatch.setenv("OTEL_PYTHON_EXPORTER_OTLP_HTTP_TRACES_CREDENTIAL_PROVIDER", "of-the-test")
    set_variables(monkeypatch, {"ENDPOINT": receiver.http_endpoint, "TIMEOUT": "0.5"})
    destination = the_destination()
    assert destination.export(spans) == ACCEPTED
    assert receiver.request_headers[0]["x-from"] == "provider"
    receiver.behave(Status(400))
    assert destination.export(spans) == Result(Answer.REFUSED, "the exporter reports a failure")


def _loading(load: Any, own: dict[str, Any]) -> Any:
    return lambda entry_point: own.get(entry_point.name) or load(entry_point)


def test_loggers_get_one_filter() -> None:
    """Many exporters leave one filter on a logger."""
    for _ in range(3):
        the_destination().shutdown()
    logger = logging.getLogger("urllib3.connectionpool")
    assert logger.filters.count(exporters._quiet) == 1


def test_quiet_thread_silences_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """While our thread exports, other threads can log through the same logger."""
    logger = logging.getLogger("urllib3.connectionpool")
    heard = threading.Event()

    class Speaking(Exporter):
        def export(self, _: object) -> object:
            logger.warning("ours")
            thread = threading.Thread(target=logger.warning, args=("theirs",))
            thread.start()
            thread.join()
            heard.set()
            return SpanExportResult.SUCCESS

    destination = ExporterDestination(lambda: (Speaking(), None), "theirs")
    assert destination.export([]) == ACCEPTED
    assert heard.is_set()
    assert [record.getMessage() for record in caplog.records] == ["theirs"]


SECRET = "s3cr3t"  # noqa: S105  # what must not be seen


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "endpoint",
    [
        f"user:{SECRET}@127.0.0.1:1",
        f"ftp://user:{SECRET}@127.0.0.1:1",
        f"http://user:{SECRET}@127.0.0.1:1/v1/traces",
        f"http://user:a/{SECRET}@127.0.0.1:1",
        f"http://user:{SECRET}?#@127.0.0.1:1",
        f"http://127.0.0.1:1/v1/traces?token={SECRET}",
        f"http://127.0.0.1:1/v1/traces#{SECRET}",
        f"http://127.0.0.1:1/v1/traces?mail=a@{SECRET}",
        f"http://[{SECRET}/v1/traces",
        f"http://user:{SECRET}",
    ],
)
def test_no_secret_of_an_endpoint_is_shown(
    protocol: str, endpoint: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the destination's name, nor the log, nor a failure's reason quotes it."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", endpoint)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    for destination in destinations("traces"):
        result = destination.export([])
        destination.shutdown()
        assert result.answer is not Answer.ACCEPTED
        assert SECRET not in destination.name + result.reason
    assert SECRET not in caplog.text


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("seconds", [0, -5])
def test_zero_retry_after_keeps_usual_pause(
    monkeypatch: pytest.MonkeyPatch,
    receiver: OTLPReceiver,
    spans: list[ReadableSpan],
    protocol: str,
    seconds: int,
) -> None:
    """The third try comes after two usual pauses."""
    set_variables(monkeypatch, {"PROTOCOL": protocol, "ENDPOINT": endpoint_of(receiver, protocol)})
    receiver.behave(Status(503, retry_after=seconds))
    counters = Counters()
    limits = QueueLimits(delay=0.0)
    queue = ExportQueue[Any]("traces", the_destination(), limits, counters, Outage(counters))
    queue.put(spans[0])
    assert receiver.wait_for(lambda it: it.requests)
    began = time.monotonic()
    assert receiver.wait_for(lambda it: len(it.requests) >= 3)
    assert time.monotonic() - began > 0.7
    receiver.behave(Ok())
    assert queue.wait_for(queue.hurry(), time.monotonic() + 10)
    queue.begin_closing(time.monotonic() + 10)
    queue.finish_closing()


def test_malformed_header_value_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning for all signals names only the variable."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"a=b,Authorization Bearer {SECRET}")
    for signal in ("traces", "logs", "metrics"):
        (destination,) = destinations(signal)
        destination.shutdown()
    (record,) = caplog.records
    assert record.getMessage() == (
        "OTEL_EXPORTER_OTLP_HEADERS has an entry that is not of the form name=value with a "
        "percent-encoded value: the entry is left out."
    )

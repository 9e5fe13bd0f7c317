"""Requests of encoded items, alone and among items of the SDK."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk._logs import LoggerProvider, ReadableLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.trace import SpanContext, SpanKind

from rocketry_otel._export.encoded import Encoded, Scope, is_too_large, request_of, sender_of
from rocketry_otel._export.encoding import Limits, encode_log, encode_span
from rocketry_otel._export.exporters import ExporterDestination
from rocketry_otel._export.responses import Answer, Result
from rocketry_otel._model.event import parse_event
from rocketry_otel._model.ids import RunIds
from rocketry_otel._model.signals import SpanSignal, log_signal
from tests.support.otlp_receiver import OTLPReceiver

IDS = RunIds(0xA0, 0xB0)
PLACE = Resource({"place": "K\u00f6ln", "numbers": (1, 2)}, "https://example.org/resource")


@pytest.fixture
def tracer_provider() -> Iterator[TracerProvider]:
    """A provider whose resource has a schema."""
    provider = TracerProvider(resource=PLACE, shutdown_on_exit=False)
    yield provider
    provider.shutdown()


@pytest.fixture
def scope(tracer_provider: TracerProvider) -> Scope:
    """The scope of a tracer with a schema and attributes."""
    return Scope(tracer_provider, tracer_of(tracer_provider), Limits(1))


def tracer_of(provider: TracerProvider, name: str = "ours") -> Any:
    """Return a tracer with a schema and attributes."""
    return provider.get_tracer(name, "1", "https://example.org/scope", {"a": 1})


def span_of(name: str) -> SpanSignal:
    """Return a span without attributes."""
    return SpanSignal(name, 1_000, 2_000, {}, None, None)


def encoded(scope: Scope, name: str) -> Encoded:
    """Return a span as bytes."""
    return Encoded(scope, encode_span(span_of(name), IDS, SpanKind.INTERNAL))


def of_sdk(provider: TracerProvider, name: str, scope_name: str = "ours") -> ReadableSpan:
    """Return the span of the SDK."""
    return ReadableSpan(
        name,
        SpanContext(IDS.trace_id, IDS.span_id, is_remote=False),
        resource=provider.resource,
        instrumentation_scope=tracer_of(provider, scope_name)._instrumentation_scope,
        start_time=1_000,
        end_time=2_000,
    )


def test_request_of_spans_is_the_bytes_of_the_sdk(
    tracer_provider: TracerProvider, scope: Scope
) -> None:
    """Resource and scope come once, each with its schema."""
    batch = [encoded(scope, "one"), encoded(scope, "two")]
    spans = [of_sdk(tracer_provider, name) for name in ("one", "two")]
    assert request_of("traces", batch) == encode_spans(spans).SerializePartialToString()


def test_request_of_log_records_is_the_bytes_of_the_sdk() -> None:
    """Also of a record that belongs to no run."""
    provider = LoggerProvider(resource=PLACE, shutdown_on_exit=False)
    logger: Any = provider.get_logger("ours", "1", "https://example.org/scope")
    seen: list[ReadableLogRecord] = []

    class Keep:
        def on_emit(self, record: Any) -> None:
            seen.append(record)

        def shutdown(self) -> None:
            """Do nothing."""

    provider.add_log_record_processor(Keep())  # type: ignore[arg-type]
    signal = log_signal(parse_event({"created": 1.0}), "full")
    logger.emit(
        timestamp=signal.timestamp,
        observed_timestamp=signal.timestamp,
        severity_number=signal.severity,
        severity_text=signal.severity_text,
        body=signal.body,
    )
    batch = [Encoded(Scope(provider, logger, Limits(1)), encode_log(signal, None, 0))]
    assert request_of("logs", batch) == encode_logs(seen).SerializePartialToString()
    provider.shutdown()


def test_items_of_two_scopes_keep_their_own(tracer_provider: TracerProvider, scope: Scope) -> None:
    """After `uninstrument`, the items of an idle provider go out beside those of another one."""
    other = TracerProvider(resource=Resource({"place": "Bonn"}), shutdown_on_exit=False)
    its = Scope(other, tracer_of(other, "its"), Limits(1))
    batch = [encoded(scope, "a"), encoded(its, "b"), encoded(scope, "c")]
    request = ExportTraceServiceRequest.FromString(request_of("traces", batch))
    found = [
        (one.resource.attributes[0].value.string_value, one.scope_spans[0].scope.name,
         [span.name for span in one.scope_spans[0].spans])
        for one in request.resource_spans
    ]  # fmt: skip
    assert found == [("K\u00f6ln", "ours", ["a", "c"]), ("Bonn", "its", ["b"])]
    other.shutdown()


def test_items_of_the_sdk_go_along(tracer_provider: TracerProvider, scope: Scope) -> None:
    """Such as the spans of a body: the SDK encodes them."""
    body = of_sdk(tracer_provider, "body", "theirs")
    request = request_of("traces", [encoded(scope, "run"), body])
    alone = request_of("traces", [encoded(scope, "run")])
    assert request == alone + encode_spans([body]).SerializePartialToString()


def test_encoded_item_of_the_sdk_that_fails_is_no_outage(scope: Scope) -> None:
    """The batch is halved until that item is alone."""
    sent: list[bytes] = []

    class Exporter:
        def _export(self, request: bytes) -> None:
            sent.append(request)

    class Watch:
        def take_result(self) -> Result | None:
            return Result(Answer.ACCEPTED) if sent else None

    destination = ExporterDestination(lambda: (Exporter(), Watch()), "here", signal="traces")
    assert destination.takes_encoded is True
    refused = destination.export([encoded(scope, "run"), object()])
    assert (refused.answer, refused.certain, sent) == (Answer.REFUSED, True, [])
    assert destination.export([encoded(scope, "run")]) == Result(Answer.ACCEPTED)
    assert sent == [request_of("traces", [encoded(scope, "run")])]


def test_exporter_of_the_sdk_sends_bytes(scope: Scope) -> None:
    """With its compression and headers."""
    with OTLPReceiver() as receiver:
        exporter = OTLPSpanExporter(
            f"{receiver.http_endpoint}/v1/traces",
            headers={"place": "here"},
            compression=Compression.Gzip,
        )
        send = sender_of(exporter)
        assert send is not None
        send(request_of("traces", [encoded(scope, "run")]))
        exporter.shutdown()
        assert [one.span.name for one in receiver.spans] == ["run"]
        headers = receiver.request_headers[0]
        assert (headers["place"], headers["content-encoding"]) == ("here", "gzip")


def test_other_exporter_sends_no_bytes() -> None:
    """It gets the items of the SDK."""
    assert sender_of(object()) is None
    assert ExporterDestination(lambda: (Silent(), None), "here", signal="traces").takes_encoded is (
        False
    )


class Silent:
    """An exporter of another kind."""

    def shutdown(self) -> None:
        """Do nothing."""


@pytest.mark.parametrize(("limit", "expected"), [(5, "fits"), (4, "too large"), (0, "fits")])
def test_limit_of_the_exporter_is_kept(limit: int, expected: str) -> None:
    """A limit of 0 is none; older exporters have none."""
    exporter = Silent()
    exporter._max_request_size = limit  # type: ignore[attr-defined]
    assert is_too_large(exporter, b"12345") is (expected == "too large")
    assert is_too_large(object(), b"12345") is False

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (
    OTLPSpanExporter as GRPCSpanExporter,
)
from opentelemetry.exporter.otlp.proto.http.trace_exporter import (
    OTLPSpanExporter as HTTPSpanExporter,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult

from tests.support.otlp_receiver import LOOPBACK, OTLPReceiver
from tests.support.rotel import rotel_before


def test_real_collector_sends_on(tmp_path: Path) -> None:
    """Spans sent to the collector over HTTP and over gRPC reach the receiver behind it."""
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("tests")
    with OTLPReceiver() as receiver, rotel_before(receiver, tmp_path) as rotel:
        for name, exporter in {
            "http": HTTPSpanExporter(endpoint=f"{rotel.http_endpoint}/v1/traces"),
            "grpc": GRPCSpanExporter(endpoint=rotel.grpc_endpoint),
        }.items():
            span = tracer.start_span(name)
            span.end()
            assert exporter.export([span]) is SpanExportResult.SUCCESS
            exporter.shutdown()

        assert receiver.wait_for(lambda it: len(it.spans) == 2)
        assert sorted(it.span.name for it in receiver.spans) == ["grpc", "http"]
        assert receiver.malformed == []


def test_stops_cleanly(tmp_path: Path) -> None:
    """After the test the collector is gone from its port."""
    with OTLPReceiver() as receiver, rotel_before(receiver, tmp_path) as rotel:
        port = int(rotel.http_endpoint.rpartition(":")[2])

    with socket.socket() as client, pytest.raises(ConnectionRefusedError):
        client.connect((LOOPBACK, port))


def test_failed_start_has_its_reason(tmp_path: Path) -> None:
    """A collector that ends at once makes the test fail with what the collector said."""
    with (
        OTLPReceiver() as receiver,
        pytest.raises(RuntimeError, match="no-such-option"),
        rotel_before(receiver, tmp_path, "--no-such-option"),
    ):
        pass

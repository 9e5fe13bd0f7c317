"""A port that speaks HTTP, where the distribution sends gRPC, is found by asking it."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator

import pytest

from rocketry_otel._export import wrong_protocol
from rocketry_otel._export.wrong_protocol import warn_if_wrong
from tests.support.otlp_receiver import OTLPReceiver


@pytest.fixture
def receiver() -> Iterator[OTLPReceiver]:
    """A collector."""
    with OTLPReceiver() as it:
        yield it


@pytest.fixture(autouse=True)
def _grpc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the protocol as the distribution does."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Look, and return the new warnings."""
    caplog.clear()
    warn_if_wrong()
    assert {record.levelno for record in caplog.records} <= {logging.WARNING}
    return [record.getMessage() for record in caplog.records]


def test_port_of_http_is_warned_of(receiver, caplog, monkeypatch) -> None:
    """The address is shown without its password."""
    address = receiver.http_endpoint.replace("://", "://user:secret@")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
    (warning,) = warnings(caplog)
    assert warning == (
        f"No telemetry reaches {receiver.http_endpoint}: the port does not speak gRPC, and may be "
        "one for HTTP: set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf, or use the port of OTLP "
        "over gRPC (4317 as a rule)"
    )


def test_port_of_grpc_is_not_warned_of(receiver, caplog, monkeypatch) -> None:
    """A real server of gRPC answers with its settings."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.grpc_endpoint)
    assert warnings(caplog) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf"),
        ("OTEL_TRACES_EXPORTER", "console"),
    ],
)
def test_nothing_is_asked_if_grpc_is_not_used(receiver, caplog, monkeypatch, name, value) -> None:
    """Another protocol or another exporter."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.http_endpoint)
    monkeypatch.setenv(name, value)
    assert warnings(caplog) == []


@pytest.mark.parametrize(
    "address", ["localhost:4318", "https://localhost:4318", "http://localhost:x", "http://"]
)
def test_address_that_is_not_plain_is_left_to_the_exporter(caplog, monkeypatch, address) -> None:
    """TLS, no scheme, a bad port, no host."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
    assert warnings(caplog) == []


def test_nothing_listens_but_the_other_port_speaks_http(receiver, caplog, monkeypatch) -> None:
    """Only beside the usual port of gRPC."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        grpc, http = closed.getsockname()[1], int(receiver.http_endpoint.rpartition(":")[2])
        monkeypatch.setattr(wrong_protocol, "_HTTP_PORT", http)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{grpc}")
        assert warnings(caplog) == []
        monkeypatch.setattr(wrong_protocol, "_GRPC_PORT", grpc)
        (warning,) = warnings(caplog)
    assert warning == (
        f"Nothing listens at http://127.0.0.1:{grpc}, where telemetry is sent by gRPC, but port "
        f"{http} of the same host speaks HTTP: set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf"
    )


def test_default_address_is_asked(receiver, caplog, monkeypatch) -> None:
    """It is this host, at the usual port."""
    http = int(receiver.http_endpoint.rpartition(":")[2])
    monkeypatch.setattr(wrong_protocol, "_GRPC_PORT", http)
    assert len(warnings(caplog)) == 1


def test_port_that_closes_is_not_judged(caplog, monkeypatch) -> None:
    """Without an answer nothing is known."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(wrong_protocol, "_SECONDS", 0.2)
        monkeypatch.setenv(
            "OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}"
        )
        assert warnings(caplog) == []

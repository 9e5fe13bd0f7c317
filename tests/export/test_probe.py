"""One marked item for each destination, and the answer in words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rocketry_otel._export.probe import SERVICE, Probe, probe_signal
from tests.support.certificates import Certificates, make_certificates
from tests.support.otlp_receiver import (
    OTLPReceiver,
    PartialSuccess,
    Redirect,
    Reset,
    Status,
    value_of,
)
from tests.support.ports import free_ports


@pytest.fixture
def receiver() -> Iterator[OTLPReceiver]:
    """A collector with both protocols."""
    with OTLPReceiver() as receiver:
        yield receiver


def probe(patch: pytest.MonkeyPatch, endpoint: str, protocol: str = "http/protobuf") -> Probe:
    """Send a span to an endpoint."""
    patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    patch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    patch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "5")
    (found,) = probe_signal("traces")
    return found


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_marked_items(
    protocol: str, receiver: OTLPReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One item of each signal, of a service that no panel shows and of no task."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "odd")
    endpoint = receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint
    assert probe(monkeypatch, endpoint, protocol).is_accepted
    for signal in ("logs", "metrics"):
        (found,) = probe_signal(signal)
        assert found.is_accepted
    ((span,), (log_record,), (metric,)) = receiver.spans, receiver.log_records, receiver.metrics
    for one in (span, log_record, metric):
        (attribute,) = one.resource.attributes
        assert (attribute.key, value_of(attribute.value)) == ("service.name", SERVICE)
    assert list(span.span.attributes) == list(log_record.log_record.attributes) == []
    assert (span.span.name, metric.metric.name) == ("rocketry-otel check", "rocketry.otel.check")


HTTP = [
    (Status(401), "unauthorised", "OTEL_EXPORTER_OTLP_HEADERS"),
    (Status(403), "unauthorised", "OTEL_EXPORTER_OTLP_HEADERS"),
    (Status(404), "no path", "OTEL_TRACES_EXPORTER=none"),
    (Status(400), "data refused", "log of the collector"),
    (Status(503), "overloaded", "tries again"),
    (Status(500), "unavailable", "log of the collector"),
    (Redirect("/login"), "redirect", "the address that it leads to"),
    (PartialSuccess(1, "too old"), "partial", "not sent again"),
    (PartialSuccess(1), "partial", "not sent again"),
    (Reset(), "closed", "It may need TLS: write https://"),
]


@pytest.mark.parametrize(("fault", "outcome", "cure"), HTTP)
def test_answers(
    fault: object,
    outcome: str,
    cure: str,
    receiver: OTLPReceiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each has its word and its cure."""
    receiver.behave(fault)  # type: ignore[arg-type]
    found = probe(monkeypatch, receiver.http_endpoint)
    assert (found.outcome, cure in found.cure, bool(found.reason)) == (outcome, True, True)
    assert found.destination == f"{receiver.http_endpoint}/v1/traces"


def test_connections(receiver: OTLPReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing listens, TLS where there is none, no scheme, a wrong port."""
    assert probe(monkeypatch, f"http://127.0.0.1:{free_ports(1)[0]}").outcome == "refused"
    with_tls = receiver.http_endpoint.replace("http:", "https:")
    assert probe(monkeypatch, with_tls).outcome == "TLS"
    assert probe(monkeypatch, "localhost:4318").outcome == "wrong address"
    assert probe(monkeypatch, receiver.grpc_endpoint).outcome == "wrong port"
    found = probe(monkeypatch, receiver.http_endpoint, "grpc")
    assert (found.outcome, "OTEL_EXPORTER_OTLP_PROTOCOL" in found.reason) == ("wrong port", True)
    assert probe(monkeypatch, "http://no.such.host.invalid:1").outcome == "host unknown"


def test_no_destination(monkeypatch: pytest.MonkeyPatch) -> None:
    """No exporter, no outcome."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    assert probe_signal("traces") == []


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority, another one, and certificates of both."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module", params=["http/protobuf", "grpc"])
def tls(
    request: pytest.FixtureRequest, certificates: Certificates
) -> Iterator[tuple[str, str, str]]:
    """A protocol, the address of a collector with TLS, and that of one that asks for more."""
    with (
        OTLPReceiver(tls=certificates.server) as one,
        OTLPReceiver(tls=certificates.server, client_ca=certificates.ca_file) as strict,
    ):
        name = "grpc_endpoint" if request.param == "grpc" else "http_endpoint"
        addresses = (getattr(it, name).partition("//")[2] for it in (one, strict))
        yield (request.param, *(f"https://{address}" for address in addresses))


def tls_outcome(
    monkeypatch: pytest.MonkeyPatch, protocol: str, endpoint: str, **files: Path
) -> tuple[str, str]:
    """Return the outcome and the cure of an item, with these files of certificates."""
    for name, file in files.items():
        monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{name.upper()}", str(file))
    found = probe(monkeypatch, endpoint, protocol)
    return found.outcome, found.cure


def test_collector_with_tls(
    tls: tuple[str, str, str], certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The right authority is accepted; another, none, and plain text each have a cure."""
    protocol, endpoint, _ = tls
    right, other = certificates.ca_file, certificates.stranger_ca_file
    assert tls_outcome(monkeypatch, protocol, endpoint, certificate=right) == ("accepted", "")
    outcome, cure = tls_outcome(monkeypatch, protocol, endpoint, certificate=other)
    assert outcome == "TLS"
    assert cure.startswith("set OTEL_EXPORTER_OTLP_CERTIFICATE to the file of the authority")
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_CERTIFICATE")
    assert tls_outcome(monkeypatch, protocol, endpoint)[0] == "TLS"
    plain = endpoint.replace("https", "http")
    outcome, cure = tls_outcome(monkeypatch, protocol, plain)
    assert (outcome, "It may need TLS: write https://" in cure) == ("closed", True)


def test_collector_that_asks_for_a_client_certificate(
    tls: tuple[str, str, str], certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The right one is accepted; the cure of none, and of one of another authority, names it."""
    protocol, _, endpoint = tls
    client, stranger = certificates.client, certificates.stranger
    wrong = {"client_certificate": stranger.certificate_file, "client_key": stranger.key_file}
    right = {"client_certificate": client.certificate_file, "client_key": client.key_file}
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(certificates.ca_file))
    # gRPC does not show why the collector has ended the connection.
    expected = "closed" if protocol == "grpc" else "client certificate"
    for files in ({}, wrong):
        outcome, cure = tls_outcome(monkeypatch, protocol, endpoint, **files)
        assert outcome == expected
        assert "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY" in cure
    assert tls_outcome(monkeypatch, protocol, endpoint, **right) == ("accepted", "")

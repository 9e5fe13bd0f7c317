"""How an application reaches a collector that is not open to all: by environment variables."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.certificates import Certificates, make_certificates
from tests.support.otlp_receiver import OTLPReceiver

from .conftest import arrive
from .outage_app import application, goes_on
from .servers import ROOT, Collector, Jaeger, eventually

TOKEN = "correct-horse-battery-staple"  # noqa: S105  # of this test alone


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> Certificates:
    """Make an authority that is trusted and one that is not."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def jaeger(tmp_path_factory) -> Iterator[Jaeger]:
    """Run Jaeger for all of these tests."""
    with Jaeger(tmp_path_factory.mktemp("jaeger")) as server:
        yield server


def collector_for(
    kind: str, directory: Path, jaeger: Jaeger, loki: OTLPReceiver, certificates: Certificates
) -> Collector:
    """Return a collector that makes demands, with the files that are shipped for them."""
    env = {
        "COLLECTOR_TOKEN": TOKEN,
        "COLLECTOR_TLS_CERT_FILE": str(certificates.server.certificate_file),
        "COLLECTOR_TLS_KEY_FILE": str(certificates.server.key_file),
    }
    if "mtls" in kind:
        env["COLLECTOR_TLS_CLIENT_CA_FILE"] = str(certificates.ca_file)
    files = [ROOT / "collector-config.yaml"]
    files += [ROOT / "stack/collector/tls.yaml"] if "tls" in kind else []
    files += [ROOT / "stack/collector/token.yaml"] if "token" in kind else []
    return Collector(directory, jaeger.otlp_endpoint, loki.http_endpoint, files, env)


def endpoint(collector: Collector, kind: str, protocol: str) -> dict[str, str]:
    """Return the variables that say where to, and how."""
    address = collector.grpc_endpoint if protocol == "grpc" else collector.http_endpoint
    if "tls" in kind:
        address = address.replace("http://", "https://")
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": address, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}


def credentials(kind: str, certificates: Certificates) -> dict[str, str]:
    """Return the variables that the collector's demands are met with."""
    env = {}
    if "tls" in kind:
        env["OTEL_EXPORTER_OTLP_CERTIFICATE"] = str(certificates.ca_file)
    if "mtls" in kind:
        env["OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"] = str(certificates.client.certificate_file)
        env["OTEL_EXPORTER_OTLP_CLIENT_KEY"] = str(certificates.client.key_file)
    if "token" in kind:
        env["OTEL_EXPORTER_OTLP_HEADERS"] = f"authorization=Bearer%20{TOKEN}"
    return env


@pytest.fixture(scope="module", params=["plain", "tls", "mtls", "token", "mtls+token"])
def demanding(request, jaeger, certificates, tmp_path_factory) -> Iterator[tuple[str, Collector]]:
    """A collector, and what it asks of its clients."""
    kind = request.param
    directory = tmp_path_factory.mktemp(kind)
    with (
        OTLPReceiver(grpc=False) as loki,
        collector_for(kind, directory, jaeger, loki, certificates) as collector,
    ):
        yield kind, collector


@pytest.mark.parametrize("compression", ["none", "gzip"])
@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_by_environment_variables_alone(
    run_app, demanding, jaeger, certificates, protocol, compression
):
    """Everything arrives, over each protocol, with and without compression, and nothing is said."""
    kind, collector = demanding
    env = endpoint(collector, kind, protocol) | credentials(kind, certificates)
    env["OTEL_EXPORTER_OTLP_COMPRESSION"] = compression
    ran = run_app(f"{kind}-{protocol.partition('/')[0]}-{compression}", env, 1)
    assert ran.stderr == ""
    assert ran.flushed
    arrive(jaeger, ran)


class Wrong(NamedTuple):
    """Something that is wrong.

    Attributes:
        kind: What the collector asks for.
        variables: What the application has for an answer.
        reason: A pattern of the message, over HTTP and over gRPC.
        repair: Variables of the collector's with which it is right, and what it asks for then.
    """

    kind: str
    variables: Callable[[Certificates], dict[str, str]]
    reason: tuple[str, str]
    repair: Callable[[Certificates], dict[str, str]]


WRONG = {
    "the collector's certificate is a stranger's": Wrong(
        "tls",
        lambda them: {"OTEL_EXPORTER_OTLP_CERTIFICATE": str(them.stranger_ca_file)},
        ("CERTIFICATE_VERIFY_FAILED", "CERTIFICATE_VERIFY_FAILED"),
        lambda them: {
            "COLLECTOR_TLS_CERT_FILE": str(them.stranger_server.certificate_file),
            "COLLECTOR_TLS_KEY_FILE": str(them.stranger_server.key_file),
        },
    ),
    "no certificate of the client's": Wrong(
        "mtls",
        lambda them: {"OTEL_EXPORTER_OTLP_CERTIFICATE": str(them.ca_file)},
        (r"SSL\w*Error", "gRPC UNAVAILABLE: .*TSI_"),
        lambda _: {"COLLECTOR_TLS_CLIENT_CA_FILE": ""},
    ),
    "the client's certificate is a stranger's": Wrong(
        "mtls",
        lambda them: {
            "OTEL_EXPORTER_OTLP_CERTIFICATE": str(them.ca_file),
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": str(them.stranger.certificate_file),
            "OTEL_EXPORTER_OTLP_CLIENT_KEY": str(them.stranger.key_file),
        },
        # A refused client may find the connection closed before the alert with the reason.
        (r"SSL\w*Error", "gRPC UNAVAILABLE: .*TSI_"),
        lambda them: {"COLLECTOR_TLS_CLIENT_CA_FILE": str(them.stranger_ca_file)},
    ),
    "a wrong token": Wrong(
        "token",
        lambda _: {"OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20wrong"},
        ("HTTP 401 Unauthorized", "UNAUTHENTICATED"),
        lambda _: {"COLLECTOR_TOKEN": "wrong"},
    ),
}


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_said_once_and_nothing_is_lost(
    run_app, jaeger, certificates, protocol, what, tmp_path
):
    """Tasks go on, one line names the destination and the reason; put right, all of it arrives."""
    wrong = WRONG[what]
    service = f"{what} {protocol}"
    with OTLPReceiver(grpc=False) as loki:
        collector = collector_for(wrong.kind, tmp_path, jaeger, loki, certificates)
        env = endpoint(collector, wrong.kind, protocol) | wrong.variables(certificates)
        env |= {"OTEL_METRICS_EXPORTER": "none", "OTEL_SERVICE_NAME": service}
        with collector, application(tmp_path, collector, 4, **env) as running:
            eventually(lambda: running.stderr)
            goes_on(tmp_path)
            assert jaeger.trace_ids(service) == set()
            collector.stop()
            collector.env |= wrong.repair(certificates)
            collector.start()
            ran = running.finished(service)
            assert ran.flushed
            arrive(jaeger, ran)
    # gRPC's own library has its say besides, with a level, a date and a place in its source.
    lines = ran.stderr.splitlines()
    began, ended = (line for line in lines if not re.match(r"[EIW]\d{4} [\d:.]+ ", line))
    address = re.escape(env["OTEL_EXPORTER_OTLP_ENDPOINT"])
    reason = wrong.reason[protocol == "grpc"]
    assert re.match(f"Telemetry does not get through to {address}\\S*: .*{reason}", began), began
    assert re.match(f"Telemetry gets through to {address}\\S* again", ended), ended

"""Every configuration that is shipped, or shown in the documentation, is valid."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.certificates import make_certificates
from tests.support.otlp_receiver import OTLPReceiver
from tests.support.processes import clean_environment

from . import compose
from .programs import COLLECTOR, JAEGER, PROMETHEUS
from .servers import ROOT, Collector, Jaeger, Server

SHIPPED = ROOT / "collector-config.yaml"
OVERLAYS = ("sampling", "tls", "token")
TIERS = (
    ("agent",),
    ("agent", "agent-kafka"),
    (None, "gateway-kafka"),
    (None, "sampling", "gateway-kafka"),
)
# What these have no default for: a collector that listens to all with a token that everybody
# knows would be worse than one that does not start.
SECRETS = {
    "COLLECTOR_TOKEN": "secret",
    "COLLECTOR_TLS_CERT_FILE": "/certificate.pem",
    "COLLECTOR_TLS_KEY_FILE": "/key.pem",
}
COMBINATIONS = [
    combination
    for length in range(len(OVERLAYS) + 1)
    for combination in itertools.combinations(OVERLAYS, length)
]


def run(*command: str | Path, env: dict[str, str] | None = None):
    """Run a program to its end."""
    return subprocess.run(
        [str(word) for word in command],
        env=clean_environment(env),
        capture_output=True,
        text=True,
        check=False,
    )


def validate(*files: Path, env: dict[str, str] | None = None) -> str:
    """Return what the collector has against these files, merged: nothing if they are valid."""
    done = run(
        COLLECTOR.directory / "otelcol",
        "validate",
        *(f"--config={file}" for file in files),
        env={**SECRETS, **(env or {})},
    )
    assert (done.returncode == 0) == (done.stderr == "")
    return done.stderr


def file_of(name: str | None) -> Path:
    """Return the path of a file in ``stack/collector``, or of what they are merged over."""
    return SHIPPED if name is None else ROOT / "stack" / "collector" / f"{name}.yaml"


def test_every_file_for_the_collector_is_tested_here():
    """A file that is added to those that are shipped is validated too."""
    there = {file.stem for file in (ROOT / "stack" / "collector").iterdir()}
    assert there == {*OVERLAYS, *itertools.chain(*TIERS)} - {None}


@pytest.mark.parametrize("names", COMBINATIONS, ids="+".join)
def test_collectors_configuration_is_valid_with_each_overlay(names):
    """Alone, and with any of the files that are to be merged over it, in any combination."""
    assert validate(SHIPPED, *(file_of(name) for name in names)) == ""


@pytest.mark.parametrize("names", TIERS, ids=str)
def test_configurations_of_tiers_are_valid(names):
    """Agents and gateways, with and without Kafka between them."""
    assert validate(*(file_of(name) for name in names)) == ""


def test_validation_would_find_an_unknown_name(tmp_path):
    """The collector that validates is strict: a wrong key is an error."""
    wrong = SHIPPED.read_text(encoding="utf-8").replace("block_on_overflow", "blocking")
    (tmp_path / "wrong.yaml").write_text(wrong, encoding="utf-8")
    assert "has invalid keys: blocking" in validate(tmp_path / "wrong.yaml")


def blocks_of_the_documentation() -> list[tuple[str, str]]:
    """Return the YAML that pages show, each with its page and its first line."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [
        (page.name, block)
        for page in pages
        for block in re.findall(r"```yaml\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    ]


def shown_as(*names: str) -> list[str]:
    """Return the blocks that are files with these names, by their first lines."""
    blocks = blocks_of_the_documentation()
    by_name = [(re.match(r"# ([\w.-]+)\n", block), block) for _, block in blocks]
    return [block for name, block in by_name if name and name[1] in names]


def test_every_configuration_that_is_shown_is_tested():
    """Each names its file in its first line, and one of the next tests uses it."""
    tested = shown_as("more-receivers.yaml", "prometheus.yaml", "docker-compose.override.yml")
    assert sorted(block for _, block in blocks_of_the_documentation()) == sorted(tested)


@pytest.mark.parametrize("block", shown_as("more-receivers.yaml"))
def test_what_is_shown_for_the_collector_is_valid(block, tmp_path):
    """Merged over what is shipped."""
    (tmp_path / "shown.yaml").write_text(block, encoding="utf-8")
    assert validate(SHIPPED, tmp_path / "shown.yaml") == ""


@pytest.mark.parametrize("block", shown_as("prometheus.yaml"))
def test_what_is_shown_for_prometheus_is_valid(block, tmp_path):
    """Added to what is shipped."""
    shipped = (ROOT / "stack" / "prometheus.yaml").read_text(encoding="utf-8")
    rules = str(ROOT / "stack" / "prometheus-rules.yaml")
    assert "- prometheus-rules.yaml\n" in shipped
    whole = shipped.replace("- prometheus-rules.yaml\n", f"- {rules}\n") + block
    (tmp_path / "prometheus.yaml").write_text(whole, encoding="utf-8")
    done = run(PROMETHEUS.directory / "promtool", "check", "config", tmp_path / "prometheus.yaml")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", shown_as("docker-compose.override.yml"))
def test_what_is_shown_for_compose_is_valid(block, tmp_path):
    """Together with what is shipped; the collector's files are where they are mounted."""
    override = tmp_path / "docker-compose.override.yml"
    override.write_text(block, encoding="utf-8")
    both = (compose.SHIPPED, override)
    assert "the token that clients must send" in compose.read(*both).stderr
    env = {"COLLECTOR_TOKEN": SECRETS["COLLECTOR_TOKEN"]}
    collector = compose.services_of(*both, **env)["collector"]
    mounted = {it["target"]: it["source"] for it in collector["volumes"] if it["type"] == "bind"}
    files = [Path(it.partition("=")[2]) for it in collector["command"]]
    found = [
        Path(mounted.get(str(file)) or f"{mounted[str(file.parent)]}/{file.name}") for file in files
    ]
    assert found == [SHIPPED, file_of("tls"), file_of("token")]
    assert validate(*found, env=collector["environment"]) == ""


def complaints_of(server: Server) -> list[str]:
    """Return the lines of its log with a warning, an error or a deprecation."""
    lines = server.log.splitlines()
    return [line for line in lines if re.search(r"\t(warn|error)\t|(?i:deprecat)", line)]


@pytest.mark.parametrize("names", COMBINATIONS, ids="+".join)
def test_no_configuration_uses_a_name_that_is_deprecated(names, tmp_path):
    """The collector warns of nothing while it starts, runs and stops."""
    certificates = make_certificates(tmp_path)
    env = {
        "COLLECTOR_TOKEN": "secret",
        "COLLECTOR_TLS_CERT_FILE": str(certificates.server.certificate_file),
        "COLLECTOR_TLS_KEY_FILE": str(certificates.server.key_file),
    }
    files = [SHIPPED, *(file_of(name) for name in names)]
    with OTLPReceiver() as receiver:
        jaeger = receiver.grpc_endpoint.removeprefix("http://")
        # It handles signals a moment after it is ready. One that comes before ends it at once.
        for _ in range(5):
            with Collector(tmp_path, jaeger, receiver.http_endpoint, files, env) as collector:
                pass
            if "Shutdown complete" in collector.log:
                break
    assert complaints_of(collector) == []
    assert "Everything is ready" in collector.log
    assert "Shutdown complete" in collector.log


@pytest.mark.parametrize("names", TIERS, ids=str)
def test_no_configuration_of_a_tier_uses_a_name_that_is_deprecated(names, tmp_path):
    """The collector logs none of these, although it cannot reach its backends."""
    env = {"GATEWAY_HOST": "127.0.0.1", "KAFKA_BROKER": "127.0.0.1:1"}
    files = [file_of(name) for name in names]
    with Collector(tmp_path, "127.0.0.1:1", "http://127.0.0.1:1", files, env) as collector:
        pass
    assert [line for line in complaints_of(collector) if "deprecat" in line.lower()] == []
    assert "Everything is ready" in collector.log


def test_jaegers_configuration_uses_no_name_that_is_deprecated(tmp_path):
    """Jaeger warns of nothing but that its pages are not built into the one of the tests."""
    with Jaeger(tmp_path) as jaeger:
        assert jaeger.trace_ids("nobody") == set()
    assert [line.split("\t")[3] for line in complaints_of(jaeger)] == [
        "ui assets not embedded in the binary, using a placeholder"
    ]


def test_jaegers_configuration_is_valid():
    """By Jaeger's own word."""
    done = run(JAEGER.directory / "jaeger", "validate", f"--config={ROOT / 'stack/jaeger.yaml'}")
    assert done.returncode == 0, done.stderr
    json.loads((ROOT / "stack" / "jaeger-ui.json").read_text(encoding="utf-8"))


def test_prometheus_configuration_is_valid():
    """The configuration, and the rules that it names, by the linter's word too."""
    promtool = PROMETHEUS.directory / "promtool"
    done = run(
        promtool, "check", "config", "--lint=all", "--lint-fatal", ROOT / "stack/prometheus.yaml"
    )
    assert done.returncode == 0, done.stderr
    assert "1 rule files found" in done.stdout

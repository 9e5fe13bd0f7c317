"""The Compose files with real containers: Docker Compose, Podman, and images of our programs."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import requests
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from rocketry_otel import open_repository
from tests.support.processes import run_command

from .compose import SHIPPED, WITH_VICTORIA_LOGS, services_of
from .containers import Engine, missing_for_containers
from .namespace import own_network
from .servers import eventually

PROJECT = "rocketry-otel"
JAEGER = "http://localhost:16686"
HEALTH = "http://localhost:13133"
PROMETHEUS = "http://localhost:9090"
GRAFANA = "http://localhost:3000"
VICTORIA_LOGS = "http://localhost:9428"


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> Iterator[Engine]:
    """An engine with all images, in a network of its own; all of the tests here run in that."""
    missing = missing_for_containers()
    if missing:
        reason = f"containers need what is not here: {', '.join(missing)}"
        if os.environ.get("REQUIRE_ALL_TESTS") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    with own_network(), Engine(tmp_path_factory.mktemp("engine")) as engine:
        engine.make_images()
        yield engine


@pytest.fixture(scope="module")
def up(engine) -> Engine:
    """The stack, as `docker compose up -d` starts it."""
    engine.compose("up", "--detach")
    wait_for(HEALTH, f"{JAEGER}/api/v3/services", f"{PROMETHEUS}/-/ready", GRAFANA)
    return engine


def answers(url: str) -> bool:
    """Return whether something answers, and well."""
    with suppress(requests.RequestException):
        return requests.get(url, timeout=2).ok
    return False


def wait_for(*urls: str) -> None:
    """Wait until all of them answer."""
    for url in urls:
        eventually(lambda url=url: answers(url), 60, f"An answer of {url}")


def demo(directory: Path) -> list[Any]:
    """Run the demo without any setting but its repository, and return what is stored there."""
    repository = f"sqlite:///{directory}/tasks.db"
    command = [sys.executable, "-m", "rocketry_otel", "demo", "--seconds=2"]
    done = run_command([*command, f"--repo={repository}"])
    assert done.returncode == 0, done.stderr
    records = open_repository(repository).filter_by().all()
    assert {"success", "fail", "terminate", "inaction"} <= {record.action for record in records}
    return records


def wait_for_traces(records: list[Any]) -> None:
    """Wait until Jaeger has the trace of each run."""
    missing = {record.trace_id for record in records if record.action != "run"}
    assert missing

    def all_there() -> bool:
        for trace_id in list(missing):
            if answers(f"{JAEGER}/api/v3/traces/{trace_id}"):
                missing.remove(trace_id)
        return not missing

    eventually(all_there, 60, "Arrival of all traces")


def wait_for_lines(directory: Path, records: list[Any]) -> None:
    """Wait until the stand-in for Loki has the log record of each stored record."""
    expected = {(f"rocketry.task.{it.action}", it.trace_id, it.span_id) for it in records}

    def found() -> set[tuple[str, str, str]]:
        return {
            (it.event_name, it.trace_id.hex(), it.span_id.hex())
            for file in directory.glob("*.logs")
            for resource in ExportLogsServiceRequest.FromString(file.read_bytes()).resource_logs
            for scope in resource.scope_logs
            for it in scope.log_records
        }

    eventually(lambda: found() >= expected, 60, f"Arrival of {len(expected)} log records")


def runs_counted() -> float:
    """Return how many runs Prometheus has numbers of."""
    query = {"query": "sum(last_over_time(rocketry_task_duration_seconds_count[1h]))"}
    answer = requests.get(f"{PROMETHEUS}/api/v1/query", params=query, timeout=5).json()
    return sum(float(it["value"][1]) for it in answer["data"]["result"])


def process_of(engine: Engine, service: str) -> int:
    """Return the process that is a service's container; 0 while it is not running."""
    return engine.inspect(f"{PROJECT}-{service}-1")["State"]["Pid"]


def test_demo_arrives_in_all_three_places(up, tmp_path):
    """Every trace, every log record, and every run in a number, without any setting."""
    records = demo(tmp_path)
    wait_for_traces(records)
    wait_for_lines(up.volume(f"{PROJECT}_loki"), records)
    ended = sum(record.action != "run" for record in records)
    eventually(lambda: runs_counted() == ended, 60, f"{ended} runs in Prometheus")


def test_ports_are_open_on_the_loopback_interface_alone(up):
    """Each that is published answers there, and not on the address that containers see."""
    (network,) = up.inspect(f"{PROJECT}-collector-1")["NetworkSettings"]["Networks"].values()
    published = [
        (port["host_ip"], int(port["published"]))
        for service in services_of(SHIPPED).values()
        for port in service.get("ports", [])
    ]
    assert Counter(host for host, _ in published) == {"127.0.0.1": 6}
    for host, port in published:
        socket.create_connection((host, port), timeout=5).close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((network["Gateway"], port), timeout=5)


def test_service_that_dies_is_started_again(up):
    """The engine does that, and the collector is there as before."""
    before = process_of(up, "collector")
    os.kill(before, signal.SIGKILL)
    eventually(lambda: process_of(up, "collector") not in {0, before}, 60, "Another collector")
    wait_for(HEALTH)


def test_volumes_outlive_the_containers(up, tmp_path):
    """What was queued when the collector was killed arrives, and what was stored is there."""
    (tmp_path / "before").mkdir()
    stored = demo(tmp_path / "before")
    wait_for_traces(stored)
    up.compose("stop", "jaeger", "loki")
    (tmp_path / "after").mkdir()
    queued = demo(tmp_path / "after")
    up.compose("kill")
    up.compose("down")
    assert up.podman("ps", "--all", "--quiet") == ""
    up.compose("up", "--detach")
    wait_for_traces(stored + queued)
    wait_for_lines(up.volume(f"{PROJECT}_loki"), stored + queued)


def test_victoria_logs_takes_the_place_of_loki(up, tmp_path):
    """Its file merged over the other: all log lines are there, and Loki is not started."""
    # A service of a profile is no orphan: it would go on.
    up.compose("down")
    up.compose("up", "--detach", files=WITH_VICTORIA_LOGS)
    wait_for(HEALTH, f"{VICTORIA_LOGS}/health")
    running = up.compose("ps", "--services", files=WITH_VICTORIA_LOGS).split()
    assert set(running) == set(services_of(*WITH_VICTORIA_LOGS))
    assert "loki" not in running
    records = demo(tmp_path)

    stored = Counter((f"rocketry.task.{it.action}", it.trace_id) for it in records)

    def found() -> Counter[tuple[str, str]]:
        query = {"query": "event_name:rocketry.task.*"}
        answer = requests.get(f"{VICTORIA_LOGS}/select/logsql/query", params=query, timeout=5)
        lines = (json.loads(line) for line in answer.content.split(b"\n") if line)
        return Counter((line["event_name"], line["trace_id"]) for line in lines)

    eventually(lambda: found() == stored, 60, f"{len(records)} lines")

"""Agent, Kafka, two gateways: nothing is lost on the way, and nothing is counted twice."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.otlp_receiver import OTLPReceiver, attributes_of

from .broker import Broker
from .conftest import NUMBERS_APP, Ran
from .outage_app import application, goes_on
from .programs import KAFKA
from .servers import ROOT, Collector, Prometheus, Server, eventually
from .test_numbers import Numbers, actions_of, compare

SHIPPED = ROOT / "collector-config.yaml"
FOLDER = ROOT / "stack" / "collector"
AGENT = [FOLDER / "agent.yaml", FOLDER / "agent-kafka.yaml"]
GATEWAY = [SHIPPED, FOLDER / "gateway-kafka.yaml"]
# Seconds; an application is stopped when the test has seen enough.
AT_MOST = 200
# Processes, until each of two gateways has the metrics of one: half of them go to either.
MANY = 20
# Metrics are sent often, so that a gateway has some of each of its sources at any time.
COUNTED = {"OTEL_SERVICE_NAME": "counted", "OTEL_METRIC_EXPORT_INTERVAL": "250"}
SAMPLING_GATEWAY = [SHIPPED, FOLDER / "sampling.yaml", FOLDER / "gateway-kafka.yaml"]


@pytest.fixture(scope="module")
def broker(tmp_path_factory) -> Iterator[Broker]:
    """Run a broker; without one the tests are skipped, and fail where all must run."""
    missing = KAFKA.missing_tools if KAFKA.is_built else [KAFKA.key]
    if missing:
        reason = f"Kafka needs what is not here: {', '.join(missing)}"
        if os.environ.get("REQUIRE_ALL_TESTS") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    with Broker(tmp_path_factory.mktemp("broker")) as broker:
        yield broker


@pytest.fixture(scope="module")
def agent(broker, tmp_path_factory) -> Iterator[Collector]:
    """Run an agent that writes to the broker."""
    directory = tmp_path_factory.mktemp("agent")
    env = {"KAFKA_BROKER": broker.address}
    with Collector(directory, "unused", "unused", AGENT, env) as agent:
        yield agent


@pytest.fixture
def backends() -> Iterator[OTLPReceiver]:
    """Stand in for Jaeger and for Loki."""
    with OTLPReceiver() as receiver:
        yield receiver


def two_gateways(
    directory: Path, broker: Broker, backends: OTLPReceiver, files: list[Path], **env: str
) -> list[Collector]:
    """Return two gateways that read from the broker; they are not started yet."""
    return [
        Collector(
            directory / name,
            backends.grpc_endpoint.removeprefix("http://"),
            backends.http_endpoint,
            files,
            {"KAFKA_BROKER": broker.address, **env},
        )
        for name in ("gateway-1", "gateway-2")
    ]


@pytest.fixture
def gateways(tmp_path, broker, backends) -> Iterator[list[Collector]]:
    """Run two gateways that sample nothing."""
    first, second = two_gateways(tmp_path, broker, backends, GATEWAY)
    with first, second:
        yield [first, second]


def taken(gateway: Collector, what: str) -> int:
    """Return how much a gateway has read from the broker since its start."""
    pattern = rf'^otelcol_receiver_accepted_{what}\{{[^}}]*receiver="kafka"[^}}]*\}} (\d+)'
    return sum(int(it) for it in re.findall(pattern, gateway.own_metrics(), re.MULTILINE))


def share_the_work(gateways: list[Collector]) -> None:
    """Wait until each gateway has partitions of its own to read."""
    eventually(lambda: all(taken(it, "spans") > 0 for it in gateways), 60, "Work for both")


def traces_of(backends: OTLPReceiver, service: str) -> dict[str, list[Span]]:
    """Return the spans of a service that have arrived, by trace."""
    traces: dict[str, list[Span]] = {}
    for it in backends.spans:
        if attributes_of(it.resource.attributes)["service.name"] == service:
            traces.setdefault(it.span.trace_id.hex(), []).append(it.span)
    return traces


def log_records_of(backends: OTLPReceiver, service: str) -> set[tuple[str, str]]:
    """Return name and trace id of the log records that have arrived."""
    return {
        (it.log_record.event_name.removeprefix("rocketry.task."), it.log_record.trace_id.hex())
        for it in backends.log_records
        if attributes_of(it.resource.attributes)["service.name"] == service
    }


def all_log_records_arrive(backends: OTLPReceiver, ran: Ran) -> None:
    """Wait until the log record of every stored record has arrived; twice is as good as once."""
    stored = {(it["action"], it["trace_id"]) for it in ran.records}
    assert backends.wait_for(lambda it: log_records_of(it, ran.service) >= stored, 60)
    assert log_records_of(backends, ran.service) == stored


def test_every_run_arrives_though_each_part_is_killed(tmp_path, broker, agent, gateways, backends):
    """Broker, agent and both gateways, one after the other, while the application goes on."""
    parts: list[Server] = [*gateways, broker, agent]
    with application(tmp_path, agent, AT_MOST, OTEL_SERVICE_NAME="killed") as running:
        share_the_work(gateways)
        for part in parts:
            part.kill()
            goes_on(tmp_path)
            part.start()
        running.stop()
        ran = running.finished("killed")
    assert ran.flushed
    assert backends.wait_for(lambda it: set(traces_of(it, "killed")) >= ran.trace_ids, 60)
    assert set(traces_of(backends, "killed")) == ran.trace_ids
    all_log_records_arrive(backends, ran)


def test_gateways_sample_by_outcome(tmp_path, broker, agent, backends):
    """Each decides on whole traces, because all spans of a trace are in one partition."""
    env = {
        "COLLECTOR_LONGEST_RUN": "20s",
        "COLLECTOR_DECISION_WAIT": "200ms",
        "COLLECTOR_KEEP_PERCENT": "0",
    }
    first, second = two_gateways(tmp_path, broker, backends, SAMPLING_GATEWAY, **env)
    with first, second:
        with application(tmp_path, agent, AT_MOST, OTEL_SERVICE_NAME="thinned") as running:
            share_the_work([first, second])
            goes_on(tmp_path)
            running.stop()
            ran = running.finished("thinned")
        assert ran.flushed
        kept = {it["trace_id"] for it in ran.endings("fail") + ran.endings("hang")}
        assert backends.wait_for(lambda it: set(traces_of(it, "thinned")) >= kept, 60)
        all_log_records_arrive(backends, ran)
    # A gateway that is stopped decides on all that it has.
    found = traces_of(backends, "thinned")
    assert set(found) == kept
    for record in ran.endings("fail"):
        names = {span.name for span in found[record["trace_id"]]}
        assert names == {"run fail", "attempt"}


def all_show(gateways: list[Collector], service: str) -> bool:
    """Return whether each gateway shows metrics of a service."""
    return all(f'job="{service}"' in it.metrics() for it in gateways)


def runs_shown_by(gateway: Collector, service: str) -> int:
    """Return how many runs of a service a gateway shows."""
    pattern = rf'^rocketry_task_duration_seconds_count\{{[^}}]*job="{service}"[^}}]*\}} (\d+)'
    return sum(int(it) for it in re.findall(pattern, gateway.metrics(), re.MULTILINE))


def compare_for_a_while(
    prometheus: Prometheus, service: str, actions: list[tuple[str, str]]
) -> None:
    """Wait until the numbers are right, and see that they stay so: metrics are fetched again."""
    compare(prometheus, service, actions)
    ended = [task for task, action in actions if action != "run"]
    for _ in range(5):
        so_far = restarts_looked_for(prometheus)
        eventually(lambda so_far=so_far: restarts_looked_for(prometheus) != so_far)
        numbers = Numbers(prometheus, service)
        assert numbers.number("Runs") == len(ended)
        assert numbers.column("C") == Counter(ended)


def restarts_looked_for(prometheus: Prometheus) -> str:
    """Return when the rules have last looked for counters that began anew."""
    groups = prometheus.get("/api/v1/rules")["groups"]
    (time_of,) = (it["lastEvaluation"] for it in groups if it["name"] == "rocketry-restarts")
    return time_of


def test_runs_are_counted_once_by_two_gateways(tmp_path, agent, gateways):
    """Also where the metrics of a process that goes on move from one gateway to the other."""
    prometheus = Prometheus(tmp_path / "prometheus", gateways[0], more=gateways[1:])
    with prometheus, application(tmp_path, agent, AT_MOST, **COUNTED) as running:
        (first,) = eventually(
            lambda: [it for it in gateways if all_show([it], "counted")], 60, "Any metrics"
        )
        (second,) = (it for it in gateways if it is not first)
        # It leaves the group, and so the other one takes its partitions.
        first.stop()
        eventually(lambda: all_show([second], "counted"), 60, "Metrics at the other gateway")
        first.start()
        running.stop()
        ran = running.finished("counted")
        assert ran.flushed
        compare(prometheus, "counted", actions_of(ran))


def test_run_that_two_gateways_show_is_counted_once(tmp_path, agent, gateways):
    """A gateway comes back with old metrics of a process that another one has meanwhile."""
    env = {**COUNTED, "OTEL_SERVICE_NAME": "moved"}
    with Prometheus(tmp_path / "prometheus", gateways[0], more=gateways[1:]) as prometheus:
        with application(tmp_path, agent, AT_MOST, **env) as running:
            (first,) = eventually(
                lambda: [it for it in gateways if runs_shown_by(it, "moved")], 60, "Any run"
            )
            (second,) = (it for it in gateways if it is not first)
            # The group takes it for dead after a while, and gives its partitions to the other.
            with first.paused():
                eventually(lambda: runs_shown_by(second, "moved"), 60, "Runs at the other gateway")
            goes_on(tmp_path)
            running.stop()
            ran = running.finished("moved")
        assert ran.flushed
        compare_for_a_while(prometheus, "moved", actions_of(ran))
        older, newest = sorted(gateways, key=lambda it: runs_shown_by(it, "moved"))
        assert 0 < runs_shown_by(older, "moved") < runs_shown_by(newest, "moved")
        newest.kill()
        compare_for_a_while(prometheus, "moved", actions_of(ran))


def test_runs_of_several_processes_add_up(tmp_path, agent, gateways, run_app):
    """Each gateway has some of the spans and shows some of the processes; then one is killed."""
    repository = f"sqlite:///{tmp_path}/tasks.db"
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": agent.http_endpoint, "RUNS": "5"}

    def run(service: str, repository: str | None = None) -> list[tuple[str, str]]:
        ran = run_app(service, env, app=NUMBERS_APP, args=["3"], repository=repository)
        assert ran.flushed
        return actions_of(ran)

    with Prometheus(tmp_path / "prometheus", gateways[0], more=gateways[1:]) as prometheus:
        # A partition that moves is read twice for a moment, and spans would be counted twice.
        run_until(lambda: all(taken(it, "spans") > 0 for it in gateways), lambda: run("before"))
        before = [taken(it, "spans") for it in gateways]
        run_until(lambda: all_show(gateways, "several"), lambda: run("several", repository))
        actions = run("several", repository)
        compare(prometheus, "several", actions)
        spans = [taken(it, "spans") - so_far for it, so_far in zip(gateways, before, strict=True)]
        ended = [task for task, action in actions if action != "run"]
        assert all(spans)
        assert sum(spans) == len(ended)
        counted = 'sum(traces_span_metrics_calls_total{service_name="several"})'
        eventually(lambda: value_of(prometheus, counted) == len(ended), 60, counted)
        compare_for_a_while(prometheus, "several", actions)
        assert all_show(gateways, "several")

        gateways[0].kill()
        compare_for_a_while(prometheus, "several", actions)
        compare(prometheus, "several", run("several", repository))


def run_until(seen: Callable[[], bool], run: Callable[[], Any]) -> None:
    """Run an application again and again: each process has a partition of its own for its metrics.

    Raises:
        AssertionError: If nothing is seen after many of them.
    """
    for _ in range(MANY):
        run()
        if seen():
            return
    raise AssertionError(f"Not seen after {MANY} processes")


def value_of(prometheus: Prometheus, expression: str) -> float | None:
    """Return the number that an expression has now, if it has one."""
    found = prometheus.query(expression)
    return float(found[0]["value"][1]) if found else None


def test_large_message_is_taken(agent, gateways):
    """The metrics of a process are one message: those of many tasks exceed a megabyte."""
    tasks = 10_000
    request = ExportMetricsServiceRequest()
    resource = request.resource_metrics.add()
    attribute = resource.resource.attributes.add(key="service.name")
    attribute.value.string_value = "large"
    metric = resource.scope_metrics.add().metrics.add(name="rocketry.task.last_success", unit="s")
    now = time.time_ns()
    for number in range(tasks):
        point = metric.gauge.data_points.add(time_unix_nano=now, as_double=number)
        label = point.attributes.add(key="task_name")
        label.value.string_value = f"{number}-{'x' * 100}"
    body = request.SerializeToString()
    assert len(body) > 1_000_000
    headers = {"Content-Type": "application/x-protobuf"}
    answer = requests.post(f"{agent.http_endpoint}/v1/metrics", body, headers=headers, timeout=10)
    assert answer.ok

    def shown() -> int:
        return sum(it.metrics().count('job="large"') for it in gateways)

    eventually(lambda: shown() >= tasks, 60, "Arrival of the metrics of all tasks")

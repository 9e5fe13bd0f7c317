"""Sampling by outcome, and the tiers that it takes in a larger place."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.otlp_receiver import OTLPReceiver, attributes_of

from .conftest import arrive
from .servers import ROOT, Collector, Jaeger, eventually

SHIPPED = ROOT / "collector-config.yaml"
SAMPLING = ROOT / "stack" / "collector" / "sampling.yaml"
AGENT = ROOT / "stack" / "collector" / "agent.yaml"
# Short waits; and slow is what takes longer than the shortest timeout that Rocketry knows.
QUICK = {"COLLECTOR_LONGEST_RUN": "20s", "COLLECTOR_DECISION_WAIT": "200ms"}


def traces_of(receiver: OTLPReceiver) -> dict[str, list]:
    """Return the spans that got through, by trace."""
    traces: dict[str, list] = {}
    for it in receiver.spans:
        traces.setdefault(it.span.trace_id.hex(), []).append(it.span)
    return traces


@pytest.mark.parametrize(
    ("env", "kept"),
    [
        # None of the others: only what failed, and what was terminated.
        ({"COLLECTOR_KEEP_PERCENT": "0"}, {"fail", "hang"}),
        # Of the successes those that are slow: extract sleeps for 10 ms.
        ({"COLLECTOR_KEEP_PERCENT": "0", "COLLECTOR_SLOW_MS": "10"}, {"fail", "hang", "extract"}),
        # All of the others.
        (
            {"COLLECTOR_KEEP_PERCENT": "100"},
            {"clock", "extract", "fail", "hang", "idle", "load"},
        ),
    ],
    ids=["failed", "slow", "all"],
)
def test_what_is_kept_depends_on_the_outcome(run_app, tmp_path, env, kept):
    """All runs of the tasks that fail or are slow, whole; of the others the share that is asked."""
    with OTLPReceiver() as receiver:
        jaeger = receiver.grpc_endpoint.removeprefix("http://")
        with Collector(
            tmp_path, jaeger, receiver.http_endpoint, [SHIPPED, SAMPLING], QUICK | env
        ) as collector:
            # An idle run may be as slow as extract where the machine is busy.
            ran = run_app("sampled", {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.http_endpoint}, 4)
            expected = {it["trace_id"] for task in kept for it in ran.endings(task)}
            assert expected
            eventually(lambda: set(traces_of(receiver)) >= expected, 30)
            # When it is stopped it decides on all that it has.
            collector.stop()
            collector.start()
            stored = len(ran.records)
            assert receiver.wait_for(lambda it: len(it.log_records) >= stored)
        found = traces_of(receiver)
        tasks = {
            attributes_of(span.attributes).get("task_name")
            for spans in found.values()
            for span in spans
        } - {None}
        slow = {"COLLECTOR_SLOW_MS"} & set(env)
        assert tasks == kept if not slow else tasks >= kept
        assert set(found) >= expected
        for record in ran.endings("extract"):
            if record["trace_id"] in found:
                names = {span.name for span in found[record["trace_id"]]}
                assert names == {"run extract", "download", "unpack"}
        # Log records are not thinned out.
        assert len(receiver.log_records) == len(ran.records)


def test_span_metrics_count_what_is_thinned_out(run_app, tmp_path):
    """Jaeger's Monitor page shows all runs, whatever share of the traces is kept."""
    with OTLPReceiver() as receiver:
        jaeger = receiver.grpc_endpoint.removeprefix("http://")
        env = QUICK | {"COLLECTOR_KEEP_PERCENT": "0"}
        files = [SHIPPED, SAMPLING]
        with Collector(tmp_path, jaeger, receiver.http_endpoint, files, env) as collector:
            ran = run_app("counted", {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.http_endpoint}, 2)

            def counted() -> int:
                lines = [
                    line
                    for line in collector.metrics().splitlines()
                    if line.startswith("traces_span_metrics_calls_total{")
                    and 'span_name="run load"' in line
                ]
                return sum(int(line.rpartition(" ")[2]) for line in lines)

            eventually(lambda: counted() == len(ran.endings("load")) > 0)


def test_agent_sends_to_the_gateway(run_app, tmp_path: Path):
    """By way of both, with the gateway away at first, all three signals arrive."""
    with OTLPReceiver(grpc=False) as loki, Jaeger(tmp_path / "jaeger") as jaeger:
        gateway = Collector(tmp_path / "gateway", jaeger.otlp_endpoint, loki.http_endpoint)
        env = {
            "GATEWAY_HOST": "127.0.0.1",
            "GATEWAY_PORT": gateway.grpc_endpoint.rpartition(":")[2],
        }
        with Collector(tmp_path / "agent", "unused", "unused", [AGENT], env) as agent:
            ran = run_app("tiers", {"OTEL_EXPORTER_OTLP_ENDPOINT": agent.http_endpoint}, 2)
            assert ran.flushed
            agent.kill()
            with gateway:
                agent.start()
                arrive(jaeger, ran)
                assert loki.wait_for(lambda it: len(it.log_records) >= len(ran.records), 30)
                eventually(lambda: "rocketry_task_duration_seconds_count" in gateway.metrics())

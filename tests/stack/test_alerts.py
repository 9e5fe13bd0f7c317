"""Each alert fires when its fault is played, and only then."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from tests.support.otlp_receiver import Ok, OTLPReceiver, Status
from tests.support.processes import clean_environment

from .dashboard import filled_in, panel_of, targets
from .fast_rules import RULES, SPEED, fast_rules
from .programs import PROMETHEUS
from .servers import Collector, Jaeger, Prometheus, eventually

APP = Path(__file__).with_name("fault_app.py")
# The jobs of what is fetched from the collector itself.
COLLECTORS = ("collector", "applications")
ALERTS = {
    rule["alert"]
    for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
    if "alert" in rule
}


def test_rules_fire_when_they_should_and_only_then():
    """Hours of faults, and of what only looks like one, by Prometheus's own test of rules."""
    file = Path(__file__).with_name("prometheus-rules-test.yaml")
    done = subprocess.run(
        [PROMETHEUS.directory / "promtool", "test", "rules", file],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    played = file.read_text(encoding="utf-8")
    assert {alert for alert in ALERTS if f'alertname="{alert}"' in played} == ALERTS


@contextmanager
def application(file: Path, service: str, env: dict[str, str]) -> Iterator[subprocess.Popen]:
    """Run the application that follows a file."""
    process = subprocess.Popen(
        [sys.executable, str(APP), str(file)],
        env=clean_environment(
            {"OTEL_SERVICE_NAME": service, "OTEL_METRIC_EXPORT_INTERVAL": "200", **env}
        ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=APP.parents[2],
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


class Fast:
    """A stack of its own, with fast rules."""

    def __init__(self, directory: Path, loki: OTLPReceiver) -> None:
        self.loki = loki
        self.jaeger = Jaeger(directory / "jaeger")
        self.collector = Collector(
            directory / "collector", self.jaeger.otlp_endpoint, loki.http_endpoint
        )
        self.prometheus = Prometheus(directory / "prometheus", self.collector, fast_rules())

    def firing(self, service: str) -> set[tuple[str, str]]:
        """Return the alerts that fire of a service, and of the collector, each with its job.

        Of the services of tests before it is known for hours that they are silent.
        """
        alerts = self.prometheus.get("/api/v1/alerts")["alerts"]
        named = {
            (alert["labels"]["alertname"], alert["labels"]["job"])
            for alert in alerts
            if alert["state"] == "firing"
        }
        return {(name, job) for name, job in named if job in {service, *COLLECTORS}}

    def wait_for(self, service: str, *alerts: str, of_the_collector: Sequence[str] = ()) -> None:
        """Wait until exactly these fire."""
        expected = {(alert, service) for alert in alerts}
        expected |= {(alert, "collector") for alert in of_the_collector}
        eventually(lambda: self.firing(service) == expected, 90, f"Firing of {expected} alone")

    def wait_until_known(self, service: str) -> None:
        """Wait until there is a usual interval and duration of the task, and nothing fires."""
        for name in ("rocketry:task_interval:mean7d", "rocketry:task_duration_seconds:mean7d"):
            query = f'{name}{{job="{service}"}} > 0'
            eventually(lambda query=query: self.prometheus.query(query), 60, query)
        self.wait_for(service)


@pytest.fixture(scope="module")
def fast(tmp_path_factory) -> Iterator[Fast]:
    """The stack with fast rules."""
    directory = tmp_path_factory.mktemp("fast")
    with OTLPReceiver(grpc=False) as loki:
        stack = Fast(directory, loki)
        with stack.jaeger, stack.collector, stack.prometheus:
            yield stack


@pytest.fixture
def to(fast):
    """Variables that lead to the collector."""
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": fast.collector.http_endpoint}


def test_nothing_is_changed_in_the_fast_rules_but_time():
    """There are as many rules, and every length of time is another."""
    slow = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    quick = yaml.safe_load(fast_rules())["groups"]
    assert [len(group["rules"]) for group in quick] == [len(group["rules"]) for group in slow]
    text = fast_rules()
    assert "7d]" not in text
    assert "[10080s]" in text
    assert "for: 10s" in text


def test_healthy_application_fires_nothing(fast, to, tmp_path):
    """It works for half an hour of the rules' time, and every table has its rows."""
    with application(tmp_path / "fault", "healthy", to):
        fast.wait_until_known("healthy")
        end = time.monotonic() + 1800 / SPEED
        fired = eventually(lambda: fast.firing("healthy") or time.monotonic() > end, 60)
        assert fired is True
        for target in targets("prometheus"):
            if ":mean7d" in target["expr"]:
                assert fast.prometheus.query(filled_in(target["expr"], "healthy"))
        health = fast.prometheus.get("/api/v1/rules")["groups"]
        assert {rule["health"] for group in health for rule in group["rules"]} == {"ok"}


def test_task_that_fails(fast, to, tmp_path):
    """Its failures are too many and its last success is too long ago; then the latter ends."""
    fault = tmp_path / "fault"
    with application(fault, "failing", to):
        fast.wait_until_known("failing")
        fault.write_text("fail", encoding="utf-8")
        fast.wait_for("failing", "RocketryTaskFailing", "RocketryTaskNotSucceeding")
        table = [it for it in targets("prometheus") if it["title"].startswith("Alerts that")]
        shown = fast.prometheus.query(filled_in(table[0]["expr"], "failing"))
        rows = {(it["metric"]["job"], it["metric"].get("task_name")) for it in shown}
        assert ("failing", "etl") in rows
        fault.unlink()
        fast.wait_for("failing", "RocketryTaskFailing")


def test_run_that_hangs(fast, to, tmp_path):
    """It hangs, and so the task does not succeed any more; the scheduler goes on."""
    fault = tmp_path / "fault"
    with application(fault, "hanging", to):
        fast.wait_until_known("hanging")
        fault.write_text("hang", encoding="utf-8")
        fast.wait_for("hanging", "RocketryRunHangs", "RocketryTaskNotSucceeding")
        fault.unlink()
        fast.wait_for("hanging")


def test_scheduler_that_is_killed(fast, to, tmp_path):
    """It is silent; that its task does not succeed is said too."""
    with application(tmp_path / "fault", "killed", to) as process:
        fast.wait_until_known("killed")
        process.kill()
        fast.wait_for("killed", "RocketrySchedulerSilent", "RocketryTaskNotSucceeding")


def test_jaeger_stops(fast, to, tmp_path):
    """What waits behind the collector is said, and no more so when Jaeger is back."""
    with application(tmp_path / "fault", "jaegerless", to):
        fast.wait_until_known("jaegerless")
        fast.jaeger.stop()
        fast.wait_for("jaegerless", of_the_collector=["RocketryTelemetryWaiting"])
        fast.jaeger.start()
        fast.wait_for("jaegerless")


def elsewhere(receiver: OTLPReceiver) -> dict[str, str]:
    """Return the variable with which traces go elsewhere, and all else to the collector."""
    return {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{receiver.http_endpoint}/v1/traces"}


def test_traces_wait_in_the_application(fast, to, tmp_path):
    """It reports them while they wait, and no longer once they are accepted."""
    with OTLPReceiver(grpc=False) as refusing:
        refusing.behave(Status(503))
        with application(tmp_path / "fault", "waiting", to | elsewhere(refusing)):
            fast.wait_for("waiting", "RocketryTelemetryWaiting")
            refusing.behave(Ok())
            fast.wait_for("waiting")


def test_telemetry_is_refused_for_good(fast, to, tmp_path):
    """A destination that takes one request and refuses the next: what it refuses is lost."""
    with OTLPReceiver(grpc=False) as refusing:
        refusing.behave(lambda number, _: Status(400) if number % 2 else Ok())
        with application(tmp_path / "fault", "refused", to | elsewhere(refusing)):
            fast.wait_for("refused", "RocketryTelemetryLost")


def test_collector_stops(fast, to, tmp_path):
    """It is down, and while it is no other alert is believed: the scheduler seems to be silent."""
    with application(tmp_path / "fault", "collectorless", to):
        fast.wait_until_known("collectorless")
        fast.collector.stop()
        try:
            eventually(
                lambda: (
                    {
                        ("RocketryCollectorDown", "applications"),
                        ("RocketryCollectorDown", "collector"),
                    }
                    <= fast.firing("collectorless")
                ),
                60,
                "Firing of RocketryCollectorDown",
            )
        finally:
            fast.collector.start()
        eventually(
            lambda: (
                "RocketryCollectorDown" not in {name for name, _ in fast.firing("collectorless")}
            ),
            60,
            "End of RocketryCollectorDown",
        )


def test_backend_refuses_for_good(fast, to, tmp_path):
    """The collector drops what it has accepted; the alert and the panel have the same number.

    The last test of this file: for an hour, here a minute, the alert is true.
    """
    fast.loki.behave(Status(400))
    with application(tmp_path / "fault", "refusing-backend", to):
        eventually(
            lambda: ("RocketryTelemetryRefused", "collector") in fast.firing("refusing-backend"),
            60,
            "Firing of RocketryTelemetryRefused",
        )
        (spans, logs) = panel_of("Refused by the backends")["targets"]
        shown = fast.prometheus.query(filled_in(logs["expr"], "refusing-backend"))
        assert {it["metric"].get("exporter"): float(it["value"][1]) > 0 for it in shown} == {
            "otlp_http/loki": True,
            None: False,
        }
        (none,) = fast.prometheus.query(filled_in(spans["expr"], "refusing-backend"))
        assert none["value"][1] == "0"
    alerts = fast.prometheus.get("/api/v1/alerts")["alerts"]
    (refused,) = (it for it in alerts if it["labels"]["alertname"] == "RocketryTelemetryRefused")
    assert (refused["labels"]["exporter"], refused["labels"]["signal"]) == (
        "otlp_http/loki",
        "logs",
    )
    assert refused["annotations"]["summary"].startswith("otlp_http/loki has refused ")

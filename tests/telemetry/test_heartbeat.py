from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

import pytest

from rocketry_otel._telemetry import heartbeat as heartbeat_module
from rocketry_otel._telemetry.heartbeat import CYCLE_BUCKETS, Heartbeat

if TYPE_CHECKING:
    from rocketry_otel.testing import TelemetryCapture


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


def shown(telemetry: TelemetryCapture) -> dict[str, Any]:
    """Return the values and units of the scheduler's metrics, as a collector reads them."""
    data = telemetry._reader.get_metrics_data()
    if data is None:
        return {}
    return {
        metric.name: (metric.unit, [(dict(p.attributes), p.value) for p in metric.data.data_points])
        for of_resource in data.resource_metrics
        for of_scope in of_resource.scope_metrics
        for metric in of_scope.metrics
    }


def test_cycles_are_counted_and_timed(
    telemetry: TelemetryCapture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both numbers are read when they are collected, with units and no attributes."""
    clock = Clock()
    monkeypatch.setattr("rocketry_otel._telemetry.heartbeat.time", clock)
    heartbeat = Heartbeat()
    heartbeat.show(telemetry.meter_provider)
    heartbeat.beat()
    heartbeat.beat()
    clock.now = 102.5
    assert shown(telemetry) == {
        "rocketry.scheduler.cycles": ("{cycle}", [({}, 2)]),
        "rocketry.scheduler.time_since_cycle": ("s", [({}, 2.5)]),
    }
    clock.now = 200.0
    heartbeat.beat()
    assert shown(telemetry) == {
        "rocketry.scheduler.cycles": ("{cycle}", [({}, 3)]),
        "rocketry.scheduler.time_since_cycle": ("s", [({}, 0.0)]),
    }


def test_unused_scheduler_has_no_metrics(telemetry: TelemetryCapture) -> None:
    """A handler without a scheduler must not raise an alert about a dead one."""
    Heartbeat().show(telemetry.meter_provider)
    assert shown(telemetry) == {}


def test_scheduler_metrics_have_their_own_scope(telemetry: TelemetryCapture) -> None:
    """The scope is ``rocketry_otel.scheduler``."""
    heartbeat = Heartbeat()
    heartbeat.show(telemetry.meter_provider)
    heartbeat.beat()
    data = telemetry._reader.get_metrics_data()
    assert [of.scope.name for of in data.resource_metrics[0].scope_metrics] == [
        "rocketry_otel.scheduler"
    ]


def durations(telemetry: TelemetryCapture) -> list[tuple[int, float]]:
    """Return number and sum of the cycles' durations."""
    points = telemetry.metric_points("rocketry.scheduler.cycle.duration")
    return [(point.count, point.sum) for point in points]


def test_cycles_are_measured_when_collected(telemetry: TelemetryCapture) -> None:
    """Also those before the providers were found; the buckets reach from 1 ms to 1 h."""
    heartbeat = Heartbeat()
    heartbeat.took(0.5)
    heartbeat.show(telemetry.meter_provider)
    heartbeat.took(2.0)
    (point,) = telemetry.metric_points("rocketry.scheduler.cycle.duration")
    assert (point.count, point.sum, dict(point.attributes)) == (2, 2.5, {})
    assert point.explicit_bounds == CYCLE_BUCKETS
    assert (CYCLE_BUCKETS[0], CYCLE_BUCKETS[-1]) == (0.001, 3600.0)


@pytest.mark.parametrize("interpreter", ["alive", "ending"])
def test_rare_collections_keep_few_cycles(
    telemetry: TelemetryCapture, monkeypatch: pytest.MonkeyPatch, interpreter: str
) -> None:
    """A thread measures them, or the scheduler if the interpreter is ending."""
    started: list[str] = []

    def start(work: Any, name: str) -> Any:
        started.append(name)
        if interpreter == "ending":
            return None
        work()
        return object()

    monkeypatch.setattr(heartbeat_module, "start_thread", start)
    heartbeat = Heartbeat()
    heartbeat.show(telemetry.meter_provider)
    for _ in range(heartbeat_module._MOST_NOTES + 1):
        heartbeat.took(1.0)
    assert started == ["measure"]
    assert list(heartbeat._durations) == [1.0]
    assert durations(telemetry) == [(1001, 1001.0)]


def test_forked_child_measures_no_cycle_of_its_parent(telemetry: TelemetryCapture) -> None:
    """The parent does."""
    heartbeat = Heartbeat()
    heartbeat.took(1.0)
    child = os.fork()
    if not child:
        os._exit(len(heartbeat._durations))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    heartbeat.show(telemetry.meter_provider)
    assert durations(telemetry) == [(1, 1.0)]


def test_error_of_a_provider_does_not_stop_the_scheduler(
    telemetry: TelemetryCapture, caplog: pytest.LogCaptureFixture
) -> None:
    """The application may have brought any provider."""

    class Broken:
        def record(self, seconds: float) -> None:
            raise RuntimeError(seconds)

    heartbeat = Heartbeat()
    heartbeat.took(1.0)
    heartbeat._duration = Broken()  # type: ignore[assignment]
    with caplog.at_level(logging.DEBUG, "rocketry_otel"):
        heartbeat._measure()
    assert "the cycles could not be measured" in caplog.text

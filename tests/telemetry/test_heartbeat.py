from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rocketry_otel._telemetry.heartbeat import Heartbeat

if TYPE_CHECKING:
    import pytest

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

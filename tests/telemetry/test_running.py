from __future__ import annotations

from typing import Any

from rocketry_otel._telemetry.running import RunningRun, show_running
from rocketry_otel.testing import TelemetryCapture


def values(telemetry: TelemetryCapture, name: str) -> dict[Any, float]:
    """Return the values of a gauge by task."""
    points = telemetry.metric_points(name)
    assert all(set(point.attributes) == {"task_name"} for point in points)
    return {point.attributes["task_name"]: point.value for point in points}


def test_gauges_show_the_oldest_run_of_each_task(telemetry: TelemetryCapture) -> None:
    """Of the runs of a task, the oldest one with a progress is shown; ended runs are not."""
    runs = [
        RunningRun("etl", 5.0, 0.5),
        RunningRun("etl", 9.0, 0.25),
        RunningRun("etl", 11.0, None),
        RunningRun("etl", 2.0, 0.75),
        RunningRun("report", 1.5, None),
        RunningRun("empty", 1.0, 0.0),
    ]
    show_running(telemetry.meter_provider.get_meter("x"), lambda: runs)
    assert values(telemetry, "rocketry.task.oldest_active") == {
        "etl": 11.0,
        "report": 1.5,
        "empty": 1.0,
    }
    assert values(telemetry, "rocketry.task.progress") == {"etl": 0.25, "empty": 0.0}
    runs.clear()
    assert values(telemetry, "rocketry.task.oldest_active") == {}
    assert values(telemetry, "rocketry.task.progress") == {}

import os
import time
from datetime import datetime, timezone

import pytest
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from redbird.repos import MemoryRepo

from rocketry_otel import Delivery, OTelRepoHandler, SignalDelivery
from rocketry_otel._export.counters import Counters
from rocketry_otel._export.own_providers import OwnMeterProvider
from rocketry_otel._telemetry.metrics import DURATION_BUCKETS, TaskMetrics
from rocketry_otel.testing import TelemetryCapture
from tests.support.records import START, raised, task_record


def handler_of(telemetry: TelemetryCapture) -> OTelRepoHandler:
    """Return a handler with a repository in memory."""
    return OTelRepoHandler(MemoryRepo(model=dict), **telemetry.providers)


def test_duration_is_in_buckets_of_seconds(telemetry: TelemetryCapture) -> None:
    """The buckets reach from 10 ms to 6 h, by task and ending."""
    handler = handler_of(telemetry)
    handler.handle(task_record("run", run_id="r1"))
    handler.handle(task_record("success", run_id="r1", created=START + 90))
    handler.handle(task_record("run", run_id="r2"))
    error = raised(ValueError("boom"))
    handler.handle(task_record("fail", run_id="r2", created=START + 0.5, exc_info=error))
    points = telemetry.metric_points("rocketry.task.duration")
    assert [(dict(point.attributes), point.count, point.sum) for point in points] == [
        ({"task_name": "etl", "rocketry.action": "success"}, 1, 90.0),
        (
            {"task_name": "etl", "rocketry.action": "fail", "error.type": "ValueError"},
            1,
            pytest.approx(0.5, abs=1e-6),
        ),
    ]
    assert points[0].explicit_bounds == DURATION_BUCKETS
    assert (DURATION_BUCKETS[0], DURATION_BUCKETS[-1]) == (0.01, 6 * 3600)
    exemplar = points[0].exemplars[0]
    assert exemplar.trace_id == telemetry.spans[0].context.trace_id


def test_active_counts_open_runs(telemetry: TelemetryCapture) -> None:
    """A beginning adds one, an ending subtracts one; a second or single ending changes nothing."""
    handler = handler_of(telemetry)
    handler.handle(task_record("run", run_id="r1"))
    handler.handle(task_record("run", run_id="r2"))
    handler.handle(task_record("success", run_id="r1"))
    handler.handle(task_record("fail", run_id="r1"))
    handler.handle(task_record("fail", run_id="r3"))
    (point,) = telemetry.metric_points("rocketry.task.active")
    assert (dict(point.attributes), point.value) == ({"task_name": "etl"}, 1)


def test_active_ignores_uncounted_runs(telemetry: TelemetryCapture) -> None:
    """A run carried over, or found in the repository, was never added."""
    handler = handler_of(telemetry)
    handler.take_over(dict(vars(task_record("run", run_id="r1")), message="m"))
    handler.handle(task_record("success", run_id="r1"))
    assert telemetry.metric_points("rocketry.task.active") == []
    assert len(telemetry.spans) == 1


def test_last_success_is_a_time(telemetry: TelemetryCapture) -> None:
    """It is in seconds since the epoch, of the newest success; a failure changes nothing."""
    handler = handler_of(telemetry)
    handler.handle(task_record("success", run_id="r1", created=START + 1))
    handler.handle(task_record("fail", run_id="r2", created=START + 2))
    (point,) = telemetry.metric_points("rocketry.task.last_success")
    assert (dict(point.attributes), point.value) == ({"task_name": "etl"}, START + 1)


def test_single_ending_has_zero_duration(telemetry: TelemetryCapture) -> None:
    """Failed setups are in the numbers that alerts read."""
    handler_of(telemetry).handle(task_record("fail", run_id=None))
    (point,) = telemetry.metric_points("rocketry.task.duration")
    assert (point.count, point.sum) == (1, 0.0)


def test_outcomes_are_shown_by_signal(telemetry: TelemetryCapture) -> None:
    """Spans and log records are counted apart, each in its own unit."""
    handler = handler_of(telemetry)
    handler.handle(task_record("run", run_id="r1"))
    counters = handler._bridge.pipeline.counters
    counters.add("traces", "delivered", 3)
    counters.add("logs", "delivered", 5)
    counters.add("logs", "dropped", 2, "queue_full")
    data = telemetry._reader.get_metrics_data()
    shown = {
        (metric.name, metric.unit, tuple(sorted(point.attributes.items())), point.value)
        for of_scope in data.resource_metrics[0].scope_metrics
        for metric in of_scope.metrics
        if metric.name.startswith("rocketry.bridge.")
        for point in metric.data.data_points
    }
    assert shown == {
        ("rocketry.bridge.delivered", "{span}", (("signal", "traces"),), 3),
        ("rocketry.bridge.delivered", "{record}", (("signal", "logs"),), 5),
        (
            "rocketry.bridge.dropped",
            "{record}",
            (("reason", "queue_full"), ("signal", "logs")),
            2,
        ),
        ("rocketry.bridge.waiting", "{span}", (("signal", "traces"),), 0),
        ("rocketry.bridge.waiting", "{record}", (("signal", "logs"),), 0),
        ("rocketry.bridge.waiting_time", "s", (("signal", "traces"),), 0.0),
        ("rocketry.bridge.waiting_time", "s", (("signal", "logs"),), 0.0),
    }


def test_waiting_items_are_shown_with_their_age(telemetry: TelemetryCapture) -> None:
    """A clock that was set back makes no age negative."""
    now = time.time()
    logs = SignalDelivery(waiting=3, oldest_waiting=datetime.fromtimestamp(now - 60, timezone.utc))
    traces = SignalDelivery(
        waiting=1, oldest_waiting=datetime.fromtimestamp(now + 3600, timezone.utc)
    )
    TaskMetrics(telemetry.meter_provider, Counters(), lambda: Delivery(traces, logs))
    waiting = telemetry.metric_points("rocketry.bridge.waiting")
    assert {point.attributes["signal"]: point.value for point in waiting} == {
        "traces": 1,
        "logs": 3,
    }
    ages = {
        point.attributes["signal"]: point.value
        for point in telemetry.metric_points("rocketry.bridge.waiting_time")
    }
    assert ages["traces"] == 0.0
    assert 60.0 <= ages["logs"] < 80.0


def test_instruments_have_their_units(telemetry: TelemetryCapture) -> None:
    """Names and units are those of the contract."""
    handler = handler_of(telemetry)
    handler.handle(task_record("run", run_id="r1"))
    handler.handle(task_record("success", run_id="r1"))
    data = telemetry._reader.get_metrics_data()
    units = {
        metric.name: metric.unit
        for of_scope in data.resource_metrics[0].scope_metrics
        for metric in of_scope.metrics
        if metric.name.startswith("rocketry.task.")
    }
    assert units == {
        "rocketry.task.duration": "s",
        "rocketry.task.active": "{run}",
        "rocketry.task.last_success": "s",
    }


def test_earlier_success_is_shown_at_the_start(telemetry: TelemetryCapture) -> None:
    """It is shown for each task that has a success in the repository."""
    handler = handler_of(telemetry)
    for name, action, created in [
        ("etl", "success", START),
        ("etl", "fail", START + 5),
        ("report", "fail", START),
        ("old", "success", START),
    ]:
        handler.repo.add({"task_name": name, "action": action, "created": created})
    handler._bridge.start(["etl", "report", "new"])
    (point,) = telemetry.metric_points("rocketry.task.last_success")
    assert (dict(point.attributes), point.value) == ({"task_name": "etl"}, START)
    handler.handle(task_record("success", run_id="r1", created=START + 60))
    (point,) = telemetry.metric_points("rocketry.task.last_success")
    assert point.value == START + 60
    assert not telemetry.spans[1:]
    assert telemetry.metric_points("rocketry.task.active") == []


def test_start_counts_no_run(telemetry: TelemetryCapture) -> None:
    """Runs of an earlier process make no duration, log record or span."""
    handler = handler_of(telemetry)
    handler.repo.add({"task_name": "etl", "action": "success", "created": START})
    handler._bridge.start(["etl"])
    assert telemetry.metric_points("rocketry.task.duration") == []
    assert telemetry.spans == []
    assert telemetry.log_records == []


def test_forked_child_measures_nothing() -> None:
    """The SDK's locks may be held at the fork; the parent goes on measuring."""
    reader = InMemoryMetricReader()
    provider = OwnMeterProvider([reader], shutdown_on_exit=False)
    metrics = TaskMetrics(provider, Counters(), Delivery)
    metrics.succeeded("etl", int(START * 1e9))
    pid = os.fork()
    if pid == 0:
        before = type(metrics._last_success).__name__
        metrics.succeeded("etl", 1)
        data = reader.get_metrics_data()
        (point,) = data.resource_metrics[0].scope_metrics[0].metrics[0].data.data_points
        os._exit(0 if before.startswith("NoOp") and point.value == START else 1)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    metrics._measure_nothing()
    assert type(metrics._last_success).__name__ == "NoOpGauge"
    provider.shutdown()

import os
import threading
import time
from datetime import datetime, timezone
from types import SimpleNamespace

import pytest
from opentelemetry.sdk.metrics import MeterProvider
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
        kind = type(metrics._last_success).__name__
        metrics.succeeded("etl", 1)
        metrics.measure()
        os._exit(0 if kind == "NoOpGauge" and not metrics._notes else 1)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert type(metrics._last_success).__name__ == "_Gauge"
    assert last_success_in(reader) == [START]


def last_success_in(reader: InMemoryMetricReader) -> list[float]:
    """Return the values of ``rocketry.task.last_success`` that a reader collects."""
    return [
        point.value
        for of_scope in reader.get_metrics_data().resource_metrics[0].scope_metrics
        for metric in of_scope.metrics
        if metric.name == "rocketry.task.last_success"
        for point in metric.data.data_points
    ]


def test_child_does_not_measure_for_its_parent(telemetry: TelemetryCapture) -> None:
    """On a provider of the application, a child measures only what it has noted itself."""
    metrics = TaskMetrics(telemetry.meter_provider, Counters(), Delivery)
    metrics.succeeded("etl", int(START * 1e9))
    metrics._start_in_child()  # the same call as in a child, without a fork
    assert telemetry.metric_points("rocketry.task.last_success") == []
    metrics.succeeded("other", int(START * 1e9))
    (point,) = telemetry.metric_points("rocketry.task.last_success")
    assert dict(point.attributes) == {"task_name": "other"}


def test_handlers_that_share_a_provider_are_added_up(telemetry: TelemetryCapture) -> None:
    """Both are measured and counted, under one series of each name."""
    first, second = handler_of(telemetry), handler_of(telemetry)
    for handler, dropped in ((first, 2), (second, 3)):
        handler.handle(task_record("run", run_id="r1"))
        handler._bridge.pipeline.counters.add("logs", "dropped", dropped, "queue_full")
    handler.handle(task_record("success", run_id="r1", created=START + 1))
    (active,) = telemetry.metric_points("rocketry.task.active")
    (duration,) = telemetry.metric_points("rocketry.task.duration")
    (dropped_in_all,) = telemetry.metric_points("rocketry.bridge.dropped")
    assert (active.value, duration.count, dropped_in_all.value) == (1, 1, 5)


def test_provider_without_hash_is_measured() -> None:
    """A provider of the application may be of any class."""

    class Strange(MeterProvider):
        __hash__ = None  # type: ignore[assignment]

    reader = InMemoryMetricReader()
    metrics = TaskMetrics(Strange([reader], shutdown_on_exit=False), Counters(), Delivery)
    metrics.succeeded("etl", int(START * 1e9))
    assert last_success_in(reader) == [START]


@pytest.mark.parametrize("can_start", [True, False])
def test_rare_collections_keep_few_notes(
    can_start: object, monkeypatch: pytest.MonkeyPatch, telemetry: TelemetryCapture
) -> None:
    """After a thousand runs another thread measures them; at the end of the program, this one."""
    measured = threading.Event()
    measure = TaskMetrics.measure

    def note(self: TaskMetrics) -> None:
        measure(self)
        measured.set()

    monkeypatch.setattr(TaskMetrics, "measure", note)
    if not can_start:
        monkeypatch.setattr("rocketry_otel._telemetry.metrics.start_thread", lambda *_: None)
    handler = handler_of(telemetry)
    for number in range(1000):
        assert not measured.is_set()
        handler.handle(task_record("success", run_id=f"r{number}"))
    assert measured.wait(20.0)
    metrics = handler._bridge.pipeline.wake().metrics
    assert not metrics._notes
    (point,) = telemetry.metric_points("rocketry.task.duration")
    assert point.count == 1000


def test_error_of_a_view_is_counted(telemetry: TelemetryCapture) -> None:
    """It comes when metrics are collected, and costs nothing else."""
    lost: list[tuple[str, str]] = []

    def broken(*_: object) -> None:
        raise RuntimeError("a view of the user's")

    metrics = TaskMetrics(
        telemetry.meter_provider,
        Counters(),
        Delivery,
        lambda signal, error: lost.append((signal, str(error))),
    )
    metrics._last_success = SimpleNamespace(set=broken)  # type: ignore[assignment]
    metrics.succeeded("etl", 1)
    assert telemetry.metric_points("rocketry.bridge.waiting") != []
    assert lost == [("metrics", "a view of the user's")]

"""Metrics of tasks and of the scheduler, read from OTLP as a collector does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
from rocketry import Rocketry

from rocketry_otel import (
    OTelRepoHandler,
    Settings,
    TaskEventRecord,
    instrument,
    open_repository,
    uninstrument,
)
from tests.support import apps
from tests.support.apps import make_app, run_tasks, start_method
from tests.support.otlp_receiver import OTLPReceiver, attributes_of

Instrument = Callable[..., OTelRepoHandler]

BUCKETS = [
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
    *(60, 120, 300, 600, 1800, 3600, 7200, 14400, 21600),
]


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[OTLPReceiver]:
    """Where our own providers send to, metrics every 20 ms."""
    with OTLPReceiver(grpc=False) as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.http_endpoint)
        monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "20")
        yield receiver


@pytest.fixture
def instrumented(receiver: OTLPReceiver) -> Iterator[Callable[..., OTelRepoHandler]]:
    """``instrument``, undone while the receiver still listens."""
    applications: list[Any] = []

    def instrument_it(app: Any, **options: Any) -> OTelRepoHandler:
        applications.append(app)
        return instrument(app, settings=Settings(global_providers=False), **options)

    yield instrument_it
    for app in applications:
        uninstrument(app)


def points(receiver: OTLPReceiver, name: str) -> list[Any]:
    """Return the data points of a metric, the oldest first."""
    found: list[Any] = []
    for _, _, metric in receiver.metrics:
        if metric.name == name:
            found += getattr(metric, metric.WhichOneof("data")).data_points
    return found


def newest(receiver: OTLPReceiver, name: str) -> dict[tuple[Any, ...], Any]:
    """Return the newest data point of a metric for each set of attributes."""
    return {
        tuple(sorted(attributes_of(point.attributes).items())): point
        for point in points(receiver, name)
    }


def value(point: Any) -> Any:
    """Return the value of a number."""
    return getattr(point, point.WhichOneof("value"))


@contextmanager
def running(app: Rocketry) -> Iterator[None]:
    """Run the scheduler on a thread within the block."""
    thread = threading.Thread(target=app.run)
    thread.start()
    try:
        yield
    finally:
        app.session.shut_down()
        thread.join(60)
        assert not thread.is_alive()


@pytest.mark.parametrize("execution", ["main", "async", "thread", "process"])
def test_durations_lead_to_traces_and_nothing_stays_active(
    execution: str, receiver: OTLPReceiver, instrumented: Instrument
) -> None:
    """Buckets are from 10 ms to 6 h, exemplars name the run, and no run is active."""
    with start_method("fork"):
        app = make_app()
        handler = instrumented(app)
        app.session.create_task(func=apps.succeed, name="good", execution=execution)
        app.session.create_task(func=apps.fail, name="bad", execution=execution)
        run_tasks(app, "good", "bad")
    assert handler.flush(10)
    records = {(it.task_name, it.action): it for it in handler.repo.filter_by().all()}
    assert len(records) == 4
    found = newest(receiver, "rocketry.task.duration")
    assert set(found) == {
        (("rocketry.action", "success"), ("task_name", "good")),
        (("error.type", "ValueError"), ("rocketry.action", "fail"), ("task_name", "bad")),
    }
    for key, point in found.items():
        attributes = dict(key)
        began = records[attributes["task_name"], "run"]
        ended = records[attributes["task_name"], attributes["rocketry.action"]]
        seconds = ended.created - began.created
        assert list(point.explicit_bounds) == BUCKETS
        assert (point.count, point.sum) == (1, pytest.approx(seconds, abs=1e-6))
        place = sum(seconds > bound for bound in BUCKETS)
        assert list(point.bucket_counts) == [int(i == place) for i in range(len(BUCKETS) + 1)]
        # An exemplar is sent once, not with every later collection.
        (exemplar,) = [
            exemplar
            for earlier in points(receiver, "rocketry.task.duration")
            if tuple(sorted(attributes_of(earlier.attributes).items())) == key
            for exemplar in earlier.exemplars
        ]
        assert exemplar.trace_id.hex() == began.trace_id
        assert exemplar.span_id.hex() == began.span_id
        assert exemplar.as_double == point.sum
    active = newest(receiver, "rocketry.task.active")
    assert {key: value(point) for key, point in active.items()} == {
        (("task_name", "good"),): 0,
        (("task_name", "bad"),): 0,
    }
    last = newest(receiver, "rocketry.task.last_success")
    assert {key: value(point) for key, point in last.items()} == {
        (("task_name", "good"),): pytest.approx(records["good", "success"].created, abs=1e-6)
    }


def test_run_that_goes_on_is_active(receiver: OTLPReceiver, instrumented: Instrument) -> None:
    """Of three runs of one task that overlap all three are seen, and then none."""
    release = threading.Event()
    app = make_app()
    instrumented(app)
    app.session.create_task(
        func=lambda: release.wait(60), name="etl", execution="thread", multilaunch=True
    )
    for _ in range(3):
        app.session["etl"].run()

    def active() -> int | None:
        found = newest(receiver, "rocketry.task.active")
        return value(found[("task_name", "etl"),]) if found else None

    with running(app):
        assert receiver.wait_for(lambda _: active() == 3)
        release.set()
        assert receiver.wait_for(lambda _: active() == 0)


def test_last_success_is_there_right_after_a_restart(
    tmp_path: Path, receiver: OTLPReceiver, instrumented: Instrument
) -> None:
    """At the start it comes from the repository, for this application's tasks."""
    repo = open_repository(f"sqlite:////{tmp_path}/tasks")
    for name, action, created in (
        ("good", "run", 1_700_000_000.5),
        ("good", "success", 1_700_000_001.25),
        ("good", "fail", 1_700_000_002.5),
        ("bad", "fail", 1_700_000_003.5),
        ("gone", "success", 1_700_000_004.5),
    ):
        repo.add(TaskEventRecord(task_name=name, action=action, created=created))
    app = make_app()
    instrumented(app, repo=repo)
    app.session.create_task(func=apps.succeed, name="good")
    app.session.create_task(func=apps.fail, name="bad")
    with running(app):
        assert receiver.wait_for(lambda it: newest(it, "rocketry.task.last_success"))
    found = newest(receiver, "rocketry.task.last_success")
    assert {key: value(point) for key, point in found.items()} == {
        (("task_name", "good"),): 1_700_000_001.25
    }
    assert newest(receiver, "rocketry.task.duration") == {}


def test_scheduler_is_seen_to_live_and_to_hang(
    receiver: OTLPReceiver, instrumented: Instrument
) -> None:
    """Cycles grow while it runs; while a main task blocks, only the time since a cycle grows."""
    entered, release = threading.Event(), threading.Event()

    def block() -> None:
        entered.set()
        assert release.wait(60)

    def cycles() -> list[int]:
        return [value(point) for point in points(receiver, "rocketry.scheduler.cycles")]

    def ages() -> list[float]:
        return [value(point) for point in points(receiver, "rocketry.scheduler.time_since_cycle")]

    app = make_app()
    instrumented(app)
    app.session.create_task(func=block, name="block")
    with running(app):
        assert receiver.wait_for(lambda _: len(set(cycles())) >= 3)
        assert cycles() == sorted(cycles())
        assert cycles()[0] >= 1
        assert min(ages()) < 0.5
        app.session["block"].run()
        assert entered.wait(60)
        assert receiver.wait_for(lambda _: ages()[-1] > 0.6)
        hanging = len(ages())
        assert receiver.wait_for(lambda _: len(ages()) >= hanging + 3)
        grown = ages()[hanging - 1 :]
        assert grown == sorted(grown)
        assert len(set(grown)) == len(grown)
        assert len(set(cycles()[hanging - 1 :])) == 1
        release.set()
        assert receiver.wait_for(lambda _: ages()[-1] < 0.5)
        assert receiver.wait_for(lambda _: cycles()[-1] > cycles()[hanging])
    (kind,) = {
        metric.sum.is_monotonic
        for _, _, metric in receiver.metrics
        if metric.name == "rocketry.scheduler.cycles"
    }
    assert kind is True
    units = {metric.name: metric.unit for _, _, metric in receiver.metrics}
    assert units["rocketry.scheduler.cycles"] == "{cycle}"
    assert units["rocketry.scheduler.time_since_cycle"] == "s"
    assert units["rocketry.task.active"] == "{run}"


def test_view_of_the_users_replaces_the_buckets(
    receiver: OTLPReceiver, instrumented: Instrument
) -> None:
    """On the application's own meter provider its View is obeyed, though ours advises others."""
    reader = PeriodicExportingMetricReader(
        OTLPMetricExporter(f"{receiver.http_endpoint}/v1/metrics"), 600_000
    )
    view = View(
        instrument_name="rocketry.task.duration",
        aggregation=ExplicitBucketHistogramAggregation((1, 10)),
    )
    provider = MeterProvider([reader], views=[view], shutdown_on_exit=False)
    app = make_app()
    instrumented(app, meter_provider=provider)
    app.session.create_task(func=apps.succeed, name="etl")
    run_tasks(app, "etl")
    provider.shutdown()
    # The end of the scheduler has sent them once, and the end of the provider once more.
    *_, point = points(receiver, "rocketry.task.duration")
    assert list(point.explicit_bounds) == [1, 10]
    assert list(point.bucket_counts) == [1, 0, 0]

"""Runs that report their progress, from the view of a collector."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rocketry_otel import Settings, instrument, uninstrument
from tests.support import apps
from tests.support.apps import make_app, run_tasks, start_method
from tests.support.otlp_receiver import OTLPReceiver, attributes_of

EVENT = "rocketry.task.progress"


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[OTLPReceiver]:
    """Where our own providers send to, metrics every 20 ms."""
    with OTLPReceiver(grpc=False) as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.http_endpoint)
        monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "20")
        yield receiver


def gauges(receiver: OTLPReceiver) -> list[Any]:
    """Return the values of the gauge, in the order in which they came."""
    return [
        (attributes_of(point.attributes), point.as_double)
        for _, _, metric in receiver.metrics
        if metric.name == EVENT
        for point in metric.gauge.data_points
    ]


@pytest.mark.parametrize(
    ("execution", "method"),
    [
        ("main", "fork"),
        ("async", "fork"),
        ("thread", "fork"),
        ("process", "fork"),
        pytest.param("process", "spawn", marks=pytest.mark.slow),
        pytest.param("process", "forkserver", marks=pytest.mark.slow),
    ],
)
def test_progress_arrives_while_the_run_goes_on(
    execution: Any, method: str, receiver: OTLPReceiver, tmp_path: Path
) -> None:
    """The gauge and the log record of the first report come before the body ends."""
    gate = tmp_path / "gate"
    arrived: list[bool] = []

    def open_gate() -> None:
        arrived.append(receiver.wait_for(gauges, 120))
        gate.touch()

    with start_method(method):
        app = make_app()
        handler = instrument(app, settings=Settings(global_providers=False))
        function = apps.report_progress_async if execution == "async" else apps.report_progress
        app.session.create_task(
            func=function, name="etl", execution=execution, parameters={"gate": str(gate)}
        )
        waiting = threading.Thread(target=open_gate)
        waiting.start()
        run_tasks(app, "etl")
    waiting.join()
    assert handler.flush(10)
    uninstrument(app)
    assert arrived == [True]
    assert gauges(receiver)[0] == ({"task_name": "etl"}, 0.25)
    (run,) = [one.span for one in receiver.spans if one.span.name == "run etl"]
    events = [one.log_record for one in receiver.log_records if one.log_record.event_name == EVENT]
    assert [event.body.string_value for event in events] == [
        "Task 'etl' progress: 25 of 100",
        "Task 'etl' progress: 100 of 100",
    ]
    for event, done in zip(events, (25, 100), strict=True):
        assert event.trace_id == run.trace_id
        assert event.span_id == run.span_id
        assert run.start_time_unix_nano <= event.time_unix_nano <= run.end_time_unix_nano
        assert attributes_of(event.attributes) == {
            "task_name": "etl",
            "rocketry.run_id": attributes_of(run.attributes)["rocketry.run_id"],
            "rocketry.progress.done": done,
            "rocketry.progress.total": 100,
            "rocketry.progress.ratio": done / 100,
        }

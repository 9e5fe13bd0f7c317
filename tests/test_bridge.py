from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor
from redbird.repos import MemoryRepo

from rocketry_otel import OTelRepoHandler
from rocketry_otel.testing import TelemetryCapture, capture_telemetry
from tests.support.records import START, raised, task_record

if TYPE_CHECKING:
    from collections.abc import Callable


class Evil:
    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


class EvilError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


def encoded(telemetry: TelemetryCapture) -> tuple[Any, Any]:
    """Encode all that was captured as one batch for each signal, as an exporter would."""
    resource = Resource.get_empty()
    logs = [ReadableLogRecord(record, resource) for record in telemetry.log_records]
    spans = encode_spans(telemetry.spans)
    records = encode_logs(logs)
    spans.SerializeToString()
    records.SerializeToString()
    return spans, records


texts = (
    st.text(st.characters())
    | st.sampled_from(["\ud800", "a\x00b", ""])
    | st.builds(lambda: "x" * 100_000)
)
numbers = st.integers() | st.floats() | st.sampled_from([2**64, -(2**63), 10**400, math.nan, -1.0])
objects = st.builds(Evil) | st.none() | st.binary() | st.lists(st.integers(), max_size=2)
anything = texts | numbers | objects
errors = st.builds(ValueError, texts) | st.builds(EvilError) | st.builds(KeyError, st.builds(Evil))
exc_infos = (
    anything
    | errors
    | st.builds(raised, errors)
    | st.tuples(anything, anything, anything)
    | st.tuples(st.just(ValueError), anything)
    | st.just((None, None, None))
)
actions = st.sampled_from(["run", "success", "fail", "terminate", "inaction", "crash"]) | anything
records = st.fixed_dictionaries(
    {"action": actions, "task_name": anything, "created": anything},
    optional={
        "run_id": anything,
        "exc_info": exc_infos,
        "exc_text": anything,
        "exc_type": anything,
        "exc_message": anything,
        "execution": anything,
        "attributes": anything | st.dictionaries(texts | numbers, anything, max_size=2),
        "links": anything,
        "process": anything,
        "thread": anything,
        "start": anything,
        "runtime": anything,
        "level": st.integers(-5, 100),
    },
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(records, min_size=1, max_size=4))
def test_nothing_in_a_record_raises_or_costs_its_neighbours(odd: list[dict[str, Any]]) -> None:
    """Whatever records hold, all that goes out encodes as one batch, and nothing is missing."""
    with capture_telemetry() as telemetry:
        handler = OTelRepoHandler(MemoryRepo(model=dict), **telemetry.providers)
        # The repository and the formatter may raise, as with Red Bird's own handler.
        logged = 0
        for fields in [{"action": "run", "task_name": "before", "created": START}, *odd]:
            record = task_record(None, None)
            vars(record).update(fields)
            logged += 1
            try:
                handler.emit(record)
            except Exception:  # noqa: BLE001
                assert len(telemetry.log_records) == logged
        handler.emit(task_record("success", "before", created=START + 1))
        assert handler._bridge.counts.of("logs", "dropped") == {}
        assert handler._bridge.counts.total("traces", "dropped") == (
            handler._bridge.counts.of("traces", "dropped").get("repeated_ending", 0)
        )
        spans, logs = encoded(telemetry)
        assert len(telemetry.log_records) == logged + 1
        names = [
            span.name for scopes in spans.resource_spans for scope in scopes.scope_spans
            for span in scope.spans
        ]  # fmt: skip
        assert "run before" in names
        assert len(names) == len(telemetry.spans)
        count = sum(len(scope.log_records) for of in logs.resource_logs for scope in of.scope_logs)
        assert count == logged + 1


def test_an_exception_of_10_mb_is_sent_shortened_and_stored_whole(
    telemetry: TelemetryCapture,
) -> None:
    """A collector would refuse the whole batch around it."""
    handler = OTelRepoHandler(MemoryRepo(model=dict), **telemetry.providers)
    handler.handle(task_record("fail", exc_info=raised(ValueError("x" * 10_000_000))))
    spans, logs = encoded(telemetry)
    assert len(spans.SerializeToString()) < 100_000
    assert len(logs.SerializeToString()) < 100_000
    (row,) = handler.repo.filter_by().all()
    assert len(row["exc_text"]) > 10_000_000


class Breaking(SpanProcessor):
    def on_end(self, span: Any) -> None:
        raise RuntimeError("a processor of the user's")


def test_a_broken_processor_costs_no_other_signal(
    telemetry: TelemetryCapture, caplog: pytest.LogCaptureFixture
) -> None:
    """Log records and metrics still go out, the loss is counted, and the fault is logged once."""
    telemetry.tracer_provider.add_span_processor(Breaking())
    handler = OTelRepoHandler(MemoryRepo(model=dict), **telemetry.providers)
    for number in range(2):
        handler.handle(task_record("success", run_id=f"r{number}"))
    assert len(telemetry.log_records) == 2
    assert handler._bridge.counts.of("traces", "dropped") == {"error": 2}
    assert len([record for record in caplog.records if record.name == "rocketry_otel"]) == 1


@pytest.mark.parametrize("step", ["parse_event", "log_signal", "resolve"])
def test_a_fault_of_ours_never_reaches_the_task(
    step: str, telemetry: TelemetryCapture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even then the record is stored, and what is lost is counted."""

    def broken(*_: Any) -> Any:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(f"rocketry_otel._bridge.{step}", broken)
    handler = OTelRepoHandler(MemoryRepo(model=dict), **telemetry.providers)
    logger = logging.getLogger("rocketry_otel")
    monkeypatch.setattr(logger, "disabled", True)
    handler.handle(task_record("run", run_id="r1"))
    assert [row["action"] for row in handler.repo.filter_by().all()] == ["run"]
    if step != "parse_event":
        assert handler._bridge.counts.of("logs", "dropped") == {"error": 1}


def test_given_up_and_repeated_runs_are_counted(
    telemetry: TelemetryCapture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both stand in the bridge's own metrics with their reason, and ``active`` stays exact."""
    monkeypatch.setattr("rocketry_otel._runs.OPEN_RUNS_LIMIT", 1)
    handler = OTelRepoHandler(MemoryRepo(model=dict), **telemetry.providers)
    handler._bridge._tracker._limit = 1
    handler.handle(task_record("run", run_id="r1"))
    handler.handle(task_record("run", run_id="r2"))
    handler.handle(task_record("success", run_id="r2"))
    handler.handle(task_record("fail", run_id="r2"))
    points = telemetry.metric_points("rocketry.bridge.dropped")
    assert {
        (point.attributes["signal"], point.attributes["reason"], point.value) for point in points
    } == {
        ("traces", "never_ended", 1),
        ("traces", "repeated_ending", 1),
    }
    assert [point.value for point in telemetry.metric_points("rocketry.task.active")] == [0]
    assert len(telemetry.spans) == 1
    assert len(telemetry.log_records) == 4
    assert telemetry.log_records[3].trace_id == telemetry.spans[0].context.trace_id


def test_records_of_one_run_are_encoded_the_same_each_time() -> None:
    """Two handlers that see the same records send the same bytes."""

    def send(replay: Callable[[Any], None]) -> bytes:
        with capture_telemetry() as telemetry:
            handler = OTelRepoHandler(MemoryRepo(model=dict), **telemetry.providers)
            replay(handler)
            spans, logs = encoded(telemetry)
        return spans.SerializeToString() + logs.SerializeToString()

    error = raised(ValueError("boom"))

    def replay(handler: Any) -> None:
        handler.handle(task_record("run", run_id="r1"))
        handler.handle(task_record("fail", run_id="r1", created=START + 1, exc_info=error))

    assert send(replay) == send(replay)

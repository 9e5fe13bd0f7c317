from __future__ import annotations

import json
import logging
import pickle
import threading
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import _logs, trace
from opentelemetry._logs import NoOpLoggerProvider
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import get_current_span
from redbird.repos import MemoryRepo

from rocketry_otel import OTelRepoHandler, Settings, TaskEventRecord
from rocketry_otel._export.providers import Providers
from rocketry_otel._instrumentation import child_process
from rocketry_otel._instrumentation.child_process import ChildRecords, ChildSide
from rocketry_otel._model.annotations import RunEvent
from rocketry_otel._model.event import FROM_CHILD, live_event, parse_event
from rocketry_otel._model.ids import ids_of
from rocketry_otel._model.log_lines import line_signal
from rocketry_otel._runtime import shutdown
from rocketry_otel.testing import TelemetryCapture, capture_telemetry
from tests.support.records import START, raised, task_record

if TYPE_CHECKING:
    from collections.abc import Iterator

BEGAN = parse_event({"task_name": "etl", "action": "run", "run_id": "r1", "created": START})


@pytest.fixture(autouse=True)
def _no_child_yet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let this process be a child at its beginning, and forget it afterwards."""
    monkeypatch.setattr(ChildSide, "_only", None)
    before = set(shutdown._open)
    yield
    for one in set(shutdown._open) - before:
        shutdown.forget(one)


def providers_of(telemetry: TelemetryCapture) -> Providers:
    """Return the captured providers as those of the application."""
    three = Providers(**{name[: -len("_provider")]: it for name, it in telemetry.providers.items()})
    three.borrowed.extend(telemetry.providers.values())
    return three


def handler_of(telemetry: TelemetryCapture) -> OTelRepoHandler:
    """Return a handler with its providers, as a parent has before it forks."""
    handler = OTelRepoHandler(MemoryRepo(model=TaskEventRecord), **telemetry.providers)
    handler.handle(task_record("run", "other", run_id="r0"))
    return handler


def test_run_record_is_remembered_unchanged() -> None:
    """The parent computes the same ids from it."""
    records = ChildRecords()
    assert records.began is None
    record = task_record("run", run_id="r1", process=7)
    before = dict(vars(record))
    assert records.filter(record) is True
    assert vars(record) == before
    assert records.began == parse_event(before, "Task 'etl' status: 'run'", "process")
    assert (records.began.run_id, records.began.execution) == ("r1", "process")


@pytest.mark.parametrize("action", ["success", "fail", "terminate", "inaction", "crash"])
def test_ending_carries_annotations(action: str) -> None:
    """They have one name of ours, in the JSON of a repository."""
    records = ChildRecords()
    records.filter(task_record("run", run_id="r1"))
    records.annotations.set_attribute("rows", 5)
    records.annotations.add_event("done", 7, {"k": 1})
    record = task_record(action, run_id="r1")
    assert records.filter(record) is True
    assert json.loads(vars(record)[FROM_CHILD]["attributes"]) == {"rows": 5}
    event = live_event(vars(record), record.getMessage())
    assert event.attributes == (("rows", 5),)
    assert event.events == (RunEvent("done", 7, (("k", 1),)),)


def test_ending_carries_the_exception() -> None:
    """Rocketry removes the exception, and its text may have any form."""
    records = ChildRecords()
    error = ValueError("two\n\nlines")
    record = task_record("fail", run_id="r1", exc_info=raised(error))
    records.filter(record)
    record.exc_info, record.exc_text = None, "a text that a formatter has made"
    event = live_event(vars(pickle.loads(pickle.dumps(record))), "failed")  # noqa: S301
    assert event.exception is not None
    assert (event.exception.type, event.exception.message) == ("ValueError", "two\n\nlines")
    assert event.exception.stacktrace is not None
    assert event.exception.stacktrace.startswith("Traceback (most recent call last):")


def test_ending_without_annotations_is_unchanged() -> None:
    """No field appears, and a field of the user stays."""
    records = ChildRecords()
    records.filter(task_record("run", run_id="r1"))
    record = task_record("success", run_id="r1", attributes="the user's")
    before = dict(vars(record))
    assert records.filter(record) is True
    assert vars(record) == before


@pytest.mark.parametrize("action", [None, "note"])
def test_other_records_pass_unchanged(action: str | None) -> None:
    """A log line of the body does not begin another run."""
    records = ChildRecords()
    records.filter(task_record("run", run_id="r1"))
    began = records.began
    records.annotations.set_attribute("rows", 5)
    records.annotations.add_event("done", 7, {})
    record = task_record(action, run_id="r1")
    before = dict(vars(record))
    assert records.filter(record) is True
    assert vars(record) == before
    assert records.began is began


def test_each_run_begins_without_annotations() -> None:
    """A forked child drops the state of its parent's filter."""
    records = ChildRecords()
    records.filter(task_record("run", run_id="r1"))
    records.annotations.set_attribute("rows", 5)
    records.filter(task_record("run", run_id="r2"))
    record = task_record("success", run_id="r2")
    records.filter(record)
    assert not hasattr(record, "attributes")
    assert records.began is not None
    assert records.began.run_id == "r2"


@pytest.mark.parametrize("keeps_run_id", [True, False])
def test_child_ids_equal_the_parent_s(telemetry: TelemetryCapture, *, keeps_run_id: bool) -> None:
    """They come from the run record, with the run id if the repository keeps it."""
    side = ChildSide(providers_of(telemetry), Settings())
    ids, context = side.context_of(BEGAN, keeps_run_id=keeps_run_id)
    assert ids == ids_of("etl", "r1" if keeps_run_id else None, BEGAN.created)
    span = get_current_span(context).get_span_context()
    assert (span.trace_id, span.span_id) == ids
    assert span.trace_flags.sampled
    assert not span.is_remote


def test_child_sampler_decides_as_the_parent_s() -> None:
    """A body is sampled only if its run is."""
    with capture_telemetry(sampler=ALWAYS_OFF) as telemetry:
        side = ChildSide(providers_of(telemetry), Settings())
        _, context = side.context_of(BEGAN, keeps_run_id=True)
        assert not get_current_span(context).get_span_context().trace_flags.sampled


def test_run_without_a_name_has_ids(telemetry: TelemetryCapture) -> None:
    """No record makes a child fail."""
    side = ChildSide(providers_of(telemetry), Settings())
    ids, _ = side.context_of(BEGAN._replace(task_name=None), keeps_run_id=True)
    assert ids == ids_of("", "r1", BEGAN.created)


def test_forked_child_uses_its_parent_s_providers(telemetry: TelemetryCapture) -> None:
    """The meter provider is left out, and the parent's bridge is not closed."""
    handler = handler_of(telemetry)
    bridge = handler._bridge
    assert bridge.pipeline in shutdown._open
    side = ChildSide.of(bridge, Settings())
    assert side._providers.tracer is telemetry.tracer_provider
    assert side._providers.borrowed == [telemetry.tracer_provider, telemetry.logger_provider]
    assert bridge.pipeline.providers is not None
    assert telemetry.meter_provider in bridge.pipeline.providers.borrowed
    assert bridge.pipeline not in shutdown._open
    assert side in shutdown._open
    assert ChildSide.of(None, Settings()) is side


@pytest.mark.parametrize("global_providers", [True, False])
@pytest.mark.parametrize("unconnected", [True, False])
def test_child_without_providers_finds_its_own(
    telemetry: TelemetryCapture,
    monkeypatch: pytest.MonkeyPatch,
    *,
    global_providers: bool,
    unconnected: bool,
) -> None:
    """A spawned or early child makes them global if it may."""
    made_global: list[Providers] = []
    monkeypatch.setattr(child_process, "make_global", made_global.append)
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    handler = OTelRepoHandler(MemoryRepo(model=TaskEventRecord), **telemetry.providers)
    settings = Settings(global_providers=global_providers, shutdown_timeout=3.0)
    side = ChildSide.of(handler._bridge if unconnected else None, settings)
    assert isinstance(side._providers.tracer, trace.NoOpTracerProvider)
    assert made_global == ([side._providers] if global_providers else [])
    assert side.shutdown_timeout == 3.0
    assert ChildSide.of(handler._bridge, settings) is side


class Slow(SpanProcessor):
    """A provider with a slow flush."""

    def __init__(self, takes: float = 0.0) -> None:
        self.takes = takes
        self.given: list[int] = []
        self.may_end = threading.Event()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        self.given.append(timeout_millis)
        self.may_end.wait(self.takes)
        return True


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


def test_flush_and_close_share_a_time_limit(telemetry: TelemetryCapture) -> None:
    """The time of the flush is not spent again at the child's end."""
    slow = Slow(0.3)
    telemetry.tracer_provider.add_span_processor(slow)
    side = ChildSide(providers_of(telemetry), Settings(shutdown_timeout=30.0))
    side.flush()
    assert 0.0 < side.shutdown_timeout <= 29.7
    side.flush()
    assert side.shutdown_timeout <= 29.4
    assert slow.given[1] <= 29_700 < slow.given[0] <= 30_000


def test_child_wait_is_bounded(telemetry: TelemetryCapture) -> None:
    """After the time is up, no time is left for the end, and never less than zero."""
    slow = Slow(60.0)
    telemetry.tracer_provider.add_span_processor(slow)
    side = ChildSide(providers_of(telemetry), Settings(shutdown_timeout=0.05))
    began = time.monotonic()
    side.flush()
    assert time.monotonic() - began < 30
    assert side.shutdown_timeout == 0.0
    slow.may_end.set()


@pytest.mark.parametrize("sends", [True, False])
def test_line_of_a_child_goes_to_its_provider(telemetry: TelemetryCapture, *, sends: bool) -> None:
    """Without a provider of log records it goes nowhere."""
    providers = providers_of(telemetry)
    if not sends:
        providers = replace(providers, logger=NoOpLoggerProvider())
    signal = line_signal({"created": 1.0}, "a line", "full")
    ChildSide(providers, Settings()).send_line("shop", signal, None)
    assert [line.body for line in telemetry.log_records] == (["a line"] if sends else [])


def test_child_reports_the_lines_that_it_has_dropped(
    telemetry: TelemetryCapture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They go to the parent with the record that ends the run."""
    side = ChildSide(providers_of(telemetry), Settings())
    monkeypatch.setattr(ChildSide, "_only", side)
    side.counters.add("logs", "dropped", 3, "line_queue_full")
    record = task_record("success", run_id="r1")
    ChildRecords().filter(record)
    assert vars(record)["_rocketry_otel"] == {"dropped_lines": 3}


def test_failed_flush_uses_up_its_time(
    telemetry: TelemetryCapture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error gives the child no more time to end."""
    clock = Clock()
    monkeypatch.setattr(child_process, "time", clock)
    side = ChildSide(providers_of(telemetry), Settings(shutdown_timeout=3.0))

    def broken() -> None:
        clock.now += 1.0
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(side, "_borrow_globals", broken)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        side.flush()
    assert side.shutdown_timeout == 2.0


def test_late_providers_are_flushed(
    telemetry: TelemetryCapture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The body may have set its own globally; placeholders and known ones are left alone."""
    late, late_logs = TracerProvider(shutdown_on_exit=False), LoggerProvider(shutdown_on_exit=False)
    in_force: dict[str, Any] = {"tracer": trace.ProxyTracerProvider()}
    in_force["logger"] = _logs.get_logger_provider()
    monkeypatch.setattr(
        child_process, "trace", SimpleNamespace(get_tracer_provider=lambda: in_force["tracer"])
    )
    monkeypatch.setattr(
        child_process, "_logs", SimpleNamespace(get_logger_provider=lambda: in_force["logger"])
    )
    slow = Slow()
    late.add_span_processor(slow)
    providers = providers_of(telemetry)
    before = list(providers.borrowed)
    side = ChildSide(providers, Settings())
    side.flush()
    assert providers.borrowed == before
    in_force.update(tracer=late, logger=late_logs)
    side.flush()
    side.flush()
    assert providers.borrowed == [*before, late, late_logs]
    assert len(slow.given) == 2
    in_force.update(tracer=telemetry.tracer_provider, logger=telemetry.logger_provider)
    side.flush()
    assert providers.borrowed == [*before, late, late_logs]


def test_closed_side_is_forgotten(telemetry: TelemetryCapture) -> None:
    """The end of the child does not close it a second time."""
    side = ChildSide(providers_of(telemetry), Settings())
    shutdown.remember(side)
    side.close(1.0)
    assert side not in shutdown._open


def test_child_record_becomes_the_parent_s_span(telemetry: TelemetryCapture) -> None:
    """Annotations of the body are on the span, and in the parent's record."""
    handler = OTelRepoHandler(MemoryRepo(model=TaskEventRecord), **telemetry.providers)
    logger = logging.Logger("rocketry.task._process")
    logger.addFilter(records := ChildRecords())
    logger.addHandler(handler)
    logger.handle(task_record("run", run_id="r1", name=logger.name))
    records.annotations.set_attribute("rows", 5)
    records.annotations.add_event("done", int(START * 1e9), {"k": 1})
    logger.handle(task_record("success", run_id="r1", name=logger.name, created=START + 1))
    span = telemetry.span("etl")
    assert span.attributes["rows"] == 5
    assert [(event.name, event.timestamp, dict(event.attributes)) for event in span.events] == [
        ("done", int(START * 1e9), {"k": 1})
    ]
    assert handler.repo.filter_by(action="success").last().attributes == '{"rows": 5}'


def test_unreadable_record_is_let_through() -> None:
    """The parent gets it, and the task goes on."""
    records = ChildRecords()
    record = task_record("run", run_id="r1", args=("does not fit",))
    assert records.filter(record) is True
    assert records.began is None

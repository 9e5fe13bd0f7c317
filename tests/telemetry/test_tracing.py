from __future__ import annotations

from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ParentBased,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from redbird.repos import MemoryRepo

from rocketry_otel import OTelRepoHandler
from rocketry_otel._model.annotations import RunEvent, RunLink
from rocketry_otel._model.ids import ids_of
from rocketry_otel._model.signals import SpanSignal
from rocketry_otel._telemetry.tracing import RunTracer
from rocketry_otel.testing import TelemetryCapture, capture_telemetry
from tests.support.records import START, task_record

IDENTITY = ids_of("etl", "r1", 1)
SIGNAL = SpanSignal("run etl", 1, 2, {"task_name": "etl"}, None, None)


def test_only_our_tracer_has_chosen_ids(telemetry: TelemetryCapture) -> None:
    """The application's spans on the same provider keep random ids and their sampler."""
    RunTracer(telemetry.tracer_provider, "internal").record(SIGNAL, IDENTITY, None)
    telemetry.tracer_provider.get_tracer("app").start_span("own").end()
    ours, own = telemetry.spans
    assert ours.context.trace_id == IDENTITY.trace_id
    assert ours.context.span_id == IDENTITY.span_id
    assert own.context.trace_id != IDENTITY.trace_id


def test_other_span_of_our_scope_has_random_ids(telemetry: TelemetryCapture) -> None:
    """Ids are chosen only for the span of a run."""
    tracer = RunTracer(telemetry.tracer_provider, "internal")
    tracer.record(SIGNAL, IDENTITY, None)
    other = tracer._tracer.start_span("other")
    assert other.get_span_context().trace_id not in (0, IDENTITY.trace_id)
    assert other.get_span_context().span_id not in (0, IDENTITY.span_id)


def test_two_handlers_can_share_a_provider(telemetry: TelemetryCapture) -> None:
    """The tracer is prepared once, and both choose their ids."""
    for name in ("a", "b"):
        ids = ids_of(name, None, 1)
        RunTracer(telemetry.tracer_provider, "internal").record(SIGNAL, ids, None)
    assert [span.context.trace_id for span in telemetry.spans] == [
        ids_of(name, None, 1).trace_id for name in ("a", "b")
    ]


def test_run_is_the_root_of_its_trace(telemetry: TelemetryCapture) -> None:
    """A current span around the scheduler is no parent."""
    with telemetry.tracer_provider.get_tracer("app").start_as_current_span("outer"):
        RunTracer(telemetry.tracer_provider, "internal").record(SIGNAL, IDENTITY, None)
    assert telemetry.spans[0].parent is None
    assert telemetry.spans[0].context.trace_id == IDENTITY.trace_id


@pytest.mark.parametrize(
    "make", [TraceIdRatioBased, lambda rate: ParentBased(TraceIdRatioBased(rate))]
)
def test_ratio_sampler_keeps_its_ratio(make: Any) -> None:
    """About half of 2,000 runs are kept (within 4 sigma), and their records have the flag."""
    with capture_telemetry(sampler=make(0.5)) as telemetry:
        handler = OTelRepoHandler(MemoryRepo(model=dict), **telemetry.providers)
        for number in range(2000):
            handler.handle(task_record("run", run_id=f"r{number}"))
            handler.handle(task_record("success", run_id=f"r{number}"))
        kept = {span.context.trace_id for span in telemetry.spans}
        assert abs(len(kept) - 1000) < 4 * 22.4
        for record in telemetry.log_records:
            assert record.trace_flags.sampled == (record.trace_id in kept)
        assert all(span.context.trace_flags.sampled for span in telemetry.spans)


def test_sampler_decides_once_for_a_run() -> None:
    """Its decision at the beginning holds, and it may add attributes."""

    class Once(Sampler):
        asked: list[Any] = []  # noqa: RUF012

        def should_sample(self, parent: Any, trace_id: int, name: str, *args: Any) -> Any:
            self.asked.append((trace_id, name, args))
            result = TraceIdRatioBased(1.0).should_sample(parent, trace_id, name)
            return SamplingResult(result.decision, {"sampled.by": "once"})

        def get_description(self) -> str:
            return "once"

    with capture_telemetry(sampler=Once()) as telemetry:
        handler = OTelRepoHandler(MemoryRepo(model=dict), **telemetry.providers)
        record = task_record("run", run_id="r1")
        record.name = "rocketry.task._process"
        handler.handle(record)
        assert len(Once.asked) == 1
        trace_id, name, args = Once.asked[0]
        assert name == "run etl"
        known = {"task_name": "etl", "rocketry.run_id": "r1", "rocketry.execution": "process"}
        assert args[1] == known
        handler.handle(task_record("success", run_id="r1", created=START + 1))
        assert len(Once.asked) == 1
        span = telemetry.span("etl")
        assert span.context.trace_id == trace_id
        assert span.attributes["sampled.by"] == "once"
        assert span.attributes["rocketry.action"] == "success"


def test_failing_sampler_costs_only_spans(caplog: pytest.LogCaptureFixture) -> None:
    """Log records have the ids of their run, and the loss is counted once a run."""

    class Broken(Sampler):
        def should_sample(self, *_: Any, **__: Any) -> Any:
            raise RuntimeError("a sampler of the user's")

        def get_description(self) -> str:
            return "broken"

    with capture_telemetry(sampler=Broken()) as telemetry:
        handler = OTelRepoHandler(MemoryRepo(model=dict), **telemetry.providers)
        handler.handle(task_record("run", run_id="r1"))
        handler.handle(task_record("success", run_id="r1", created=START + 1))
        assert telemetry.spans == []
        assert len(telemetry.log_records) == 2
        assert len({record.trace_id for record in telemetry.log_records} - {0}) == 1
    assert handler._bridge.pipeline.counters.of("traces", "dropped") == {"error": 1}
    assert handler._bridge.pipeline.counters.of("logs", "dropped") == {}
    assert len([record for record in caplog.records if record.name == "rocketry_otel"]) == 1


def test_unsampled_run_has_log_records() -> None:
    """Its span is missing, because only spans are sampled."""
    with capture_telemetry(sampler=ALWAYS_OFF) as telemetry:
        handler = OTelRepoHandler(MemoryRepo(model=dict), **telemetry.providers)
        handler.handle(task_record("run", run_id="r1"))
        handler.handle(task_record("success", run_id="r1"))
        assert not telemetry.spans
        assert [record.trace_flags.sampled for record in telemetry.log_records] == [False, False]


def test_other_provider_makes_its_own_ids(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A provider that is not the SDK's makes the spans, and a warning explains the ids."""
    ended: list[Any] = []

    class Collect(SpanProcessor):
        def on_end(self, span: Any) -> None:
            ended.append(span)

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Collect())

    class Wrapping(trace.Tracer):
        def start_span(self, *args: Any, **kwargs: Any) -> Any:
            return provider.get_tracer("inner").start_span(*args, **kwargs)

        start_as_current_span = start_span

    class WrappingProvider(trace.TracerProvider):
        def get_tracer(self, *_: Any, **__: Any) -> trace.Tracer:
            return Wrapping()

    tracer = RunTracer(WrappingProvider(), "internal")
    assert tracer.sampling_of(IDENTITY, "run etl", {}) is None
    tracer.record(SIGNAL, IDENTITY, None)
    assert ended[0].name == "run etl"
    assert "not the OpenTelemetry SDK's" in caplog.text


def test_noop_provider_gives_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    """A disabled SDK has such a provider."""
    tracer = RunTracer(trace.NoOpTracerProvider(), "internal")
    tracer.record(SIGNAL, IDENTITY, None)
    assert not caplog.records


def test_span_has_links_and_events(telemetry: TelemetryCapture) -> None:
    """They have their ids, kinds and times, with the exception last, dated by the signal."""
    signal = SIGNAL._replace(
        start=0,
        end=5_000,
        events=(RunEvent("a", 1, (("k", True),)), RunEvent("b", 2)),
        links=(RunLink(10, 11, "dependency"), RunLink(12, 13, "request")),
        exception={"exception.type": "ValueError"},
    )
    RunTracer(telemetry.tracer_provider, "internal").record(signal, IDENTITY, None)
    (span,) = telemetry.spans
    assert [
        (link.context.trace_id, link.context.span_id, dict(link.attributes)) for link in span.links
    ] == [
        (10, 11, {"rocketry.link": "dependency"}),
        (12, 13, {"rocketry.link": "request"}),
    ]
    assert all(link.context.is_remote for link in span.links)
    assert all(link.context.trace_flags.sampled for link in span.links)
    assert [(event.name, event.timestamp, dict(event.attributes)) for event in span.events] == [
        ("a", 1, {"k": True}),
        ("b", 2, {}),
        ("exception", 4_000, {"exception.type": "ValueError"}),
    ]


def test_run_context_holds_its_span() -> None:
    """Spans of the body are children of the later span, and sampled alike."""
    with capture_telemetry(sampler=TraceIdRatioBased(0.5)) as telemetry:
        tracer = RunTracer(telemetry.tracer_provider, "internal")
        for number in range(100):
            ids = ids_of("etl", None, number)
            sampling = tracer.sampling_of(ids, "run etl", {})
            context = tracer.context_of(ids, sampling)
            parent = trace.get_current_span(context).get_span_context()
            assert (parent.trace_id, parent.span_id) == ids
            telemetry.clear()
            tracer.record(SIGNAL, ids, sampling)
            assert parent.trace_flags.sampled == (len(telemetry.spans) == 1)


def test_sampler_keeps_its_description() -> None:
    """The description is that of the user's own sampler."""
    with capture_telemetry(sampler=TraceIdRatioBased(0.5)) as telemetry:
        tracer = RunTracer(telemetry.tracer_provider, "internal")
        assert tracer._tracer.sampler.get_description() == "TraceIdRatioBased{0.5}"
        other = RunTracer(telemetry.tracer_provider, "internal")
        assert other._sampler is tracer._sampler

"""Runs in the trace of the request that asked for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from redbird.repos import MemoryRepo
from rocketry.conditions import SchedulerCycles
from rocketry.log import MinimalRunRecord

from rocketry_otel import Settings, instrument, open_repository, replay, uninstrument
from rocketry_otel._history.run_lookup import RunLookup
from rocketry_otel._model.event import parse_event
from rocketry_otel.testing import ManualClock
from tests.support.apps import MODES, fail, make_app, start_method, succeed
from tests.support.histories import log_records_of, named_by_the_environment, spans_of
from tests.support.otlp_receiver import OTLPReceiver, attributes_of

REQUEST = 0x1234
SETTINGS = Settings(join_traces=True, log_lines=False)


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[OTLPReceiver]:
    """A receiver, named by the environment."""
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    with named_by_the_environment(monkeypatch) as receiver:
        yield receiver


def make_a_span() -> None:
    """Make a span in the body."""
    with trace.get_tracer("body").start_as_current_span("inner"):
        pass


def run_requested(app: Any, *names: str, span_id: int = 0x56, flags: int = 1) -> None:
    """Run tasks that a request has asked for, in the trace of that request."""
    context = SpanContext(REQUEST, span_id, is_remote=True, trace_flags=TraceFlags(flags))
    with trace.use_span(NonRecordingSpan(context)):
        for name in names:
            app.session[name].run()
    app.session.config.shut_cond = SchedulerCycles() >= len(names)
    app.run()


@pytest.mark.parametrize(("execution", "method"), MODES)
def test_run_is_a_child_of_its_request(execution: str, method: str, receiver: OTLPReceiver) -> None:
    """So are log records and spans of the body; a replay is the same to the byte."""
    with start_method(method):
        app = make_app(execution=execution)
        app.session.create_task(func=make_a_span, name="etl")
        handler = instrument(app, repo=open_repository("memory://"), settings=SETTINGS)
        run_requested(app, "etl")
    assert handler.flush(20)
    spans = {one.span.name: one.span for one in receiver.spans}
    run, inner = spans["run etl"], spans["inner"]
    assert int.from_bytes(run.trace_id, "big") == REQUEST
    assert int.from_bytes(run.parent_span_id, "big") == 0x56
    assert list(run.links) == []
    assert (inner.trace_id, inner.parent_span_id) == (run.trace_id, run.span_id)
    for one in receiver.log_records:
        assert (one.log_record.trace_id, one.log_record.span_id) == (run.trace_id, run.span_id)
    for record in handler.repo.filter_by().all():
        assert (record.trace_id, record.span_id) == (run.trace_id.hex(), run.span_id.hex())
        assert handler.trace_id_of(record) == run.trace_id.hex()
    live = [it for it in spans_of(receiver) if b"run etl" in it], log_records_of(receiver)
    uninstrument(app)
    receiver.clear()
    assert replay(handler.repo).complete
    assert (spans_of(receiver), log_records_of(receiver)) == live


def test_several_runs_of_one_request_are_kept_apart(receiver: OTLPReceiver) -> None:
    """They have one trace, and each its own span, also when endings find their beginnings again."""
    app = make_app(execution="main")
    app.session.create_task(func=succeed, name="etl")
    app.session.create_task(func=fail, name="load")
    handler = instrument(app, repo=open_repository("memory://"), settings=SETTINGS)
    run_requested(app, "etl", "etl", "load", "load")
    assert handler.flush(20)
    uninstrument(app)
    assert {one.span.trace_id for one in receiver.spans} == {REQUEST.to_bytes(16, "big")}
    assert len({one.span.span_id for one in receiver.spans}) == 4
    lookup = RunLookup(handler.repo)
    records = [record.dict() for record in handler.repo.filter_by().all()]
    for fields in records:
        event = parse_event(fields)
        if event.action == "run":
            continue
        began = lookup.find_beginning_again(event, fields)
        assert began is not None
        assert began.run_id == event.run_id
        assert lookup.is_first_ending(event, fields)
        assert lookup.find_beginning(event) is None  # it has ended


def links_of(receiver: OTLPReceiver) -> list[str]:
    """Return the kinds of the links of all spans; each span is the root of a trace of its own."""
    for one in receiver.spans:
        assert one.span.parent_span_id == b""
        assert int.from_bytes(one.span.trace_id, "big") != REQUEST
    links = [link for one in receiver.spans for link in one.span.links]
    return [attributes_of(link.attributes)["rocketry.link"] for link in links]


@pytest.mark.parametrize(
    ("model", "settings", "flags", "clock"),
    [
        (None, Settings(), 1, None),
        (None, SETTINGS, 0, None),
        (None, SETTINGS, 1, ManualClock()),
        (MinimalRunRecord, SETTINGS, 1, None),
    ],
)
def test_run_keeps_a_trace_of_its_own(
    model: Any, settings: Settings, flags: int, clock: Any, receiver: OTLPReceiver
) -> None:
    """It has the link: by default, without sampling, with another clock, with a small model."""
    app = make_app(execution="main", **({} if clock is None else {"time_func": clock}))
    app.session.create_task(func=succeed, name="etl")
    repo = open_repository("memory://") if model is None else MemoryRepo(model=model)
    handler = instrument(app, repo=repo, settings=settings)
    run_requested(app, "etl", flags=flags)
    assert handler.flush(20)
    uninstrument(app)
    assert links_of(receiver) == ["request"]


@pytest.mark.parametrize(("sampler", "spans"), [("parentbased_always_off", 1), ("always_off", 0)])
def test_sampler_sees_the_request(
    sampler: str, spans: int, receiver: OTLPReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request is sampled: a sampler that follows the parent samples the run."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    app = make_app(execution="main")
    app.session.create_task(func=succeed, name="etl")
    handler = instrument(app, repo=open_repository("memory://"), settings=SETTINGS)
    run_requested(app, "etl")
    assert handler.flush(20)
    uninstrument(app)
    assert len(receiver.spans) == spans
    (first, second) = (one.log_record for one in receiver.log_records)
    assert (first.flags & 1, second.flags & 1) == (spans, spans)

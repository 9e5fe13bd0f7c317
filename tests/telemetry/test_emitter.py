"""Where the spans and log records of runs are made: at once, or on the thread of a queue."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from redbird.repos import MemoryRepo

from rocketry_otel import OTelRepoHandler, TaskEventRecord
from rocketry_otel._telemetry.tracing import RunTracer
from tests.support.histories import named_by_the_environment
from tests.support.otlp_receiver import OTLPReceiver, attributes_of
from tests.support.records import START, raised, task_record


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[OTLPReceiver]:
    """A receiver, named by the environment."""
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    with named_by_the_environment(monkeypatch) as receiver:
        yield receiver


@pytest.fixture
def handler(receiver: OTLPReceiver) -> Iterator[OTelRepoHandler]:
    """A handler with providers of its own."""
    handler = OTelRepoHandler(MemoryRepo(model=TaskEventRecord))
    yield handler
    handler.close()


@pytest.fixture
def makers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the threads that make spans, by the SDK or as bytes."""
    names: list[str] = []

    def note(method: Callable[..., Any], *args: Any) -> Any:
        result = method(*args)
        how = "record" if result is None else "encode"
        if method.__name__ == how:
            names.append(f"{how} {threading.current_thread().name}")
        return result

    for method in (RunTracer.record, RunTracer.encode):
        monkeypatch.setattr(RunTracer, method.__name__, partialmethod_of(note, method))
    return names


def partialmethod_of(note: Callable[..., Any], method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method that calls ``note`` with the one it replaces."""
    return lambda *args: note(method, *args)


def run(handler: OTelRepoHandler, action: str = "success", **fields: Any) -> None:
    """Handle the two records of a run."""
    handler.handle(task_record("run", run_id="r1"))
    handler.handle(task_record(action, run_id="r1", created=START + 1, **fields))


def test_no_task_waits_for_our_own_providers(
    handler: OTelRepoHandler, receiver: OTLPReceiver, makers: list[str]
) -> None:
    """The thread that sends a span makes it."""
    run(handler)
    assert handler.flush(20.0)
    assert makers == ["encode rocketry-otel-traces"]
    assert len(receiver.spans) == 1
    assert len(receiver.log_records) == 2


def test_span_beyond_a_limit_is_made_by_the_sdk(
    monkeypatch: pytest.MonkeyPatch,
    handler: OTelRepoHandler,
    receiver: OTLPReceiver,
    makers: list[str],
) -> None:
    """It cuts it, and counts the attributes that it drops."""
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "2")
    run(handler)
    assert handler.flush(20.0)
    assert makers == ["record rocketry-otel-traces"]
    assert receiver.spans[0].span.dropped_attributes_count > 0


def test_spans_of_a_body_go_along_with_runs(
    handler: OTelRepoHandler, receiver: OTLPReceiver, makers: list[str]
) -> None:
    """One request has bytes of ours and items of the SDK, each with its resource and scope."""
    tracer = handler._bridge.pipeline.connect().providers.tracer
    tracer.get_tracer("body", "1").start_span("step").end()
    run(handler)
    assert handler.flush(20.0)
    assert makers == ["encode rocketry-otel-traces"]
    assert len(receiver.trace_requests) == 1
    assert sorted((one.span.name, one.scope.name) for one in receiver.spans) == [
        ("run etl", "rocketry_otel"),
        ("step", "body"),
    ]
    assert receiver.spans[0].resource == receiver.spans[1].resource


def test_large_event_is_cut_at_once(
    handler: OTelRepoHandler, receiver: OTLPReceiver, makers: list[str]
) -> None:
    """Many may wait: no more is kept of each than is sent."""
    run(handler, "fail", exc_info=raised(ValueError("x" * 100_000)))
    assert makers == ["record MainThread"]
    assert handler.flush(20.0)
    assert len(receiver.spans) == 1


def test_processor_of_the_application_sees_runs_at_once(
    handler: OTelRepoHandler, receiver: OTLPReceiver, makers: list[str]
) -> None:
    """It was added to our provider, which may be the global one."""
    seen: list[str] = []

    class Processor(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            seen.append(span.name)

    handler._bridge.pipeline.connect().providers.tracer.add_span_processor(Processor())
    run(handler)
    assert seen == ["run etl"]
    assert makers == ["record MainThread"]
    assert handler.flush(20.0)
    assert len(receiver.spans) == 1


@pytest.mark.parametrize(
    ("ratio", "spans", "maker"),
    [("1.0", 1, "encode rocketry-otel-traces"), ("0.0", 0, "record MainThread")],
)
def test_sampler_decides_before_the_queue(
    monkeypatch: pytest.MonkeyPatch,
    handler: OTelRepoHandler,
    receiver: OTLPReceiver,
    makers: list[str],
    ratio: str,
    spans: int,
    maker: str,
) -> None:
    """A span that is not sampled takes no room."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", ratio)
    run(handler)
    assert handler.flush(20.0)
    assert len(receiver.spans) == spans
    assert len(receiver.log_records) == 2
    assert makers == [maker]
    assert handler.delivery.traces.delivered == spans
    assert handler.delivery.traces.dropped == 0


def test_error_on_the_thread_of_a_queue_is_counted(
    monkeypatch: pytest.MonkeyPatch,
    handler: OTelRepoHandler,
    receiver: OTLPReceiver,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It costs one item; the flush is false, and one line is logged."""

    def broken(*_: object) -> None:
        raise RuntimeError("our own fault")

    with monkeypatch.context() as patch:
        patch.setattr("rocketry_otel._telemetry.emitter.span_signal", broken)
        run(handler)
        assert handler.flush(20.0) is False
    assert handler.delivery.traces.dropped == 1
    assert len(receiver.log_records) == 2
    lines = [record.getMessage() for record in caplog.records if record.name == "rocketry_otel"]
    assert "Something could not be handed over (traces)" in lines[0]
    run(handler)
    assert handler.flush(20.0) is True


@pytest.mark.parametrize(
    ("value", "events"), [(None, ["exception"]), ("logs/dup", ["exception"]), ("logs", [])]
)
def test_exception_event_follows_the_environment(
    monkeypatch: pytest.MonkeyPatch,
    handler: OTelRepoHandler,
    receiver: OTLPReceiver,
    value: str | None,
    events: list[str],
) -> None:
    """The span keeps its status and error type, and the log record the exception."""
    if value is not None:
        monkeypatch.setenv("OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN", value)
    run(handler, "fail", exc_info=raised(ValueError("boom")))
    assert handler.flush(20.0)
    (one,) = receiver.spans
    assert [event.name for event in one.span.events] == events
    assert one.span.status.message == "ValueError: boom"
    assert attributes_of(one.span.attributes)["error.type"] == "ValueError"
    record = receiver.log_records[-1].log_record
    assert attributes_of(record.attributes)["exception.message"] == "boom"

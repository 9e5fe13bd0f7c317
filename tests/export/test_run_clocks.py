"""The clock of an application gives the times of what the bodies of its tasks send."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.trace import INVALID_SPAN_CONTEXT, set_span_in_context

from rocketry_otel._export import run_clocks
from rocketry_otel._export.run_clocks import (
    RunClock,
    in_run_time,
    note_start,
    set_run_time,
    use_clock,
)
from rocketry_otel.testing import ManualClock

SECOND = 1_000_000_000
BEGAN = 1_400_000_000 * SECOND


@pytest.fixture(autouse=True)
def _no_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin without the clocks of other tests."""
    monkeypatch.setattr(run_clocks, "_clocks", {})


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    """The clock of the machine."""
    clock = ManualClock(2_000_000_000.0)
    monkeypatch.setattr(time, "time_ns", lambda: int(clock() * SECOND))
    return clock


def test_times_of_the_machine_become_times_of_the_clock(machine: ManualClock) -> None:
    """They are interpolated between its readings; a time that the body has chosen stays."""
    own = ManualClock(1_400_000_000.0)
    clock = RunClock(own, 7)
    began = time.time_ns()
    assert clock.now() == BEGAN
    machine.advance(10)
    own.advance(100)
    assert clock.now() == BEGAN + 100 * SECOND
    machine.advance(10)
    assert clock.now() == BEGAN + 100 * SECOND
    seconds = [(0, 0), (5, 50), (10, 100), (15, 100), (20, 100)]
    for passed, expected in seconds:
        assert clock.at(began + passed * SECOND) == BEGAN + expected * SECOND
    for chosen in (began - 5 * SECOND, began + 25 * SECOND, 1, BEGAN):
        assert clock.at(chosen) == chosen
    # Another clock of the machine may be a little off.
    assert clock.at(began - 1000) == BEGAN
    assert clock.at(began + 20 * SECOND + 1000) == BEGAN + 100 * SECOND


def test_clock_that_raises_costs_nothing(machine: ManualClock) -> None:
    """The time of the machine, or the last known one, stands in."""
    own = ManualClock(1_400_000_000.0)
    is_broken = False

    def read() -> float:
        if is_broken:
            raise ValueError("no time")
        return own()

    clock = RunClock(read, 7)
    is_broken = True
    assert clock.now() == BEGAN
    assert RunClock(read, 7).now() == time.time_ns()


def test_memory_of_clocks_is_bounded(machine: ManualClock, monkeypatch) -> None:
    """The newest runs have one, and each has the first and the last of its readings."""
    monkeypatch.setattr(run_clocks, "_MOST_CLOCKS", 2)
    monkeypatch.setattr(run_clocks, "_MOST_SAMPLES", 8)
    own = ManualClock(1_400_000_000.0)
    clock = RunClock(own, 7)
    began = time.time_ns()
    for _ in range(100):
        machine.advance(1)
        own.advance(1)
        clock.now()
    assert len(clock._samples) <= 8
    for passed in (0, 37, 100):
        assert clock.at(began + passed * SECOND) == BEGAN + passed * SECOND
    for trace_id in range(3):
        use_clock(trace_id, clock)
    assert list(run_clocks._clocks) == [1, 2]


def test_spans_of_a_run_have_the_times_of_its_clock() -> None:
    """So have their events; the span of the run itself, and of other traces, stay."""
    own = ManualClock(1_400_000_000.0)
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("x")
    span = tracer.start_span("body")
    context = span.get_span_context()
    assert in_run_time(span) is span
    use_clock(context.trace_id, RunClock(own, context.span_id))
    span.end()
    assert in_run_time(span) is span
    use_clock(context.trace_id, RunClock(own, 7))
    span = tracer.start_span("body", context=set_span_in_context(span))
    note_start(span)
    span.add_event("half", {"a": 1})
    own.advance(5)
    span.end()
    found = in_run_time(span)
    assert BEGAN <= found.start_time <= found.end_time == BEGAN + 5 * SECOND
    (event,) = found.events
    assert found.start_time <= event.timestamp <= found.end_time
    assert (event.name, dict(event.attributes)) == ("half", {"a": 1})
    assert span.start_time > found.start_time
    assert found.context == span.context


def test_span_with_times_of_its_own_stays() -> None:
    """The body has chosen them, or it has none."""
    clock = RunClock(ManualClock(1_400_000_000.0), 7)
    context = SimpleNamespace(trace_id=5, span_id=6)
    use_clock(5, clock)
    chosen = ReadableSpan("x", context=context, start_time=BEGAN, end_time=BEGAN + 1)
    open_span = ReadableSpan("x", context=context, start_time=BEGAN)
    without_context = ReadableSpan("x")
    for span in (chosen, open_span, without_context):
        assert in_run_time(span) is span
    note_start(ReadableSpan("x", context=INVALID_SPAN_CONTEXT))


def test_error_of_a_span_costs_nothing() -> None:
    """A span of another library's is sent as it is."""
    use_clock(5, RunClock(ManualClock(1_400_000_000.0), 7))
    span = SimpleNamespace(context=SimpleNamespace(trace_id=5, span_id=6), start_time="soon")
    assert in_run_time(span) is span


def test_log_records_of_a_run_have_the_times_of_its_clock() -> None:
    """Those of our own scope have them already."""
    use_clock(5, RunClock(ManualClock(1_400_000_000.0), 7))
    ours, theirs = SimpleNamespace(name="rocketry_otel"), SimpleNamespace(name="x")
    for trace_id, scope, expected in (
        (5, theirs, BEGAN),
        (5, None, BEGAN),
        (5, ours, None),
        (6, theirs, None),
        (None, theirs, None),
    ):
        now = time.time_ns()
        record = SimpleNamespace(trace_id=trace_id, timestamp=now, observed_timestamp=None)
        set_run_time(record, scope)
        assert (record.timestamp, record.observed_timestamp) == (expected or now, None)

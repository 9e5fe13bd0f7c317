"""Spans in which something was held back, and their seconds."""

from __future__ import annotations

from rocketry_otel._schedule.spans import Span, Spans, seconds_in


def test_time_counts_once() -> None:
    """A time in several spans counts for the first list, and one outside for none."""
    blocked = [Span(2.0, 4.0, "blocked"), Span(50.0, 60.0, "blocked")]
    held = [Span(0.0, 3.0, "limit"), Span(3.0, 9.0, "running")]
    assert seconds_in(1.0, 10.0, [blocked, [], held]) == {
        "blocked": 2.0,
        "limit": 1.0,
        "running": 5.0,
    }
    assert seconds_in(10.0, 10.0, [held]) == {}


def test_span_ends_at_a_change_of_reason() -> None:
    """One that is too short is not kept; one that goes on reaches until now."""
    spans = Spans(0.5)
    assert spans.between(0.0, 1.0) == []
    spans.change("limit", 1.0)
    assert spans.between(0.0, 1.2) == []
    assert spans.between(0.0, 2.0) == [Span(1.0, 2.0, "limit")]
    spans.change("running", 2.0)
    spans.change(None, 2.1)
    assert spans.between(0.0, 9.0) == [Span(1.0, 2.0, "limit")]
    assert spans.reason is None
    spans.change("limit", 9.0)
    spans.clear()
    assert (spans.reason, spans.between(0.0, 20.0)) == (None, [])


def test_settled_spans_are_left_out() -> None:
    """The result has the spans that end after a time, and begins with the newest."""
    spans = Spans()
    for number in range(4):
        spans.change("limit", 10.0 * number)
        spans.change(None, 10.0 * number + 5.0)
    spans.change("running", 40.0)
    assert spans.between(15.0, 50.0) == [
        Span(40.0, 50.0, "running"),
        Span(30.0, 35.0, "limit"),
        Span(20.0, 25.0, "limit"),
    ]
    assert spans.between(14.0, 50.0)[-1] == Span(10.0, 15.0, "limit")
    assert spans.between(50.0, 50.0) == []

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.trace import SpanContext, Status, StatusCode, TraceFlags

from rocketry_otel._instrumentation.run_span import RunSpan
from rocketry_otel._model.annotations import Annotations, RunEvent, RunLink
from tests.support.records import raised

CONTEXT = SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(1))
OTHER = SpanContext(3, 4, is_remote=True)
NOWHERE = SpanContext(0, 0, is_remote=True)


class Seen:
    """A span of a run whose clock stands at 7, and what was added to it."""

    def __init__(self) -> None:
        self.added = Annotations()
        self.span = RunSpan(CONTEXT, self.added, lambda: 7)

    @property
    def error(self) -> object:
        return self.added.attributes.get("rocketry.body_error")


@pytest.fixture
def seen() -> Seen:
    """A span of a run that goes on."""
    return Seen()


def test_span_records_where_the_run_is_sampled(seen: Seen) -> None:
    """Its context is that of the run; ``end`` ends nothing."""
    assert seen.span.get_span_context() is CONTEXT
    assert seen.span.is_recording() is True
    with seen.span:
        pass
    seen.span.end(5)
    assert seen.span.is_recording() is True
    assert RunSpan(OTHER, seen.added, lambda: 7).is_recording() is False


def test_attributes_are_those_of_the_run(seen: Seen) -> None:
    """A later one replaces an earlier one; values that are no attributes become such."""
    seen.span.set_attribute("rows", 1)
    seen.span.set_attributes({"rows": 2, "of": object})
    assert seen.added.attributes == {"rows": 2, "of": "<class 'object'>"}


def test_events_have_the_time_of_the_application(seen: Seen) -> None:
    """A time that is given stays; one that is no time is not taken."""
    seen.span.add_event("a")
    seen.span.add_event("b", {"n": 1}, 5)
    seen.span.add_event("c", None, "soon")  # type: ignore[arg-type]
    assert seen.added.events == [
        RunEvent("a", 7),
        RunEvent("b", 5, (("n", 1),)),
        RunEvent("c", 7),
    ]


def test_links_lead_somewhere(seen: Seen) -> None:
    """As in the SDK, one without an id counts only if it has attributes."""
    seen.span.add_link(OTHER)
    seen.span.add_link(OTHER, {"why": "x"})
    seen.span.add_link(NOWHERE)
    seen.span.add_link(NOWHERE, {"why": "y"})
    seen.span.add_link("strange", {"why": "z"})  # type: ignore[arg-type]
    assert seen.added.links == [
        RunLink(3, 4, ""),
        RunLink(3, 4, "", (("why", "x"),)),
        RunLink(0, 0, "", (("why", "y"),)),
    ]


def test_name_becomes_an_attribute(seen: Seen) -> None:
    """The name of the span stays."""
    seen.span.update_name("nightly")
    assert seen.added.attributes == {"rocketry.name": "nightly"}


@pytest.mark.parametrize(
    ("statuses", "error"),
    [
        ([(StatusCode.ERROR, "bad")], "bad"),
        ([(Status(StatusCode.ERROR, "bad"), None)], "bad"),
        ([(StatusCode.ERROR, None)], ""),
        ([(StatusCode.ERROR, "bad"), (StatusCode.UNSET, None)], "bad"),
        ([(StatusCode.ERROR, "bad"), (StatusCode.OK, None)], None),
        ([(StatusCode.OK, None), (StatusCode.ERROR, "bad")], None),
        ([("strange", None)], None),
    ],
)
def test_status_follows_the_specification(
    seen: Seen, statuses: list[tuple[Any, str | None]], error: str | None
) -> None:
    """``UNSET`` changes nothing, and nothing changes ``OK``."""
    for status, description in statuses:
        seen.span.set_status(status, description)
    assert seen.error == error


def test_exception_is_recorded_as_one_that_ends_a_run(seen: Seen) -> None:
    """Type, message and traceback are the same; attributes that are given come first."""
    error = raised(ValueError("boom"))[1]
    seen.span.record_exception(error, {"try": 2, "exception.message": "own"}, 5)
    (event,) = seen.added.events
    attributes = dict(event.attributes)
    assert (event.name, event.time, attributes["try"]) == ("exception", 5, 2)
    assert attributes["exception.type"] == "ValueError"
    assert attributes["exception.message"] == "own"
    assert str(attributes["exception.stacktrace"]).startswith("Traceback (most recent call last)")


def test_odd_exceptions_cost_nothing(seen: Seen) -> None:
    """One without a message or a traceback is recorded; what is no exception is not."""
    seen.span.record_exception(KeyError())
    seen.span.record_exception("strange")  # type: ignore[arg-type]
    seen.span.record_exception(ValueError("x" * 50_000), 5)  # type: ignore[arg-type]
    first, second = (dict(event.attributes) for event in seen.added.events)
    assert first["exception.type"] == "KeyError"
    assert "exception.message" not in first
    assert 8_192 < len(str(second["exception.message"])) < 8_300

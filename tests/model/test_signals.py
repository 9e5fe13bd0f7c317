import json
from typing import Any

import pytest
from opentelemetry._logs import SeverityNumber

from rocketry_otel._model.annotations import RunEvent, RunLink
from rocketry_otel._model.event import TaskEvent, parse_event
from rocketry_otel._model.ids import ids_of
from rocketry_otel._model.runs import Run
from rocketry_otel._model.signals import (
    SpanSignal,
    beginning_attributes,
    link_attributes,
    log_signal,
    span_signal,
)

TRACEBACK = 'Traceback (most recent call last):\n  File "x", line 1, in f\nValueError: boom'
IDENTITY = ids_of("etl", "r1", 1)


def event(action: str | None, at: float = 1.0, **fields: object) -> TaskEvent:
    """Return an event of the task etl, seconds after the epoch."""
    base = {"task_name": "etl", "action": action, "run_id": "r1", "created": at}
    return parse_event(base | fields)


def run_of(ended: TaskEvent, began: TaskEvent | None) -> Run:
    """Return a run that has ended."""
    return Run(IDENTITY, began=began, ended=ended)


def span_of(ended: TaskEvent, began: TaskEvent | None = None, detail: str = "full") -> SpanSignal:
    """Return the span of a run that has ended."""
    return span_signal(run_of(ended, began), ended, detail)


def test_success_is_a_plain_span() -> None:
    """Name, times and attributes are the contract's, and the status is unset."""
    signal = span_of(event("success", 3.0), event("run", 1.0, execution="thread"))
    assert signal == SpanSignal(
        name="run etl",
        start=1_000_000_000,
        end=3_000_000_000,
        attributes={
            "task_name": "etl",
            "rocketry.run_id": "r1",
            "rocketry.execution": "thread",
            "rocketry.action": "success",
        },
        error=None,
        exception=None,
    )


def test_span_has_the_attributes_of_its_launch() -> None:
    """Those of Rocketry and of the code are sent, in a length that a collector takes."""
    stored = {
        "code.function.name": "f",
        "host.name": "here",
        "other": "never",
        "rocketry.action": "odd",
        "rocketry.attempt": 2,
        "rocketry.run_id": "odd",
        "rocketry.scheduler": "7-1-a",
        "rocketry.trigger.condition": "x" * 9_000,
    }
    signal = span_of(event("success"), event("run", attributes=json.dumps(stored)))
    condition = signal.attributes.pop("rocketry.trigger.condition")
    assert isinstance(condition, str)
    assert len(condition) < 9_000
    assert signal.attributes == {
        "task_name": "etl",
        "rocketry.run_id": "r1",
        "code.function.name": "f",
        "host.name": "here",
        "rocketry.attempt": 2,
        "rocketry.action": "success",
    }


def test_inaction_is_no_error() -> None:
    """A task that found nothing to do leaves the status unset and has no error type."""
    signal = span_of(event("inaction", 3.0), event("run"))
    assert signal.error is None
    assert "error.type" not in signal.attributes
    assert signal.attributes["rocketry.action"] == "inaction"


def test_failure_has_its_exception() -> None:
    """The span's event has type, message and traceback; ``error.type`` has the type."""
    signal = span_of(event("fail", 3.0, exc_text=TRACEBACK), event("run"))
    assert signal.attributes["error.type"] == "ValueError"
    assert signal.error == "ValueError: boom"
    assert signal.exception == {
        "exception.type": "ValueError",
        "exception.message": "boom",
        "exception.stacktrace": TRACEBACK,
    }


@pytest.mark.parametrize(
    ("start", "end", "dated"),
    [
        # Jaeger shows 1 us and a length of 1 us; at its end the event would be shown at 3 us.
        (1_999, 3_001, 1_999),
        (1_999, 4_001, 2_999),
        (1_000_000, 1_005_000, 1_004_000),
        (7, 7, 7),
        (7, 1_006, 7),
    ],
)
def test_exception_is_dated_inside_the_span(start: int, end: int, dated: int) -> None:
    """Also after each time and length is rounded down to microseconds, and it is never before."""
    signal = SpanSignal("run etl", start, end, {}, None, {"exception.type": "ValueError"})
    assert signal.exception_time == dated
    assert start <= dated <= end
    assert start // 1_000 <= dated // 1_000 <= start // 1_000 + (end - start) // 1_000


@pytest.mark.parametrize(
    ("detail", "keys", "error"),
    [
        (
            "full",
            ["exception.type", "exception.message", "exception.stacktrace"],
            "ValueError: boom",
        ),
        ("message", ["exception.type", "exception.message"], "ValueError: boom"),
        ("type", ["exception.type"], "ValueError"),
    ],
)
def test_exception_setting_holds_for_all_signals(detail: str, keys: list[str], error: str) -> None:
    """Span, status and log record all keep to the setting."""
    ended = event("fail", 3.0, exc_text=TRACEBACK)
    signal = span_of(ended, event("run"), detail)
    assert list(signal.exception or {}) == keys
    assert signal.error == error
    logged = log_signal(ended, detail)
    assert [key for key in logged.attributes if key.startswith("exception.")] == keys
    if detail == "type":
        assert "boom" not in repr(signal) + repr(logged)


@pytest.mark.parametrize(
    ("words", "stored", "reason"),
    [
        ("timeouted", None, "timeout"),
        ("end condition is true", None, "end_condition"),
        ("forced termination", None, "requested"),
        ("Instant shutdown of the scheduler", None, "shutdown"),
        ("Task 'etl' timeouted", None, "shutdown"),
        ("task terminated", None, None),
        ("task terminated", "timeout", "timeout"),
        ("task terminated", "shutdown", "shutdown"),
        ("task terminated", "of a body", None),
        ("timeouted) and more", None, None),
    ],
)
def test_termination_has_its_reason(words: str, stored: str | None, reason: str | None) -> None:
    """It is stored with the ending, or else in Rocketry's message."""
    message = f"Task 'etl' status: 'terminate' ({words})"
    added = None if stored is None else json.dumps({"rocketry.termination.reason": stored})
    signal = span_of(event("terminate", 3.0, message=message, attributes=added), event("run"))
    expected = stored if reason is None else reason
    assert signal.attributes.get("rocketry.termination.reason") == expected
    assert signal.attributes["error.type"] == ("timeout" if reason == "timeout" else "terminated")
    assert signal.error == message


def test_crash_is_an_estimated_error() -> None:
    """Its end is the time of the crash record, and is marked as an estimate."""
    signal = span_of(event("crash", 9.0), event("run", 1.0))
    assert (signal.start, signal.end) == (1_000_000_000, 9_000_000_000)
    assert signal.attributes["error.type"] == "crash"
    assert signal.attributes["rocketry.end_estimated"] is True
    assert signal.error is not None


def test_ending_alone_has_no_length() -> None:
    """A task that failed in its setup is a span from the failure to the failure."""
    signal = span_of(event("fail", 3.0, execution="process"))
    assert signal.start == signal.end == 3_000_000_000
    assert signal.attributes == {
        "task_name": "etl",
        "rocketry.run_id": "r1",
        "rocketry.execution": "process",
        "rocketry.action": "fail",
        "error.type": "_OTHER",
    }
    assert signal.exception is None
    assert signal.error == "Task 'etl' status: 'fail'"


def test_fields_of_the_ending_are_shown() -> None:
    """Run id and execution come from the ending if the beginning had none."""
    ended = event("success", 3.0, execution="main")
    signal = span_of(ended, event("run", run_id=None))
    assert signal.attributes["rocketry.run_id"] == "r1"
    assert signal.attributes["rocketry.execution"] == "main"


def test_clock_that_was_set_back_gives_no_negative_length() -> None:
    """A span that ends before it starts is shown by no backend."""
    signal = span_of(event("success", 1.0), event("run", 3.0))
    assert signal.start == signal.end == 3_000_000_000


def test_added_attributes_are_shown() -> None:
    """Attributes of the task or a hook come after our own."""
    signal = span_of(event("success", 3.0, attributes='{"rows": 5}'), event("run"))
    assert list(signal.attributes)[-1] == "rows"
    assert signal.attributes["rows"] == 5


@pytest.mark.parametrize(
    ("action", "severity", "text"),
    [
        ("run", SeverityNumber.INFO, "INFO"),
        ("success", SeverityNumber.INFO, "INFO"),
        ("inaction", SeverityNumber.INFO, "INFO"),
        ("terminate", SeverityNumber.WARN, "WARN"),
        ("fail", SeverityNumber.ERROR, "ERROR"),
        ("crash", SeverityNumber.ERROR, "ERROR"),
    ],
)
def test_each_action_is_a_log_record(action: str, severity: SeverityNumber, text: str) -> None:
    """Event name, severity, time, body and attributes are the contract's."""
    signal = log_signal(event(action, message="m", levelno=50), "full")
    assert (signal.event_name, signal.severity, signal.severity_text) == (
        f"rocketry.task.{action}",
        severity,
        text,
    )
    assert (signal.timestamp, signal.body) == (1_000_000_000, "m")
    error = {"error.type": "_OTHER"} if action == "fail" else {}
    assert signal.attributes == {
        "task_name": "etl",
        "rocketry.run_id": "r1",
        "rocketry.action": action,
        **error,
    }


@pytest.mark.parametrize(
    ("level", "severity"),
    [
        (60, SeverityNumber.FATAL),
        (50, SeverityNumber.FATAL),
        (40, SeverityNumber.ERROR),
        (30, SeverityNumber.WARN),
        (20, SeverityNumber.INFO),
        (None, SeverityNumber.INFO),
        (10, SeverityNumber.DEBUG),
        (5, SeverityNumber.TRACE),
    ],
)
def test_record_without_action_has_the_severity_of_its_level(
    level: int | None, severity: SeverityNumber
) -> None:
    """A body's record is exported unchanged, with no event name."""
    signal = log_signal(event(None, levelno=level), "full")
    assert (signal.severity, signal.severity_text) == (severity, severity.name)
    assert signal.event_name is None
    assert signal.attributes == {"task_name": "etl", "rocketry.run_id": "r1"}


def test_record_without_task_has_no_name() -> None:
    """Nothing is made up for a record that names no task."""
    assert log_signal(parse_event({"message": "m"}), "full").attributes == {}


def test_long_texts_are_shortened() -> None:
    """A traceback of 10 MB, and names and messages of a megabyte, are shortened."""
    long = "x" * 1_000_000
    ended = event("fail", task_name=long, run_id=long, message=long, exc_type=long)
    ended = ended._replace(
        exception=ended.exception and type(ended.exception)(long, long, long * 10)
    )
    signal = span_of(ended)
    sizes = {key: len(str(value)) for key, value in signal.attributes.items()}
    assert max(sizes.values()) < 1_100
    assert len(signal.name) < 1_100
    assert len(signal.error or "") < 10_000
    assert len(str((signal.exception or {})["exception.stacktrace"])) < 33_000
    logged = log_signal(ended, "full")
    assert len(logged.body) < 8_300
    assert len(logged.event_name or "") < 100


def test_attributes_of_the_beginning_come_first() -> None:
    """A sampler sees, at the beginning, the first attributes of the span."""
    began = event("run", execution="main")
    signal = span_of(event("success", 2.0), began)
    known = beginning_attributes(began)
    assert list(signal.attributes.items())[: len(known)] == list(known.items())


def test_hook_may_name_the_span() -> None:
    """The name travels with the added attributes and is no attribute itself."""
    ended = event("success", 3.0, attributes={"rocketry.span_name": "load of etl", "rows": 5})
    signal = span_of(ended, event("run"))
    assert signal.name == "load of etl"
    assert signal.attributes["rows"] == 5
    assert "rocketry.span_name" not in signal.attributes
    assert span_of(event("success", 3.0, attributes={"rocketry.span_name": 5})).name == "5"


def test_long_span_name_is_shortened() -> None:
    """A hook may give a megabyte."""
    signal = span_of(event("success", attributes={"rocketry.span_name": "x" * 1_000_000}))
    assert 1_000 < len(signal.name) < 1_100


def test_sampler_never_sees_added_attributes() -> None:
    """Attributes of the ending are not among those that are known when the run begins."""
    began = event("run", attributes={"rows": 5})
    assert "rows" not in beginning_attributes(began)
    assert "rows" not in span_of(event("success"), began).attributes


def test_events_and_links_have_their_sources() -> None:
    """Each is known at that time; the exception is a separate event."""
    happened = (RunEvent("e", 5, (("k", 1),)),)
    links, own = (RunLink(10, 11, "dependency"),), (RunLink(1, 1, "", (("why", "x"),)),)
    began = event("run")._replace(links=links, events=(RunEvent("never", 1),))
    ended = event("fail", 3.0, exc_text=TRACEBACK)._replace(events=happened, links=own)
    signal = span_of(ended, began)
    assert signal.events == happened
    assert signal.links == links + own
    assert signal.exception is not None


def test_kind_of_a_link_is_its_first_attribute() -> None:
    """A link that a body has added has none."""
    own = (("why", "x"),)
    attributes = link_attributes(RunLink(1, 1, "retry", own))
    assert list(attributes.items()) == [("rocketry.link", "retry"), ("why", "x")]
    assert link_attributes(RunLink(1, 1, "", own)) == {"why": "x"}


def test_ending_alone_has_its_own_links() -> None:
    """If the beginning is unknown, the ending takes its place."""
    links = (RunLink(10, 11, "request"),)
    assert span_of(event("fail")._replace(links=links)).links == links


def test_log_records_have_no_added_attributes() -> None:
    """Only the span has added attributes, events and links."""
    ended = event("success", attributes={"rows": 5, "rocketry.span_name": "n"})
    assert log_signal(ended, "full").attributes == {
        "task_name": "etl",
        "rocketry.run_id": "r1",
        "rocketry.action": "success",
    }


def test_added_attributes_replace_none() -> None:
    """Neither the place of our own attributes nor their values: a collector relies on them."""
    added = {f"k{number:03}": number for number in range(200)}
    own = {"task_name": "x", "rocketry.action": "x", "rocketry.run_id": "x"}
    ended = event("success", attributes=added | own)
    ended = ended._replace(events=tuple(RunEvent(f"e{number}", 1) for number in range(200)))
    signal = span_of(ended, event("run"))
    assert len(signal.attributes) == 128
    assert [signal.attributes[key] for key in own] == ["etl", "success", "r1"]
    assert list(signal.attributes)[-1] == "k124"
    assert [len(signal.events), signal.events[0].name] == [128, "e0"]
    failed = event("fail", exc_text=TRACEBACK)._replace(events=ended.events)
    assert len(span_of(failed).events) == 127


def test_added_texts_are_shortened() -> None:
    """A body that adds a response of 10 MB does not cost the batch."""
    long = "x" * 10_000_000
    ended = event("success", attributes={long: long, "rows": 5})
    ended = ended._replace(events=(RunEvent(long, 1, ((long, long), ("n", 1))),))
    signal = span_of(ended)
    assert max(len(str(value)) for value in signal.attributes.values()) < 8_300
    assert max(len(key) for key in signal.attributes) < 1_100
    assert signal.attributes["rows"] == 5
    ((name, at, (first, second)),) = signal.events
    assert (len(name) < 1_100, at, second) == (True, 1, ("n", 1))
    assert len(first[0]) + len(first[1]) < 9_400


def recorded(kind: str, message: str | None, stacktrace: str = "frames") -> RunEvent:
    """Return the event of an exception that a body has recorded."""
    pairs = {"exception.message": message, "exception.stacktrace": stacktrace}
    known = tuple((key, value) for key, value in pairs.items() if value is not None)
    return RunEvent("exception", 5, (*known, ("exception.type", kind)))


def test_exception_that_ends_the_run_is_sent_once() -> None:
    """The body has recorded it, too; an equal one of an earlier try stays."""
    same, other = recorded("ValueError", "boom"), recorded("KeyError", "boom")
    exception = {"exc_type": "ValueError", "exc_message": "boom", "exc_text": "text"}
    ended = event("fail", **exception)._replace(events=(same, same, other))
    signal = span_of(ended)
    assert signal.events == (same, other)
    assert signal.exception == {
        "exception.type": "ValueError",
        "exception.message": "boom",
        "exception.stacktrace": "text",
    }
    ended = event("fail", exc_type="ValueError", exc_text="text")
    unnamed = recorded("ValueError", None)
    assert span_of(ended._replace(events=(unnamed,))).events == ()
    assert span_of(event("success")._replace(events=(same,))).events == (same,)


@pytest.mark.parametrize(
    ("detail", "shown"),
    [
        ("full", {"exception.message", "exception.stacktrace", "exception.type"}),
        ("message", {"exception.message", "exception.type"}),
        ("type", {"exception.type"}),
    ],
)
def test_setting_hides_exceptions_that_a_body_has_recorded(detail: Any, shown: set[str]) -> None:
    """It holds for each ``exception.*`` attribute of an event."""
    ended = event("success")._replace(events=(recorded("ValueError", "secret"),))
    (sent,) = span_signal(Run(IDENTITY, None), ended, detail).events
    assert {key for key, _ in sent.attributes} == shown


def test_recorded_stacktrace_has_the_length_of_others() -> None:
    """It is longer than that of other values."""
    ended = event("success")._replace(events=(recorded("ValueError", "m" * 50_000, "s" * 50_000),))
    lengths = {key: len(str(value)) for key, value in span_of(ended).events[0].attributes}
    assert 8_192 < lengths["exception.message"] < 8_300
    assert 32_768 < lengths["exception.stacktrace"] < 32_900


def test_error_of_a_body_counts_if_the_run_succeeds() -> None:
    """A run that fails has its own status."""
    added = {"rocketry.body_error": "half of the rows", "rocketry.name": "nightly"}
    signal = span_of(event("success", attributes=added))
    assert signal.error == "half of the rows"
    assert signal.attributes["rocketry.name"] == "nightly"
    assert "rocketry.body_error" not in signal.attributes
    assert span_of(event("success", attributes={"rocketry.body_error": ""})).error == ""
    failed = event("fail", attributes=added, exc_type="ValueError", exc_text="text")
    assert span_of(failed).error == "ValueError"

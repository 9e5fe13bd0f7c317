"""A record of ``logging`` as a log line: bounded, clean, and without what a setting hides."""

from __future__ import annotations

import logging
import sys
from typing import Any

import pytest
from opentelemetry._logs import SeverityNumber

from rocketry_otel._model.event import FROM_CHILD
from rocketry_otel._model.log_lines import error_key, line_signal
from tests.support import records


def fields_of(level: int = logging.INFO, **fields: Any) -> dict[str, Any]:
    """Return the fields of a record."""
    record = logging.LogRecord("shop", level, __file__, 1, "hello", None, None)
    vars(record).update({"created": 7.5, "taskName": "Task-1", "message": "hello"}, **fields)
    return vars(record)


def raised() -> Any:
    """Return the ``exc_info`` of an exception."""
    try:
        raise ValueError("secret")
    except ValueError:
        return sys.exc_info()


def test_line_has_its_run_and_the_extra_fields() -> None:
    """The fields that ``logging`` makes are not sent, nor those of OpenTelemetry."""
    fields = fields_of(rows=3, tags=["a", "b"], otelTraceID="1", **{FROM_CHILD: {}})
    signal = line_signal(fields, "hello", "full", task_name="etl", run_id="r1")
    assert signal.attributes == {
        "task_name": "etl",
        "rocketry.run_id": "r1",
        "rows": 3,
        "tags": ("a", "b"),
    }
    assert (signal.timestamp, signal.body, signal.event_name) == (7_500_000_000, "hello", None)


def test_extra_field_under_our_name_is_not_used() -> None:
    """The run's own values win; a field without a name is left out."""
    signal = line_signal(fields_of(task_name="x", **{"": 1}), "hello", "full", task_name="etl")
    assert signal.attributes == {"task_name": "etl"}


@pytest.mark.parametrize(
    ("level", "number", "text"),
    [
        (5, SeverityNumber.TRACE, "Level 5"),
        (logging.DEBUG, SeverityNumber.DEBUG, "DEBUG"),
        (logging.WARNING, SeverityNumber.WARN, "WARN"),
        (logging.CRITICAL, SeverityNumber.FATAL, "FATAL"),
    ],
)
def test_severity_is_that_of_the_level(level: int, number: SeverityNumber, text: str) -> None:
    """Two levels have other names in OpenTelemetry."""
    signal = line_signal(fields_of(level), "hello", "full")
    assert (signal.severity, signal.severity_text) == (number, text)


def test_odd_level_is_information() -> None:
    """A record that no logger has made may have any object as its level."""
    signal = line_signal(fields_of(levelno="high", levelname=None), "hello", "full")
    assert (signal.severity, signal.severity_text) == (SeverityNumber.INFO, "INFO")


@pytest.mark.parametrize(
    ("detail", "expected"),
    [
        (
            "full",
            {"exception.type", "exception.message", "exception.stacktrace", "code.stacktrace"},
        ),
        ("message", {"exception.type", "exception.message"}),
        ("type", {"exception.type"}),
    ],
)
def test_exception_is_shown_as_far_as_the_setting_allows(detail: Any, expected: set[str]) -> None:
    """The stack of the call has the same rule as a traceback."""
    fields = fields_of(exc_info=raised(), stack_info="Stack:\n  here")
    signal = line_signal(fields, "hello", detail)
    assert set(signal.attributes) == expected
    assert signal.attributes["exception.type"] == "ValueError"


def test_event_has_its_action_in_the_name_alone() -> None:
    """A scheduler's record has an action, and the name of the event shows it."""
    signal = line_signal(fields_of(action="setup"), "hi", "full", event_name="rocketry.x.setup")
    assert (signal.event_name, signal.attributes) == ("rocketry.x.setup", {})


def test_line_is_bounded_in_size() -> None:
    """A queue holds some thousand lines: one of them must not be megabytes."""
    many = {f"key{number}": "x" * 5_000 for number in range(10)}
    signal = line_signal(fields_of(**many), "y" * 1_000_000, "full")
    assert list(signal.attributes) == ["key0", "key1", "key2"]
    assert len(signal.body) < 8_300
    numbers = {f"key{number}": number for number in range(200)}
    assert len(line_signal(fields_of(**numbers), "", "full").attributes) == 128


def test_text_that_cannot_be_encoded_is_cleaned() -> None:
    """A lone surrogate would cost the whole batch."""
    signal = line_signal(fields_of(**{"k\ud800": "\ud800"}), "\ud800", "full")
    assert (signal.body, signal.attributes) == ("\\ud800", {"k\\ud800": "\\ud800"})


def test_equal_errors_have_one_key() -> None:
    """The text of an exception may differ; its type, its place and the message may not."""

    def record(text: str, **fields: Any) -> dict[str, Any]:
        error = records.raised(LookupError(text))
        return {"name": "rocketry.scheduler", "levelno": logging.ERROR, "exc_info": error, **fields}

    first = error_key(record("at 1"), "boom")
    assert first is not None
    assert error_key(record("at 2"), "boom") == first
    others = [
        error_key(record("at 1"), "other"),
        error_key(record("at 1", name="rocketry.scheduler.other"), "boom"),
        error_key(record("at 1", levelno=logging.CRITICAL), "boom"),
        error_key(record("at 1", exc_info=None), "boom"),
        error_key(record("at 1", exc_info=records.raised(ValueError("at 1"))), "boom"),
        error_key(record("at 1", exc_info=(LookupError, None, None)), "boom"),
    ]
    assert len({first, *others}) == 7
    assert None not in others


@pytest.mark.parametrize("level", [logging.INFO, logging.WARNING, None, "ERROR"])
def test_record_that_is_no_error_has_no_key(level: object) -> None:
    """Each such record is sent."""
    assert error_key({"name": "rocketry.scheduler", "levelno": level}, "boom") is None

"""Errors that a scheduler logs again and again."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry._logs import SeverityNumber

from rocketry_otel._instrumentation import repeated_errors
from rocketry_otel._instrumentation.repeated_errors import RepeatedErrors
from rocketry_otel._model.signals import LogSignal

FIRST = LogSignal(1, SeverityNumber.ERROR, "ERROR", "boom", {"a": "b"}, None)


class Errors:
    """The errors of one scheduler, with a clock that a test moves."""

    now = 100.0

    def __init__(self) -> None:
        """Begin with no error."""
        self.sent: list[tuple[str, int, Any]] = []
        self.repeated = RepeatedErrors()

    def monotonic(self) -> float:
        """Return the time."""
        return self.now

    def send(self, logger_name: str, signal: LogSignal, context: Any = None) -> None:
        assert context is None
        count = dict(signal.attributes).get("rocketry.repeated")
        assert signal.body == "boom"
        assert signal.attributes["a"] == "b"
        self.sent.append((logger_name, signal.timestamp, count))

    def log(self, key: str, created: int) -> None:
        """Log an error."""
        if not self.repeated.is_repeated((key,), created):
            self.send(key, FIRST._replace(timestamp=created))
            self.repeated.note((key,), key, FIRST._replace(timestamp=created))


@pytest.fixture
def errors(monkeypatch: pytest.MonkeyPatch) -> Errors:
    """Errors on a clock that a test moves."""
    errors = Errors()
    monkeypatch.setattr(repeated_errors, "time", errors)
    return errors


def test_repeated_error_is_sent_once_a_minute_with_its_count(errors: Errors) -> None:
    """The first is sent at once; each number is that since the last one that was sent."""
    for created in range(1, 5):
        errors.log("a", created)
        errors.repeated.send_due(errors.send)
    assert errors.sent == [("a", 1, None)]
    errors.now += 60
    errors.repeated.send_due(errors.send)
    assert errors.sent[1:] == [("a", 4, 3)]
    errors.log("a", 9)
    errors.now += 59
    errors.repeated.send_due(errors.send)
    assert len(errors.sent) == 2
    errors.now += 1
    errors.repeated.send_due(errors.send)
    assert errors.sent[2:] == [("a", 9, 1)]


def test_error_that_was_away_for_a_minute_is_sent_at_once(errors: Errors) -> None:
    """It is news again."""
    errors.log("a", 1)
    errors.now += 60
    errors.repeated.send_due(errors.send)
    errors.log("a", 2)
    assert errors.sent == [("a", 1, None), ("a", 2, None)]


def test_end_sends_what_is_left(errors: Errors) -> None:
    """The next start of the scheduler begins afresh."""
    for created in (1, 2, 3):
        errors.log("a", created)
    errors.log("b", 4)
    errors.repeated.send_due(errors.send, is_end=True)
    errors.repeated.send_due(errors.send, is_end=True)
    assert errors.sent == [("a", 1, None), ("b", 4, None), ("a", 3, 2)]
    errors.log("a", 5)
    assert errors.sent[3:] == [("a", 5, None)]


def test_ever_new_errors_take_bounded_memory(
    errors: Errors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest is forgotten."""
    monkeypatch.setattr(repeated_errors, "_MOST", 2)
    for number, key in enumerate(("a", "b", "c", "a", "c")):
        errors.log(key, number)
    assert [key for key, _, _ in errors.sent] == ["a", "b", "c", "a"]

"""From a record of ``logging`` to a log line: what the body of a task logs.

In: the fields of a record. Out: a log signal in bounded size, with clean texts. Lines are in no
repository, so this mapping has only live records.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from opentelemetry.semconv.attributes.code_attributes import CODE_STACKTRACE

from .event import FROM_CHILD, nanoseconds
from .plain_values import plain_value
from .signals import (
    LONGEST_MESSAGE,
    LONGEST_STACKTRACE,
    RUN_ID,
    TASK_NAME,
    LogSignal,
    exception_attributes,
    severity_of_level,
    short_name,
    short_value,
)
from .text import optional_text, safe_text, shortened
from .tracebacks import exception_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .annotations import Attributes
    from .plain_values import AttributeValue
    from .signals import ExceptionDetail

# The fields that `logging` and its formatters put on a record; all others are the application's.
_NOT_ADDED = frozenset(vars(logging.makeLogRecord({}))) | {
    *("message", "asctime", "taskName", FROM_CHILD),
    # OpenTelemetry's own fields: the line has its trace as such.
    *("otelTraceID", "otelSpanID", "otelTraceSampled", "otelServiceName"),
}
REPEATED = "rocketry.repeated"
# OpenTelemetry's names for two levels of `logging`.
_SEVERITY_TEXTS = {"WARNING": "WARN", "CRITICAL": "FATAL"}
# The SDK's own limit of attributes.
_MOST_ATTRIBUTES = 128
# A queue holds some thousand lines: the values of one must not be megabytes.
_MOST_CHARACTERS = 16_384


def line_signal(
    fields: Mapping[str, Any],
    message: object,
    detail: ExceptionDetail,
    *,
    task_name: str | None = None,
    run_id: str | None = None,
    event_name: str | None = None,
) -> LogSignal:
    """Return a record of ``logging`` as a log signal.

    Args:
        fields: ``vars()`` of the record.
        message: Its formatted message.
        detail: How much of an exception is shown.
        task_name: The name of the task whose body has logged it, if one has.
        run_id: The id of its run.
        event_name: The name of the event, if the record is one.
    """
    attributes: Attributes = {}
    if task_name is not None:
        attributes[TASK_NAME] = short_name(task_name)
    if run_id is not None:
        attributes[RUN_ID] = short_name(run_id)
    attributes.update(exception_attributes(exception_of(fields, _NO_FIELDS), detail))
    stack = optional_text(fields.get("stack_info"))
    if stack is not None and detail == "full":
        attributes[CODE_STACKTRACE] = shortened(stack, LONGEST_STACKTRACE)
    _add_extra(attributes, fields, is_event=event_name is not None)
    level = fields.get("levelno")
    severity, severity_text = severity_of_level(level if type(level) is int else None)
    level_name = optional_text(fields.get("levelname"))
    if level_name is not None:
        severity_text = short_name(_SEVERITY_TEXTS.get(level_name, level_name))
    return LogSignal(
        nanoseconds(fields.get("created")),
        severity,
        severity_text,
        shortened(safe_text(message), LONGEST_MESSAGE),
        attributes,
        event_name,
    )


_NO_FIELDS: Mapping[str, Any] = {}


def error_key(fields: Mapping[str, Any], message: object) -> tuple[object, ...] | None:
    """Return what equal errors of a logger have in common; ``None`` if a record is no error.

    These are its logger, its message, and where its exception comes from. The text of an exception
    may have a time or a number in it, which changes each time.
    """
    level = fields.get("levelno")
    if type(level) is not int or level < logging.ERROR:
        return None
    exc_info = fields.get("exc_info")
    type_, place = None, None
    if isinstance(exc_info, tuple):
        type_ = exc_info[0]
        part = exc_info[2]
        while part is not None:
            place = (part.tb_frame.f_code, part.tb_lineno)
            part = part.tb_next
    return safe_text(fields.get("name")), level, safe_text(message), type_, place


def repeated_signal(first: LogSignal, newest: int, count: int) -> LogSignal:
    """Return a log signal that counts for errors that are equal to an earlier one.

    Args:
        first: The earlier one.
        newest: The time of the newest, in nanoseconds since the epoch.
        count: How many there are.
    """
    return first._replace(timestamp=newest, attributes={**first.attributes, REPEATED: count})


def _add_extra(attributes: Attributes, fields: Mapping[str, Any], *, is_event: bool) -> None:
    """Add the application's fields of a record, as long as there is room."""
    room = _MOST_CHARACTERS
    for field, content in list(fields.items()):
        if field in _NOT_ADDED or (is_event and field == "action"):
            continue
        key = short_name(safe_text(field))
        if not key or key in attributes:
            continue
        value = short_value(plain_value(content))
        room -= len(key) + _size_of(value)
        if room < 0 or len(attributes) >= _MOST_ATTRIBUTES:
            return
        attributes[key] = value


def _size_of(value: AttributeValue) -> int:
    if isinstance(value, tuple):
        return sum(len(str(one)) for one in value)
    return len(str(value))

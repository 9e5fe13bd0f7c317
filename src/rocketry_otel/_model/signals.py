"""From runs and events to signals: pure mappings.

In: a run or an event. Out: name, times and attributes of a span or a log record. Dashboards and
alerts depend on these names, types and values: a change of them is a breaking change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from opentelemetry._logs import SeverityNumber
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.exception_attributes import (
    EXCEPTION_MESSAGE,
    EXCEPTION_STACKTRACE,
    EXCEPTION_TYPE,
)

from .annotations import BODY_ERROR, MOST_LINKS, PARENT, SPAN_NAME, parent_of
from .event import CRASH, FAIL, TERMINATE
from .text import shortened

if TYPE_CHECKING:
    from .annotations import Attributes, RunEvent, RunLink
    from .event import TaskEvent
    from .plain_values import AttributeValue, PlainValue
    from .runs import Run
    from .tracebacks import ExceptionInfo

TASK_NAME = "task_name"
RUN_ID = "rocketry.run_id"
ACTION = "rocketry.action"
EXECUTION = "rocketry.execution"
END_ESTIMATED = "rocketry.end_estimated"
LINK = "rocketry.link"
EXCEPTION_EVENT = "exception"
HOST_NAME = "host.name"
PROCESS_ID = "process.pid"
SERVICE_VERSION = "service.version"
EXIT_CODE = "process.exit.code"
CRASH_SIGNAL = "rocketry.crash.signal"
TERMINATION_REASON = "rocketry.termination.reason"
# Not sent: the process whose scheduler has launched the run, by a name of our own.
SCHEDULER = "rocketry.scheduler"

ExceptionDetail = Literal["full", "message", "type"]

# In bytes. A collector refuses a request of more than a few megabytes, and so the whole batch.
LONGEST_STACKTRACE = 32_768
LONGEST_MESSAGE = 8_192
_LONGEST_NAME = 1_024
# In characters, of which each has four bytes at most.
_ALWAYS_SHORT = _LONGEST_NAME // 4

# The SDK's own limits. Above them it drops the first ones, which are ours.
_MOST_ATTRIBUTES = 128
_MOST_EVENTS = 128

# The semantic conventions' value for an error of unknown type.
_UNKNOWN_ERROR = "_OTHER"

_TIMEOUT = "timeout"
_SHUTDOWN = "shutdown"
# By Rocketry's words for them.
_TERMINATION_REASONS = {
    "timeouted": _TIMEOUT,
    "end condition is true": "end_condition",
    "forced termination": "requested",
    "Instant shutdown of the scheduler": _SHUTDOWN,
}

_MICROSECOND = 1_000  # nanoseconds

# From the record of the beginning of a run.
_ORIGIN = frozenset({HOST_NAME, PROCESS_ID, SERVICE_VERSION})
_FROM_LAUNCH = ("rocketry.", "code.")

_ERROR_ACTIONS = frozenset({FAIL, TERMINATE, CRASH})
# What the setting hides of an exception, also of one that a body has recorded.
_HIDDEN: dict[ExceptionDetail, frozenset[str]] = {
    "full": frozenset(),
    "message": frozenset({EXCEPTION_STACKTRACE}),
    "type": frozenset({EXCEPTION_STACKTRACE, EXCEPTION_MESSAGE}),
}
_INFO = (SeverityNumber.INFO, "INFO")
_SEVERITIES = {
    FAIL: (SeverityNumber.ERROR, "ERROR"),
    CRASH: (SeverityNumber.ERROR, "ERROR"),
    TERMINATE: (SeverityNumber.WARN, "WARN"),
}
_LEVEL_SEVERITIES = (
    (50, SeverityNumber.FATAL),
    (40, SeverityNumber.ERROR),
    (30, SeverityNumber.WARN),
    (20, SeverityNumber.INFO),
    (10, SeverityNumber.DEBUG),
)


class SpanSignal(NamedTuple):
    """A run as a span.

    Attributes:
        name: The span's name.
        start: Nanoseconds since the epoch.
        end: Nanoseconds since the epoch.
        attributes: The span's attributes, in their order.
        error: The description of its status if that is ERROR; ``None`` if it is unset.
        exception: The attributes of its ``exception`` event, if it has one.
        events: Other events, in their order.
        links: Links to other spans.
        parent: The span of another trace that is its parent; ``None`` for the root of a trace.
    """

    name: str
    start: int
    end: int
    attributes: Attributes
    error: str | None
    exception: Attributes | None
    events: tuple[RunEvent, ...] = ()
    links: tuple[RunLink, ...] = ()
    parent: RunLink | None = None

    @property
    def exception_time(self) -> int:
        """When its ``exception`` event is dated, in nanoseconds since the epoch.

        Just inside the span. Jaeger rounds start, length and event down to microseconds each, and
        its page hides an event that is then behind the end.
        """
        length = (self.end - self.start) // _MICROSECOND
        return self.start + max(length - 1, 0) * _MICROSECOND


class LogSignal(NamedTuple):
    """An event as a log record; ``timestamp`` is in nanoseconds since the epoch."""

    timestamp: int
    severity: SeverityNumber
    severity_text: str
    body: str
    attributes: Attributes
    event_name: str | None


def span_name(task_name: str) -> str:
    """Return the name of the span of a run of ``task_name``."""
    return f"run {shortened(task_name, _LONGEST_NAME)}"


def beginning_attributes(began: TaskEvent) -> Attributes:
    """Return the attributes of a run's span that are known at its beginning."""
    attributes = _who(began)
    if began.execution is not None:
        attributes[EXECUTION] = began.execution
    return attributes


def span_signal(run: Run, ended: TaskEvent, detail: ExceptionDetail) -> SpanSignal:
    """Return the span of a run with this ending."""
    began = run.began or ended
    action = ended.action or ""
    attributes = beginning_attributes(began)
    if RUN_ID not in attributes and ended.run_id is not None:
        attributes[RUN_ID] = short_name(ended.run_id)
    if EXECUTION not in attributes and ended.execution is not None:
        attributes[EXECUTION] = ended.execution
    for key, value in run.began.attributes if run.began is not None else ():
        if key not in attributes and _is_of_beginning(key):
            attributes[key] = short_value(value)
    attributes[ACTION] = action
    error_type = error_type_of(ended)
    if error_type is not None:
        attributes[ERROR_TYPE] = error_type
    if action == TERMINATE and (reason := termination_reason_of(ended)) is not None:
        attributes[TERMINATION_REASON] = reason
    if run.end_estimated:
        attributes[END_ESTIMATED] = True
    added = dict(ended.attributes)
    # Records have no field of their own for the name: it is among the added attributes.
    name = added.pop(SPAN_NAME, None)
    body_error = added.pop(BODY_ERROR, None)
    for key, value in added.items():
        if key not in attributes and len(attributes) < _MOST_ATTRIBUTES:
            attributes[short_name(key)] = short_value(value)
    exception = exception_attributes(ended.exception, detail) or None
    most = _MOST_EVENTS if exception is None else _MOST_EVENTS - 1
    events = _without_last(ended.events, ended.exception)
    links = began.links if began is ended else began.links + ended.links
    error = None if body_error is None else shortened(str(body_error), LONGEST_MESSAGE)
    return SpanSignal(
        span_name(began.task_name or "") if name is None else short_name(str(name)),
        began.created,
        # If the clock was set back: no backend shows a span that ends before it starts.
        max(began.created, ended.created),
        attributes,
        _error_description(ended, detail) if action in _ERROR_ACTIONS else error,
        exception,
        tuple(_event(event, detail) for event in events[:most]),
        tuple(link for link in links if link.kind != PARENT)[:MOST_LINKS],
        parent_of(began.links),
    )


def _is_of_beginning(key: str) -> bool:
    return key in _ORIGIN or (key.startswith(_FROM_LAUNCH) and key != SCHEDULER)


def log_signal(event: TaskEvent, detail: ExceptionDetail) -> LogSignal:
    """Return an event as a log record."""
    attributes = _who(event)
    action = event.action
    if action is None:
        event_name = None
        severity, severity_text = severity_of_level(event.level)
    else:
        attributes[ACTION] = action = short_name(action)
        event_name = f"rocketry.task.{action}"
        severity, severity_text = _SEVERITIES.get(action, _INFO)
    if action == FAIL and (error_type := error_type_of(event)) is not None:
        attributes[ERROR_TYPE] = error_type
    if event.exception is not None:
        attributes.update(exception_attributes(event.exception, detail))
    body = shortened(event.message, LONGEST_MESSAGE)
    return LogSignal(event.created, severity, severity_text, body, attributes, event_name)


def error_type_of(ended: TaskEvent) -> str | None:
    """Return ``error.type`` for an ending; ``None`` if it is no error."""
    if ended.action == FAIL:
        exception = ended.exception
        name = exception.type if exception else None
        return short_name(name) if name else _UNKNOWN_ERROR
    if ended.action == TERMINATE:
        return _TIMEOUT if termination_reason_of(ended) == _TIMEOUT else "terminated"
    return CRASH if ended.action == CRASH else None


def termination_reason_of(ended: TaskEvent) -> str | None:
    """Return why a run was terminated; ``None`` if that is not known.

    Its attributes have the reason in every mode of execution. The message, which is all that
    smaller models keep, has it if Rocketry itself has logged the ending.
    """
    reason = dict(ended.attributes).get(TERMINATION_REASON)
    if reason in _TERMINATION_REASONS.values():
        return str(reason)
    for words in (*_TERMINATION_REASONS, _end_of_permanent(ended.task_name)):
        if ended.message.endswith(f"({words})"):
            return termination_reason(words, ended.task_name)
    return None


def termination_reason(words: str, task_name: str | None) -> str | None:
    """Return the reason of a termination from Rocketry's words; ``None`` for other words."""
    if words == _end_of_permanent(task_name):
        return _SHUTDOWN
    return _TERMINATION_REASONS.get(words)


def _end_of_permanent(task_name: str | None) -> str:
    # Rocketry's words at its shutdown for a task that is not meant to end.
    return f"Task '{task_name}' timeouted"


def _who(event: TaskEvent) -> Attributes:
    attributes: Attributes = {}
    task_name, run_id = event.task_name, event.run_id
    if task_name is not None:
        attributes[TASK_NAME] = (
            task_name if len(task_name) <= _ALWAYS_SHORT else short_name(task_name)
        )
    if run_id is not None:
        attributes[RUN_ID] = run_id if len(run_id) <= _ALWAYS_SHORT else short_name(run_id)
    return attributes


def short_name(text: str) -> str:
    """Return a name in the length that is sent."""
    return shortened(text, _LONGEST_NAME)


def short_value(value: AttributeValue) -> AttributeValue:
    """Return the value of an attribute in the length that is sent."""
    if isinstance(value, tuple):
        return tuple(_shortened(one) for one in value)
    return _shortened(value)


def _shortened(value: PlainValue) -> PlainValue:
    return shortened(value, LONGEST_MESSAGE) if isinstance(value, str) else value


def link_attributes(link: RunLink) -> Attributes:
    """Return the attributes of a link of a span: its kind, if it has one, and those of the body."""
    kind: Attributes = {LINK: link.kind} if link.kind else {}
    return {**kind, **dict(link.attributes)}


def _event(event: RunEvent, detail: ExceptionDetail) -> RunEvent:
    pairs = tuple(
        (short_name(key), _event_value(key, value))
        for key, value in event.attributes
        if key not in _HIDDEN[detail]
    )
    return event._replace(name=short_name(event.name), attributes=pairs)


def _event_value(key: str, value: AttributeValue) -> AttributeValue:
    if key == EXCEPTION_STACKTRACE and isinstance(value, str):
        return shortened(value, LONGEST_STACKTRACE)
    return short_value(value)


def _without_last(
    events: tuple[RunEvent, ...], exception: ExceptionInfo | None
) -> tuple[RunEvent, ...]:
    """Leave out the event by which a body has recorded the exception that ended its run.

    That exception has an event of its own. A body that tries again may have recorded equal ones
    before: only the last is left out.
    """
    if exception is None:
        return events
    message = exception.message and shortened(exception.message, LONGEST_MESSAGE)
    for index in range(len(events) - 1, -1, -1):
        recorded = dict(events[index].attributes)
        if events[index].name == EXCEPTION_EVENT and (
            (recorded.get(EXCEPTION_TYPE), recorded.get(EXCEPTION_MESSAGE))
            == (exception.type, message)
        ):
            return events[:index] + events[index + 1 :]
    return events


def exception_attributes(exception: ExceptionInfo | None, detail: ExceptionDetail) -> Attributes:
    """Return the attributes of an exception, as far as the setting allows."""
    if exception is None:
        return {}
    attributes: Attributes = {}
    if exception.type is not None:
        attributes[EXCEPTION_TYPE] = short_name(exception.type)
    if exception.message is not None and detail != "type":
        attributes[EXCEPTION_MESSAGE] = shortened(exception.message, LONGEST_MESSAGE)
    if exception.stacktrace is not None and detail == "full":
        attributes[EXCEPTION_STACKTRACE] = shortened(exception.stacktrace, LONGEST_STACKTRACE)
    return attributes


def _error_description(ended: TaskEvent, detail: ExceptionDetail) -> str:
    if ended.action != FAIL:
        return shortened(ended.message, LONGEST_MESSAGE)
    exception = ended.exception
    if exception is None or exception.type is None:
        return shortened(ended.message, LONGEST_MESSAGE)
    if not exception.message or detail == "type":
        return short_name(exception.type)
    return f"{short_name(exception.type)}: {shortened(exception.message, LONGEST_MESSAGE)}"


def severity_of_level(level: int | None) -> tuple[SeverityNumber, str]:
    """Return the severity of a level of ``logging``, as number and text."""
    if level is None:
        return _INFO
    for lowest, severity in _LEVEL_SEVERITIES:
        if level >= lowest:
            return severity, severity.name
    return SeverityNumber.TRACE, SeverityNumber.TRACE.name

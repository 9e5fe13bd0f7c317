"""From the fields of a record to an event.

In: a mapping of fields, from a live log record or from a stored record. Out: an event with clean
texts and numbers. So the same code makes the same telemetry from both.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from .annotations import RunEvent, RunLink, read_attributes, read_events, read_links
from .durations import NANOSECONDS
from .text import optional_text, safe_text
from .tracebacks import ExceptionInfo, exception_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .plain_values import AttributeValue

RUN = "run"
SUCCESS = "success"
FAIL = "fail"
TERMINATE = "terminate"
INACTION = "inaction"
CRASH = "crash"
ENDINGS = frozenset({SUCCESS, FAIL, TERMINATE, INACTION, CRASH})

EXECUTIONS = frozenset({"main", "async", "thread", "process"})

# Protobuf's timestamps are unsigned, but most backends read them as signed.
_LATEST = 2**63 - 1
_LATEST_SECONDS = _LATEST / NANOSECONDS

# The attribute of a log record under which a child process sends along what the parent cannot
# know: a mapping with some of the fields that a stored record has.
FROM_CHILD = "_rocketry_otel"


class TaskEvent(NamedTuple):
    """The content of one record of a task.

    Attributes:
        task_name: Name of the task.
        action: ``run`` or one of the endings; ``None`` for a record with no action, such as one
            that a task's body logs with ``task.logger.info``.
        created: Nanoseconds since the epoch.
        run_id: Rocketry's id of the run, if it has one.
        message: The log message.
        level: The level of the log record, if known.
        exception: The exception, on a failure.
        execution: ``main``, ``async``, ``thread`` or ``process``, if known.
        process: Id of the process that logged it, as text.
        thread: Identifier of the thread that logged it, as text.
        attributes: Attributes of the task or the user's hooks, sorted by key.
        events: Events of the task, in order.
        links: Links of the run.
    """

    task_name: str | None
    action: str | None
    created: int
    run_id: str | None
    message: str
    level: int | None
    exception: ExceptionInfo | None
    execution: str | None
    process: str | None
    thread: str | None
    attributes: tuple[tuple[str, AttributeValue], ...] = ()
    events: tuple[RunEvent, ...] = ()
    links: tuple[RunLink, ...] = ()

    @property
    def is_task_event(self) -> bool:
        """Whether a repository keeps the record: it has a task name and an action."""
        return self.task_name is not None and self.action is not None


def live_event(
    fields: Mapping[str, Any], message: object, execution: str | None = None
) -> TaskEvent:
    """Return the event that a log record describes.

    An application may put fields of its own on every log record. Under a name of ours such a
    value is not taken for ours.

    Args:
        fields: ``vars()`` of the log record.
        message: Its formatted message.
        execution: The mode of execution, where it is known.
    """
    from_child = fields.get(FROM_CHILD)
    added = from_child if isinstance(from_child, dict) else _NOTHING
    return _event(fields, added, message, execution)


def parse_event(
    fields: Mapping[str, Any], message: object = None, execution: str | None = None
) -> TaskEvent:
    """Return the event that the fields of a stored record describe.

    Args:
        fields: The fields of the record.
        message: The formatted message; without it that of the fields, and where the record has
            none, Rocketry's own text for that action.
        execution: The mode of execution, where the fields have none.

    Returns:
        The event, with clean texts, and numbers in their ranges.
    """
    return _event(fields, fields, fields.get("message") if message is None else message, execution)


_NOTHING: Mapping[str, Any] = {}


def _event(
    fields: Mapping[str, Any],
    added: Mapping[str, Any],
    message: object,
    execution: str | None,
) -> TaskEvent:
    """Return an event.

    Args:
        fields: What Rocketry and ``logging`` have put on the record.
        added: What this project has added.
        message: The formatted message.
        execution: The mode of execution, if it is not among ``added``.
    """
    get = fields.get
    task_name = _known_text(get("task_name"))
    action = _known_text(get("action"))
    stored_execution = added.get("execution")
    its_execution = stored_execution if type(stored_execution) is str else execution
    text = optional_text(message)
    level = get("levelno")
    attributes, events, links = added.get("attributes"), added.get("events"), added.get("links")
    return TaskEvent(
        task_name,
        action,
        nanoseconds(get("created")),
        optional_text(get("run_id")),
        _default_message(task_name, action) if text is None else text,
        level if type(level) is int else None,
        exception_of(fields, added, text) if action == FAIL or action is None else None,
        its_execution if its_execution in EXECUTIONS else None,
        _known_text(get("process")),
        _known_text(get("thread")) or None,
        () if attributes is None else read_attributes(attributes),
        () if events is None else read_events(events),
        () if links is None else read_links(links),
    )


def nanoseconds(seconds: object) -> int:
    """Return seconds since the epoch as nanoseconds in the range that OTLP can carry.

    A value that is no number, or before 1970, becomes 0: OTLP reads that as unknown. A value too
    far in the future becomes the latest time that backends can show.
    """
    try:
        value = float(seconds)  # type: ignore[arg-type]  # raises if it is no number
    except OverflowError:
        return _LATEST
    except Exception:  # noqa: BLE001  # an object of the user's may raise anything
        return 0
    if value >= _LATEST_SECONDS:
        return _LATEST
    return int(value * NANOSECONDS) if value > 0 else 0


def _known_text(value: object) -> str | None:
    """Return ``optional_text`` of a value, from a cache: such values come again and again."""
    if value is None:
        return None
    return _remembered(value) if type(value) is str or type(value) is int else safe_text(value)


_remembered = lru_cache(maxsize=4096, typed=True)(safe_text)


def _default_message(task_name: str | None, action: str | None) -> str:
    # Rocketry's Task.fmt_log_message.
    return f"Task '{task_name}' status: '{action}'"

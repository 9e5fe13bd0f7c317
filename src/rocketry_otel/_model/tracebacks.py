"""The exception of a record, from ``exc_info`` or from the text of its traceback.

In: the fields of a record. Out: type, message and traceback as text.
"""

from __future__ import annotations

import re
import traceback
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .text import optional_text, safe_text

if TYPE_CHECKING:
    from collections.abc import Mapping

_CHAINED = re.compile(
    r"\n\n(?:The above exception was the direct cause of the following exception"
    r"|During handling of the above exception, another exception occurred):\n\n"
    # A message may hold such a line; the next exception begins with its traceback.
    r"(?=Traceback \(most recent call last\):|  \+ Exception Group Traceback)"
)
_TRACEBACK = re.compile(
    r"^(?:Traceback|  \+ Exception Group Traceback) \(most recent call last\):", re.MULTILINE
)
# What `logging` prints for `exc_info=True` where there is no exception.
_NO_EXCEPTION = "NoneType: None"
_EXCEPTION_LINE = re.compile(r"(?P<type>[^\W\d][\w.<>]*)(?:: (?P<message>.*))?", re.DOTALL)
# Modules that Python omits when it prints an exception's name.
_UNNAMED_MODULES = frozenset({"builtins", "__main__", "__mp_main__"})


@dataclass(frozen=True, slots=True)
class ExceptionInfo:
    """An exception as telemetry shows it; each part is ``None`` if unknown."""

    type: str | None
    message: str | None
    stacktrace: str | None


def exception_of(
    fields: Mapping[str, Any],
    added: Mapping[str, Any] | None = None,
    message: str | None = None,
) -> ExceptionInfo | None:
    """Return what the fields of a log record, or of a stored record, hold of an exception.

    The exception itself counts more than a text that another handler has made of it. A stored
    record whose model has no field for the exception's type has a text alone: the rest is read
    from that text.

    Args:
        fields: ``vars()`` of a log record or the fields of a stored record.
        added: Where this project has put type and message; by default ``fields``.
        message: The message of the record. ``logging.handlers.QueueHandler`` puts the traceback
            there, and takes the exception away.

    Returns:
        The exception, or ``None`` if the fields bear none.
    """
    exc_info = fields.get("exc_info")
    added = fields if added is None else added
    exc_text = added.get("exc_text") or fields.get("exc_text")
    stacktrace = optional_text(exc_text)
    value, type_ = _exception_and_type(exc_info)
    if type_ is not None:
        return ExceptionInfo(
            type=safe_text(_qualified_name(type_)),
            message=optional_text(value),
            stacktrace=_formatted(exc_info, value) or stacktrace,
        )
    if stacktrace is None and isinstance(exc_info, str):
        stacktrace = optional_text(exc_info)
    stored_type = optional_text(added.get("exc_type"))
    if stored_type is not None:
        stored_message = added.get("exc_message")
        return ExceptionInfo(stored_type, optional_text(stored_message), stacktrace)
    if stacktrace is None and message is not None:
        found = _TRACEBACK.search(message)
        stacktrace = None if found is None else message[found.start() :]
    if stacktrace is None or stacktrace == _NO_EXCEPTION:
        return None
    return exception_from_text(stacktrace)


def exception_from_text(text: str) -> ExceptionInfo:
    """Return the exception at the end of a printed traceback."""
    lines = _CHAINED.split(text)[-1].splitlines()
    if lines and "Exception Group Traceback" in lines[0]:
        lines = _without_group_margin(lines)
    last = _last_part(lines)
    match = _EXCEPTION_LINE.fullmatch(last)
    if match is None:
        return ExceptionInfo(None, None, text)
    return ExceptionInfo(match["type"], match["message"] or None, text)


def _last_part(lines: list[str]) -> str:
    """Return the part after the frames: the exception's name and its message."""
    for index, line in enumerate(lines):
        if "Traceback (most recent call last):" in line:
            lines = lines[index + 1 :]
            break
    for index, line in enumerate(lines):
        if line and not line[0].isspace():
            return "\n".join(lines[index:]).rstrip("\n")
    return ""


def _without_group_margin(lines: list[str]) -> list[str]:
    """Return the lines of the group itself, without the margin and the inner exceptions."""
    own = []
    for line in lines[1:]:
        stripped = line.lstrip()
        if not stripped.startswith("|"):
            break
        own.append(stripped[2:])
    return own


def _exception_and_type(
    exc_info: object,
) -> tuple[object | None, type[BaseException] | None]:
    """Return value and type from an ``exc_info`` of any shape; ``(None, None)`` if it has none."""
    if isinstance(exc_info, BaseException):
        return exc_info, type(exc_info)
    if isinstance(exc_info, tuple) and exc_info:
        type_ = exc_info[0]
        value = exc_info[1] if len(exc_info) > 1 else None
        if isinstance(value, BaseException):
            return value, type(value)
        if isinstance(type_, type) and issubclass(type_, BaseException):
            return value, type_
    return None, None


def _qualified_name(type_: type[BaseException]) -> str:
    # As in a printed traceback, which is all that a task in a child process leaves: so the name
    # is the same in all modes.
    if type_.__module__ in _UNNAMED_MODULES:
        return type_.__qualname__
    return f"{type_.__module__}.{type_.__qualname__}"


def _formatted(exc_info: object, value: object | None) -> str | None:
    if not isinstance(value, BaseException):
        return None
    tracebacks = [part for part in _parts(exc_info) if isinstance(part, TracebackType)]
    try:
        lines = traceback.format_exception(
            type(value), value, tracebacks[0] if tracebacks else value.__traceback__
        )
    except Exception:  # noqa: BLE001  # an exception of the user's may raise while it is printed
        return None
    return safe_text("".join(lines).rstrip("\n"))


def _parts(exc_info: object) -> tuple[object, ...]:
    return exc_info if isinstance(exc_info, tuple) else ()

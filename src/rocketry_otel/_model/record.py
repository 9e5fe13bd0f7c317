"""The record model that keeps everything that telemetry needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic.v1 import BaseModel, Field

if TYPE_CHECKING:
    from collections.abc import Mapping


class TaskEventRecord(BaseModel):
    """One task event in a Red Bird repository.

    The first three fields are those of Rocketry's ``MinimalRecord``: Rocketry needs them to
    read its own state. Every further field is optional and of a plain type, so that each
    repository (memory, CSV, SQL, MongoDB, JSON) can hold it unchanged. With this model, a
    record that is sent a second time gives the same telemetry as the first time.

    Attributes:
        task_name: Name of the task.
        action: ``run``, ``success``, ``fail``, ``terminate``, ``inaction`` or ``crash``.
        created: When the event was logged, in seconds since the epoch.
        run_id: Rocketry's id of the run; ``None`` if it has none.
        start: When the task's latest run started, in seconds since the epoch, as Rocketry
            reports it.
        end: When the run ended, in seconds since the epoch.
        runtime: Seconds between ``start`` and ``end``.
        message: The log message.
        exc_text: The traceback of a failure.
        exc_type: The qualified name of the exception.
        exc_message: The exception's own text.
        process: Id of the process that logged the event.
        thread: Identifier of the thread that logged the event. It is text because the number
            does not fit the integer column of every database.
        execution: ``main``, ``async``, ``thread`` or ``process``, if known.
        links: Links of the run, such as those to the runs that it waited for, as JSON.
        attributes: Attributes that the task or the user's hooks added, as JSON.
        events: Events that the task added, as JSON.
        trace_id: The run's trace id: 32 hexadecimal digits, as Jaeger's search box takes it.
        span_id: The run's span id: 16 hexadecimal digits.
    """

    task_name: str
    action: str = Field(description="run, success, fail, terminate, inaction or crash")
    created: float
    run_id: str | None = None
    start: float | None = None
    end: float | None = None
    runtime: float | None = None
    message: str | None = None
    exc_text: str | None = None
    exc_type: str | None = None
    exc_message: str | None = None
    process: int | None = None
    thread: str | None = None
    execution: str | None = None
    links: str | None = None
    attributes: str | None = None
    events: str | None = None
    trace_id: str | None = None
    span_id: str | None = None


_REQUIRED = ("task_name", "action", "created")
_TYPES: dict[str, type] = {name: field.type_ for name, field in TaskEventRecord.__fields__.items()}
# Of all records that are kept in memory. A set for each would take more memory than the record.
# Setting a field adds a name that is in the set already.
_ALL_FIELDS = set(_TYPES)
# The combinations of types that were found to be exact.
_exact_types: set[tuple[type, ...]] = set()
_MOST_COMBINATIONS = 256


def exact_record(fields: Mapping[str, Any]) -> TaskEventRecord | None:
    """Return the record with these fields, without a validation that would change nothing.

    That takes a third of the time. The record equals the one that the model would make.

    Args:
        fields: The fields of a log record; those that the model does not have are left out.

    Returns:
        The record; ``None`` if a field has not exactly the type of the model, or a required one is
        missing. Then the model converts or refuses it.
    """
    values = dict(zip(_TYPES, map(fields.get, _TYPES), strict=True))
    types = tuple(map(type, values.values()))
    if types not in _exact_types:
        if not _are_exact(types):
            return None
        # A field has its type or none: a repository has few combinations.
        if len(_exact_types) < _MOST_COMBINATIONS:
            _exact_types.add(types)
    record = TaskEventRecord.__new__(TaskEventRecord)
    # As pydantic's own `construct` does, which takes longer.
    object.__setattr__(record, "__dict__", values)
    object.__setattr__(record, "__fields_set__", _ALL_FIELDS & fields.keys())
    return record


def _are_exact(types: tuple[type, ...]) -> bool:
    return all(
        found is type_ or (found is type(None) and name not in _REQUIRED)
        for found, (name, type_) in zip(types, _TYPES.items(), strict=True)
    )


def share_field_names(record: TaskEventRecord) -> None:
    """Let a record refer to the set of field names that records have in common."""
    if type(record) is TaskEventRecord:
        object.__setattr__(record, "__fields_set__", _ALL_FIELDS)

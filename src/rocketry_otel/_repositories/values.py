"""Values that every repository can hold and compare."""

from __future__ import annotations

from copy import copy
from math import isfinite
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from redbird.oper import In, Operation

from rocketry_otel._model.record import TaskEventRecord
from rocketry_otel._model.text import safe_text

if TYPE_CHECKING:
    from collections.abc import Callable

_NAMES = tuple(TaskEventRecord.__fields__)
_INT64 = range(-(2**63), 2**63)


def storable(name: str, value: Any) -> Any:
    """Return the value of a field in a form that every data store accepts.

    Text has no NUL and no lone surrogate. If a number does not fit into 64 bits, or JSON cannot
    express it, it becomes ``None`` if the field allows that.
    """
    if isinstance(value, str):
        return safe_text(value)
    if isinstance(value, int):
        fits = value in _INT64
    else:
        fits = not isinstance(value, float) or isfinite(value)
    return value if fits or TaskEventRecord.__fields__[name].required else None


def storable_record(record: TaskEventRecord) -> dict[str, Any]:
    """Return all fields of a record, each in a form that every data store accepts."""
    fields = vars(record)
    # Half of the fields of a record are empty.
    return {
        name: None if (value := fields[name]) is None else storable(name, value) for name in _NAMES
    }


def storable_query(query: dict[str, Any]) -> dict[str, Any]:
    """Return a query with its texts in their stored form."""
    return {name: with_text(value, safe_text) for name, value in query.items()}


def with_text(value: Any, convert: Callable[[str], str]) -> Any:
    """Return a value of a query with its text converted, also within Red Bird's operations."""
    if isinstance(value, str):
        return convert(value)
    if isinstance(value, (list, tuple, set, frozenset)):
        return [with_text(one, convert) for one in value]
    if isinstance(value, Operation):
        value = copy(value)
        for attribute, operand in vars(value).items():
            setattr(value, attribute, with_text(operand, convert))
    return value


def satisfies(value: Any, wanted: Any) -> bool:
    """Return whether a value is the wanted one, or fulfils the wanted operation."""
    if not isinstance(wanted, Operation):
        return bool(value == wanted)
    try:
        return bool(wanted.evaluate(value))
    except TypeError:
        # As in SQL, `None` is neither more nor less than any value.
        return False


def matches(record: Any, query: dict[str, Any]) -> bool:
    """Return whether a record matches a query."""
    return all(satisfies(getattr(record, name), wanted) for name, wanted in query.items())


def change_record(record: TaskEventRecord, values: dict[str, Any]) -> None:
    """Set fields of a record; an unknown field raises."""
    for name, value in values.items():
        setattr(record, name, value)


class NewestRecords:
    """The newest entry of each task and action.

    Rocketry queries the last record of a task and an action, or of several actions: six times
    for each task at its start, and at each check of a condition. Without this class, a query
    without a result reads every record.
    """

    def __init__(self) -> None:
        self._entries: dict[tuple[str, str], tuple[int, Any]] = {}

    def add(self, task_name: str, action: str, order: int, entry: Any) -> None:
        """Remember an entry, if it is the newest of its task and action."""
        self._entries[task_name, action] = (order, entry)

    def forget(self, task_name: str, action: str, order: int) -> None:
        """Forget the entry, if it is the newest of its task and action."""
        if self._entries.get((task_name, action), (None,))[0] == order:
            del self._entries[task_name, action]

    def find(self, query: dict[str, Any]) -> Any:
        """Return the newest entry for a query that ``can_answer``; ``None`` if it has no entry."""
        task_name, actions = query["task_name"], query["action"]
        actions = [actions] if isinstance(actions, str) else actions.value
        keys = [(task_name, action) for action in actions]
        # Each is read once: another thread may add or forget in between.
        found = [entry for key in keys if (entry := self._entries.get(key)) is not None]
        return max(found, key=itemgetter(0))[1] if found else None

    @staticmethod
    def can_answer(query: dict[str, Any]) -> bool:
        """Return whether a query is for a task, and for one or several actions."""
        if query.keys() != {"task_name", "action"}:
            return False
        action = query["action"]
        actions = action.value if isinstance(action, In) else [action]
        return (
            isinstance(query["task_name"], str)
            and isinstance(actions, (list, tuple, set, frozenset))
            and all(isinstance(one, str) for one in actions)
        )

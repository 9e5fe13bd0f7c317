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

_INT64 = range(-(2**63), 2**63)


def storable(name: str, value: Any) -> Any:
    """Return the value of a field as any data store takes it.

    Text has no NUL and no lone surrogate. A number that a column of 64 bits cannot hold, or
    that JSON has no notation for, is ``None`` if the field may be so.
    """
    if isinstance(value, str):
        return safe_text(value)
    if isinstance(value, int):
        fits = value in _INT64
    else:
        fits = not isinstance(value, float) or isfinite(value)
    return value if fits or TaskEventRecord.__fields__[name].required else None


def storable_record(record: TaskEventRecord) -> dict[str, Any]:
    """Return all fields of a record, each as any data store takes it."""
    return {name: storable(name, value) for name, value in record.dict().items()}


def storable_query(query: dict[str, Any]) -> dict[str, Any]:
    """Return a query in which text is as it was stored."""
    return {name: with_text(value, safe_text) for name, value in query.items()}


def with_text(value: Any, convert: Callable[[str], str]) -> Any:
    """Return a value of a query with its text converted, within Red Bird's operations too."""
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
    """Tell whether a value is the wanted one, or within the wanted operation."""
    if not isinstance(wanted, Operation):
        return bool(value == wanted)
    try:
        return bool(wanted.evaluate(value))
    except TypeError:
        # `None` is neither more nor less than anything, as in SQL.
        return False


def matches(record: Any, query: dict[str, Any]) -> bool:
    """Tell whether a record has all that a query wants."""
    return all(satisfies(getattr(record, name), wanted) for name, wanted in query.items())


def change_record(record: TaskEventRecord, values: dict[str, Any]) -> None:
    """Set fields of a record; one that the model does not have raises."""
    for name, value in values.items():
        setattr(record, name, value)


class Newest:
    """The newest entry of each task and action.

    Rocketry asks for the last record of a task and an action, or of some actions, six times
    for each task at its start and at each look at a condition. Without this, the answer that
    there is none needs a look at every record.
    """

    def __init__(self) -> None:
        self._entries: dict[tuple[str, str], tuple[int, Any]] = {}

    def add(self, task_name: str, action: str, order: int, entry: Any) -> None:
        """Remember an entry; of two of one task and action the later in order stays."""
        self._entries[task_name, action] = (order, entry)

    def forget(self, task_name: str, action: str, order: int) -> None:
        """Forget the entry if it is the newest of its kind: then there is none left."""
        if self._entries.get((task_name, action), (None,))[0] == order:
            del self._entries[task_name, action]

    def find(self, query: dict[str, Any]) -> Any:
        """Return the newest entry, or ``None`` if there is none.

        Args:
            query: One that ``can_answer``.
        """
        task_name, actions = query["task_name"], query["action"]
        actions = [actions] if isinstance(actions, str) else actions.value
        keys = [(task_name, action) for action in actions]
        # One look at each: another thread may add or forget in between.
        found = [entry for key in keys if (entry := self._entries.get(key)) is not None]
        return max(found, key=itemgetter(0))[1] if found else None

    @staticmethod
    def can_answer(query: dict[str, Any]) -> bool:
        """Tell whether a query asks for a task and for an action or some actions."""
        if query.keys() != {"task_name", "action"}:
            return False
        action = query["action"]
        actions = action.value if isinstance(action, In) else [action]
        return (
            isinstance(query["task_name"], str)
            and isinstance(actions, (list, tuple, set, frozenset))
            and all(isinstance(one, str) for one in actions)
        )

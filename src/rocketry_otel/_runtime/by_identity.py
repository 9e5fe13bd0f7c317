"""What is kept of objects while they live, found by their identity.

In: objects such as tasks, each with a value. Out: the value of an object. Two tasks with equal
fields are equal to pydantic, and a dictionary would compare all fields at each look.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Generic, TypeVar
from weakref import ref

T = TypeVar("T")


class ByIdentity(Generic[T]):
    """A mapping whose keys are compared by identity, and are not kept alive."""

    def __init__(self) -> None:
        """Begin empty."""
        self._kept: dict[int, tuple[ref[Any], T]] = {}

    def get(self, owner: Any) -> T | None:
        """Return the value of an object; ``None`` without one."""
        kept = self._kept.get(id(owner))
        return None if kept is None else kept[1]

    def __setitem__(self, owner: Any, value: T) -> None:
        # The callback gets the dead reference, which is the default of `pop`.
        self._kept[id(owner)] = ref(owner, partial(self._kept.pop, id(owner))), value

    def __len__(self) -> int:
        return len(self._kept)

    def items(self) -> list[tuple[Any, T]]:
        """Return the objects and their values, in the order in which they came."""
        pairs = [(weak(), value) for weak, value in list(self._kept.values())]
        return [pair for pair in pairs if pair[0] is not None]

    def pop(self, owner: Any) -> None:
        """Forget an object."""
        self._kept.pop(id(owner), None)

    def clear(self) -> None:
        """Forget all objects."""
        self._kept.clear()

"""Items that are made on the thread of a channel, so that no task waits for it.

In: a function that makes a span or a log record. Out: the item, or the error.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable


class Deferred(NamedTuple):
    """A span or a log record that is not made yet.

    Attributes:
        make: Lets a provider of ours make it, which passes it to ``catch``.
        lost: Called with the error if it cannot be made.
    """

    make: Callable[[], object]
    lost: Callable[[Exception], object]


class _Catching(threading.local):
    """What a provider of ours has made on this thread; ``None`` if its queues take it."""

    items: list[Any] | None = None


_catching = _Catching()


def catch(item: Any) -> bool:
    """Take an item that a provider of ours has made on this thread, if it is a deferred one."""
    if _catching.items is None:
        return False
    _catching.items.append(item)
    return True


def made(deferred: Deferred) -> Any:
    """Make a deferred item.

    Args:
        deferred: The item.

    Returns:
        The item; ``None`` if the provider makes none, because its scope is disabled.

    Raises:
        Exception: The error of the provider or the mapping.
    """
    items: list[Any] = []
    _catching.items = items
    try:
        deferred.make()
    finally:
        _catching.items = None
    return items[0] if items else None

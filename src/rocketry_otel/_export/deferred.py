"""Items that are made on the thread of a channel, so that no task waits for it.

In: an event and its run. Out: the span or the log record, or the error.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from rocketry_otel._runtime.forks import no_fork

if TYPE_CHECKING:
    from rocketry_otel._model.event import TaskEvent
    from rocketry_otel._model.runs import Run

    from .encoded import Encoded


class Maker(Protocol):
    """Makes the items of one signal."""

    # The run is `None` if the event belongs to none. The span of no run is not made.
    def make(self, event: TaskEvent, run: Any) -> object:
        """Let a provider of ours make an item, which passes it to ``catch``."""
        ...

    def encode(self, event: TaskEvent, run: Any) -> Encoded | None:
        """Return the same item as bytes; ``None`` if only the provider can make it."""
        ...

    def lost(self, error: Exception) -> object:
        """Count an item that cannot be made."""
        ...


class Deferred(NamedTuple):
    """A span or a log record that is not made yet.

    Attributes:
        maker: Makes it.
        event: The event of the record.
        run: Its run, if it has one.
    """

    maker: Maker
    event: TaskEvent
    run: Run | None


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


def made(deferred: Deferred, *, encoded: bool = False) -> Any:
    """Make a deferred item.

    Args:
        deferred: The item.
        encoded: Whether the destination takes encoded items.

    Returns:
        The item, encoded or not; ``None`` if the provider makes none, because its scope is
        disabled.

    Raises:
        Exception: The error of the provider or the mapping.
    """
    maker, event, run = deferred
    if encoded:
        try:
            item = maker.encode(event, run)
        except Exception:  # noqa: BLE001  # the provider's way shows whether it is an error
            item = None
        if item is not None:
            return item
    items: list[Any] = []
    # A child that is forked meanwhile could inherit a lock of the SDK.
    with no_fork:
        _catching.items = items
        try:
            maker.make(event, run)
        finally:
            _catching.items = None
    return items[0] if items else None

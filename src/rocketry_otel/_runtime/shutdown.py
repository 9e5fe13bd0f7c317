"""The end of the program: all handlers send their queues at the same time.

In: the objects that were remembered. Out: each is closed within its own time limit. All limits
begin at the same moment, so a collector that hangs takes no time from the others.
"""

from __future__ import annotations

import atexit
import logging
import multiprocessing.util
import time
import weakref
from functools import partial
from typing import TYPE_CHECKING, Protocol

from .scope import NAME

if TYPE_CHECKING:
    from collections.abc import Callable

_logger = logging.getLogger(NAME)

# Before the finalizers of multiprocessing itself, which wait for child processes.
_PRIORITY = 100


class Closable(Protocol):
    """An object to close when the program ends."""

    @property
    def shutdown_timeout(self) -> float:
        """The most seconds that closing may take."""
        ...

    def begin_closing(self, deadline: float) -> None:
        """Begin to send the queues, until ``deadline`` (``time.monotonic()``); do not wait."""
        ...

    def close(self, timeout: float) -> None:
        """Close, within ``timeout`` seconds."""
        ...


_open: weakref.WeakSet[Closable] = weakref.WeakSet()


def remember(closable: Closable) -> None:
    """Close an object when the program ends, unless it is forgotten first."""
    _open.add(closable)


def forget(closable: Closable) -> None:
    """Do not close an object when the program ends: it is closed already."""
    _open.discard(closable)


def close_all() -> None:
    """Close all open objects; their time limits run at the same time, not in turn."""
    began = time.monotonic()
    deadlines = [(closable, began + closable.shutdown_timeout) for closable in list(_open)]
    for closable, deadline in deadlines:
        _try(partial(closable.begin_closing, deadline))
    for closable, deadline in deadlines:
        _try(partial(closable.close, max(deadline - time.monotonic(), 0.0)))


def _try(step: Callable[[], None]) -> None:
    try:
        step()
    except Exception:  # the other objects are closed all the same
        _logger.warning("Telemetry could not be ended", exc_info=True)


def _close_at_the_end_of_a_child(_: object = None) -> None:
    # A child of multiprocessing ends by os._exit: it runs these finalizers, but not atexit.
    multiprocessing.util.Finalize(None, close_all, exitpriority=_PRIORITY)


atexit.register(close_all)
# For a forked child, which forgets its parent's finalizers, and for a child that imports this
# module itself.
multiprocessing.util.register_after_fork(close_all, _close_at_the_end_of_a_child)
_close_at_the_end_of_a_child()

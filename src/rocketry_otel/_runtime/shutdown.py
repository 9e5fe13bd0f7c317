"""Leaving the program: all that waits is sent within one time limit for all handlers."""

from __future__ import annotations

import atexit
import logging
import multiprocessing.util
import time
import weakref
from typing import Any, Protocol

from .scope import NAME

_logger = logging.getLogger(NAME)

# Before the finalizers of multiprocessing itself, which wait for child processes.
_PRIORITY = 100


class Closable(Protocol):
    """What is closed when the program ends."""

    @property
    def shutdown_timeout(self) -> float:
        """How many seconds closing may take."""
        ...

    def close(self, timeout: float) -> None:
        """Close, within ``timeout`` seconds."""
        ...


class Flushable(Protocol):
    """What has something to send when the program ends."""

    def hurry(self) -> Any:
        """Begin to send it, without waiting."""
        ...


_open: weakref.WeakSet[Closable] = weakref.WeakSet()
_flushables: weakref.WeakSet[Flushable] = weakref.WeakSet()


def remember(closable: Closable) -> None:
    """Close ``closable`` when the program ends, unless it is forgotten first."""
    _open.add(closable)


def forget(closable: Closable) -> None:
    """Leave ``closable`` alone when the program ends: it is closed already."""
    _open.discard(closable)


def remember_flushable(flushable: Flushable) -> None:
    """Let ``flushable`` send what it has before anything is closed and waited for."""
    _flushables.add(flushable)


def close_all() -> None:
    """Close all that is open; the time limits run at the same time, not one after another."""
    began = time.monotonic()
    for flushable in list(_flushables):
        flushable.hurry()
    for closable in list(_open):
        try:
            closable.close(max(closable.shutdown_timeout - (time.monotonic() - began), 0.0))
        except Exception:  # noqa: PERF203  # the others are to be closed all the same
            _logger.warning("Telemetry could not be ended", exc_info=True)


def _close_at_the_end_of_a_child(_: object = None) -> None:
    # A child of multiprocessing leaves by os._exit: it runs these finalizers, but not atexit.
    multiprocessing.util.Finalize(None, close_all, exitpriority=_PRIORITY)


atexit.register(close_all)
# For a child that is forked, which forgets its parent's finalizers, and for one that imports
# this module itself.
multiprocessing.util.register_after_fork(close_all, _close_at_the_end_of_a_child)
_close_at_the_end_of_a_child()

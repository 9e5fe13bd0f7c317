"""Threads that end with the program, and waits with a deadline.

In: a function to run, or a condition to wait for. Out: a daemon thread; whether it came in time.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from .suppression import suppress

if TYPE_CHECKING:
    from collections.abc import Callable


def wait_until(changed: threading.Condition, deadline: float, done: Callable[[], bool]) -> bool:
    """Wait until ``done`` returns true or the deadline has come; the caller holds the condition.

    Unlike ``Condition.wait_for`` it takes any deadline: one in a thousand years, or infinity.

    Returns:
        Whether ``done`` returned true.
    """
    while not done():
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        changed.wait(min(left, threading.TIMEOUT_MAX))
    return True


def start_thread(work: Callable[[], None], name: str) -> threading.Thread | None:
    """Start a thread that ends with the program; return ``None`` if no thread can start."""

    def uninstrumented() -> None:
        # An application that traces its HTTP client would trace the sending of each trace.
        suppress()
        work()

    thread = threading.Thread(target=uninstrumented, name=f"rocketry-otel-{name}", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        # The interpreter is ending, or the machine has no more threads.
        return None
    return thread

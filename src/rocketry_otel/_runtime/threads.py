"""Threads that end with the program, and waiting with a deadline."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from .suppression import suppress

if TYPE_CHECKING:
    from collections.abc import Callable


def wait_until(changed: threading.Condition, deadline: float, done: Callable[[], bool]) -> bool:
    """Wait on a condition that is held until something is done, or the deadline has come.

    Unlike ``Condition.wait_for`` it takes any deadline: one in a thousand years, or infinity.

    Returns:
        Whether it was done.
    """
    while not done():
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        changed.wait(min(left, threading.TIMEOUT_MAX))
    return True


def start_thread(work: Callable[[], None], name: str) -> threading.Thread | None:
    """Start a thread that ends with the program; ``None`` if there can be none."""

    def uninstrumented() -> None:
        # An application that traces its HTTP client would trace the sending of each trace.
        suppress()
        work()

    thread = threading.Thread(target=uninstrumented, name=f"rocketry-otel-{name}", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        # The interpreter is on its way out, or the machine has no more threads.
        return None
    return thread

"""When what is sent: limits of a queue, pauses after failures, and threads for it."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, attach, set_value

if TYPE_CHECKING:
    from collections.abc import Callable

SHORTEST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """How much waits, and for how long.

    Attributes:
        size: How many items wait at most.
        batch: How many items go in one request at most.
        delay: How many seconds an item waits at most for others to go with it.
    """

    size: int = 2048
    batch: int = 512
    delay: float = 5.0


def pause_after(failures: int) -> float:
    """Return how many seconds to leave a destination alone: more each time, and at random."""
    longest = min(SHORTEST_PAUSE * 2.0 ** min(failures, 10), _LONGEST_PAUSE)
    return longest * random.uniform(0.5, 1.0)  # noqa: S311  # it spreads load and hides nothing


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
        attach(set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))  # noqa: FBT003  # a value
        work()

    thread = threading.Thread(target=uninstrumented, name=f"rocketry-otel-{name}", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        # The interpreter is on its way out, or the machine has no more threads.
        return None
    return thread

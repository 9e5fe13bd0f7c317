"""The exit of a forked child while coverage is measured.

Coverage replaces ``os._exit`` by a function of its own, which stores what the child has run. A
signal whose handler raises would cut it short. The exception would then leave the frames that the
child has inherited: the rest of a test, and of all tests, would run a second time in the child.
"""

from __future__ import annotations

import posix
import signal
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable


def uninterrupted(leave: Callable[[int], object]) -> Callable[[int], NoReturn]:
    """Return a function that ends the process, whatever signals come during ``leave``."""

    def leave_for_good(status: int) -> NoReturn:
        try:
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            leave(status)
        finally:
            posix._exit(status)

    return leave_for_good

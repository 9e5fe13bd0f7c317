"""Fixtures of the tests of the demo."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest


@pytest.fixture
def _terminable() -> Iterator[None]:
    """Leave SIGTERM and SIGHUP at their defaults, which another test may have changed."""
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, signal.SIG_DFL) for number in numbers]
    # Else a watcher that another test has left hears a SIGTERM of this one. If it is slow, its own
    # handler is back by then, and it ends the process of the tests.
    descriptor = signal.set_wakeup_fd(-1)
    yield
    signal.set_wakeup_fd(descriptor)
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)

from __future__ import annotations

import os
import signal

import pytest

from tests.support.exits import uninterrupted


def interrupt(_: int) -> None:
    """Send this process a signal whose handler raises."""
    os.kill(os.getpid(), signal.SIGUSR1)


def fail(_: int) -> None:
    """Raise an error."""
    raise ValueError("the data cannot be stored")


@pytest.mark.parametrize("leave", [interrupt, fail])
def test_child_ends_whatever_comes(leave) -> None:
    """It does not go on with the test that has forked it."""

    def handler(*_: object) -> None:
        raise SystemExit

    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGUSR1, handler)
        uninterrupted(leave)(7)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 7

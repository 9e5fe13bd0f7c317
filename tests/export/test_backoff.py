from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, get_value

from rocketry_otel._export.backoff import pause_after
from rocketry_otel._runtime.threads import start_thread, wait_until

LONG = 20.0


def test_pauses_grow_to_half_a_minute() -> None:
    """Each failure doubles the pause, to 30 s at most, and no two processes pause in step."""
    longest = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    for failures, limit in enumerate(longest):
        pauses = {pause_after(failures) for _ in range(50)}
        assert limit / 2 <= min(pauses) < max(pauses) <= limit
    assert pause_after(10**6) <= 30.0


def test_any_deadline_can_be_waited_for() -> None:
    """A deadline beyond what the machine can count to is no error."""
    changed = threading.Condition()
    done = iter([False, True])

    def notify() -> None:
        with changed:
            changed.notify_all()

    with changed:
        threading.Thread(target=notify).start()
        assert wait_until(changed, float("inf"), lambda: next(done)) is True
        assert wait_until(changed, float("-inf"), lambda: False) is False


def test_what_a_thread_of_ours_does_is_not_traced() -> None:
    """Its name says whose it is, it ends with the program, and instrumentation is told to stop."""
    seen = []
    thread = start_thread(lambda: seen.append(get_value(_SUPPRESS_INSTRUMENTATION_KEY)), "traces")
    assert thread is not None
    thread.join(LONG)
    assert (thread.name, thread.daemon, seen) == ("rocketry-otel-traces", True, [True])


def test_no_thread_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the machine has no more threads there is none, and nothing is raised."""

    def fail(_: Callable[[], None]) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    assert start_thread(lambda: None, "traces") is None

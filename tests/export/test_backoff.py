from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, get_value

from rocketry_otel._export.backoff import pause_after
from rocketry_otel._runtime.threads import start_thread, wait_until

LONG = 20.0


def test_pause_grows_to_30_seconds() -> None:
    """Each failure doubles the pause, up to 30 s, with a random part for each process."""
    longest = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    for failures, limit in enumerate(longest):
        pauses = {pause_after(failures) for _ in range(50)}
        assert limit / 2 <= min(pauses) < max(pauses) <= limit
    assert pause_after(10**6) <= 30.0


def test_wait_takes_any_deadline() -> None:
    """A deadline beyond the machine's range is no error."""
    changed = threading.Condition()
    done = iter([False, True])

    def notify() -> None:
        with changed:
            changed.notify_all()

    with changed:
        threading.Thread(target=notify).start()
        assert wait_until(changed, float("inf"), lambda: next(done)) is True
        assert wait_until(changed, float("-inf"), lambda: False) is False


def test_our_thread_is_not_traced() -> None:
    """It bears our name, ends with the program, and suppresses instrumentation."""
    seen = []
    thread = start_thread(lambda: seen.append(get_value(_SUPPRESS_INSTRUMENTATION_KEY)), "traces")
    assert thread is not None
    thread.join(LONG)
    assert (thread.name, thread.daemon, seen) == ("rocketry-otel-traces", True, [True])


def test_missing_thread_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the machine has no more threads, the result is ``None``."""

    def fail(_: Callable[[], None]) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    assert start_thread(lambda: None, "traces") is None

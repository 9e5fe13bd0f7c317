from __future__ import annotations

import os
import threading

import pytest

from rocketry_otel._export.counters import Counters


def test_counts_are_by_signal_outcome_and_reason() -> None:
    """A total adds the counts of all reasons."""
    counters = Counters()
    counters.add("traces", "delivered", 3)
    counters.add("traces", "delivered")
    counters.add("traces", "dropped", 2, "queue_full")
    counters.add("traces", "dropped", reason="closed")
    counters.add("logs", "dropped", 5, "closed")
    assert counters.of("traces", "delivered") == {"": 4}
    assert counters.of("traces", "dropped") == {"queue_full": 2, "closed": 1}
    assert counters.of("logs", "delivered") == {}
    assert counters.total("traces", "dropped") == 3
    assert counters.total("logs", "failed") == 0


def test_threads_lose_no_count() -> None:
    """Threads that count at the same time are all counted."""
    counters = Counters()

    def add() -> None:
        for _ in range(2000):
            counters.add("logs", "delivered")

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counters.total("logs", "delivered") == 8000


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_child_starts_at_zero() -> None:
    """A child neither reports its parent's items nor waits for its parent's lock."""
    counters = Counters()
    counters.add("traces", "delivered", 7)
    held = threading.Event()
    let_go = threading.Event()

    def hold() -> None:
        with counters._lock:
            held.set()
            let_go.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(10)
    pid = os.fork()
    if pid == 0:
        counters.add("traces", "delivered", 2)
        os._exit(counters.total("traces", "delivered"))
    let_go.set()
    holder.join()
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 2
    assert counters.total("traces", "delivered") == 7

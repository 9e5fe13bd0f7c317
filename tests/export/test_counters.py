from __future__ import annotations

import os
import threading

import pytest

from rocketry_otel._export.counters import Counts


def test_items_are_counted_by_signal_outcome_and_reason() -> None:
    """Each count stands under its own signal, outcome and reason; a total leaves the reason out."""
    counts = Counts()
    counts.add("traces", "delivered", 3)
    counts.add("traces", "delivered")
    counts.add("traces", "dropped", 2, "queue_full")
    counts.add("traces", "dropped", reason="closed")
    counts.add("logs", "dropped", 5, "closed")
    assert counts.of("traces", "delivered") == {"": 4}
    assert counts.of("traces", "dropped") == {"queue_full": 2, "closed": 1}
    assert counts.of("logs", "delivered") == {}
    assert counts.total("traces", "dropped") == 3
    assert counts.total("logs", "failed") == 0


def test_no_count_is_lost_between_threads() -> None:
    """Threads that count at the same time are all counted."""
    counts = Counts()

    def add() -> None:
        for _ in range(2000):
            counts.add("logs", "delivered")

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts.total("logs", "delivered") == 8000


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_begins_at_nothing_whatever_lock_was_held() -> None:
    """A child neither tells of its parent's items nor waits for a lock of its parent's."""
    counts = Counts()
    counts.add("traces", "delivered", 7)
    held = threading.Event()
    let_go = threading.Event()

    def hold() -> None:
        with counts._lock:
            held.set()
            let_go.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(10)
    pid = os.fork()
    if pid == 0:
        counts.add("traces", "delivered", 2)
        os._exit(counts.total("traces", "delivered"))
    let_go.set()
    holder.join()
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 2
    assert counts.total("traces", "delivered") == 7

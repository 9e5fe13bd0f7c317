from __future__ import annotations

import gc
import os
import threading
import weakref

import pytest
from opentelemetry.context import Context

from rocketry_otel._instrumentation.launched import Launched
from rocketry_otel._instrumentation.pending_launches import Launch, PendingLaunches
from rocketry_otel._model.annotations import RunLink


def launch(number: int) -> Launch:
    """Return a launch that differs from others."""
    return Launch(Context({"n": number}), (RunLink(number + 1, 1, "dependency"),))


def test_launch_is_taken_once() -> None:
    """The first record of its run takes it, and nothing is left."""
    pending_launches = PendingLaunches()
    assert pending_launches.take("etl", "r1") is None
    pending_launches.put("etl", "r1", launch(1))
    assert pending_launches.take("other", "r1") is None
    assert pending_launches.take("etl", "r2") is None
    assert pending_launches.take("etl", "r1") == launch(1)
    assert pending_launches.take("etl", "r1") is None
    assert not pending_launches._launches


def test_launches_of_one_id_are_taken_in_order() -> None:
    """A function of the user may give the same id, or none, to several runs."""
    pending_launches = PendingLaunches()
    for number in range(3):
        pending_launches.put("etl", None, launch(number))
    assert [pending_launches.take("etl", None) for _ in range(4)] == [
        launch(0),
        launch(1),
        launch(2),
        None,
    ]
    assert not pending_launches._launches


@pytest.mark.parametrize(
    ("task_name", "run_id", "as_recorded"),
    [
        ("etl", 5, ("etl", "5")),
        (7, ["x"], ("7", "['x']")),
        ("a\x00", "\ud800", ("a\\x00", "\\ud800")),
    ],
)
def test_launch_is_found_by_the_record(
    task_name: object, run_id: object, as_recorded: tuple[str, str]
) -> None:
    """Names and ids of any type are found by the text of the event."""
    pending_launches = PendingLaunches()
    pending_launches.put(task_name, run_id, launch(1))
    assert pending_launches.take(*as_recorded) == launch(1)


def test_launches_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit the oldest launch is dropped, under many ids or under one."""
    monkeypatch.setattr("rocketry_otel._instrumentation.pending_launches._MOST", 3)
    pending_launches = PendingLaunches()
    for number in range(5):
        pending_launches.put("etl", f"r{number}", launch(number))
    assert [pending_launches.take("etl", f"r{number}") for number in range(5)] == [
        None, None, launch(2), launch(3), launch(4),
    ]  # fmt: skip
    for number in range(5):
        pending_launches.put("etl", "same", launch(number))
    assert [pending_launches.take("etl", "same") for _ in range(4)] == [
        launch(2), launch(3), launch(4), None,
    ]  # fmt: skip


def test_lock_held_at_a_fork_blocks_no_child() -> None:
    """The child has its own lock, and the launches before the fork."""
    pending_launches = PendingLaunches()
    pending_launches.put("etl", "r1", launch(1))
    with pending_launches._lock:
        pid = os.fork()
        if pid == 0:
            free = pending_launches._lock.acquire(timeout=5)
            pending_launches._lock.release()
            os._exit(0 if free and pending_launches.take("etl", "r1") == launch(1) else 1)
        _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert pending_launches.take("etl", "r1") == launch(1)


def test_forks_keep_no_launches_alive() -> None:
    """The registration for a fork ends with its handler."""
    pending_launches = PendingLaunches()
    gone = weakref.ref(pending_launches)
    del pending_launches
    gc.collect()
    assert gone() is None


def test_threads_can_put_and_take_at_once() -> None:
    """Each run gets its own launch, and every launch is taken."""
    pending_launches = PendingLaunches()
    barrier = threading.Barrier(8)
    wrong: list[tuple[int, int]] = []

    def work(number: int) -> None:
        barrier.wait(10)
        for run in range(200):
            pending_launches.put(f"t{number}", f"r{run}", launch(run))
            if pending_launches.take(f"t{number}", f"r{run}") != launch(run):
                wrong.append((number, run))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert not pending_launches._launches


def test_newest_launch_is_followed() -> None:
    """Rocketry's own object of a run is known after its id."""
    pending_launches = PendingLaunches()
    first, second = Launched("task", "run 1", "key"), Launched("task", "run 2", "key")
    for number, one in enumerate((first, second)):
        pending_launches.put("etl", "r1", launch(number))
        pending_launches.follow("etl", "r1", one)
    assert pending_launches.take("etl", "r1") == launch(0)._replace(launched=first)
    assert pending_launches.take("etl", "r1") == launch(1)._replace(launched=second)


def test_launch_that_was_not_noted_is_followed() -> None:
    """The application may have set another function for run ids since."""
    pending_launches = PendingLaunches()
    launched = Launched("task", "run", "key")
    pending_launches.follow("etl", "r1", launched)
    assert pending_launches.take("etl", "r1") == Launch(None, (), launched)
    assert not pending_launches._launches

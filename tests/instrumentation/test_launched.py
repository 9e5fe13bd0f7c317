from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from rocketry_otel._instrumentation.launched import GoneRuns, Launched
from rocketry_otel._model.ids import RunIds
from rocketry_otel._model.runs import Run


def run_of(launch: object) -> Run:
    """Return an open run."""
    return Run(RunIds(1, 1), began=None, launch=launch)


def launched(worker: Any, *, alive: bool = False, key: str = "app") -> Launched:
    """Return a run as Rocketry holds it."""
    task_run = SimpleNamespace(task=worker, is_alive=lambda: alive)
    return Launched(SimpleNamespace(_run_stack=[]), task_run, key)


def test_run_without_worker_goes_on_while_it_is_on_the_stack() -> None:
    """In main mode the scheduler itself runs the body."""
    one = launched(None, alive=True)
    assert not one.goes_on
    one.task._run_stack.append(one.run)
    assert one.goes_on
    assert one.exit_code is None


@pytest.mark.parametrize("alive", [True, False])
def test_run_goes_on_while_its_worker_lives(alive: bool) -> None:  # noqa: FBT001
    """A thread, a process or an asyncio task works on it."""
    assert launched(object(), alive=alive).goes_on is alive


def test_dead_thread_is_found_at_once() -> None:
    """It has logged whatever it had to log."""
    run = run_of(launched(object()))
    assert GoneRuns().find([run], "app") == [(run, None)]


def test_dead_child_is_found_at_the_second_look() -> None:
    """Its records may still be in the queue at the first one."""
    run = run_of(launched(SimpleNamespace(exitcode=-9)))
    gone = GoneRuns()
    assert gone.find([run], "app") == []
    assert gone.find([run], "app") == [(run, -9)]


def test_dead_child_is_found_at_once_if_the_queue_is_empty() -> None:
    """At the end of the scheduler no more records can come."""
    run = run_of(launched(SimpleNamespace(exitcode=3)))
    assert GoneRuns().find([run], "app", is_drained=True) == [(run, 3)]


def test_run_is_no_other_one_that_had_its_place_in_memory() -> None:
    """The record of the new one's child may still be in the queue at the first look."""
    gone = GoneRuns()
    for number in range(100):
        assert gone.find([run_of(launched(SimpleNamespace(exitcode=number)))], "app") == []


@pytest.mark.parametrize(
    "launch", [None, launched(object(), key="other"), launched(object(), alive=True)]
)
def test_other_runs_are_left_alone(launch: object) -> None:
    """These are runs that another session launched, that go on, or of which nothing is known."""
    gone = GoneRuns()
    for _ in range(2):
        assert gone.find([run_of(launch)], "app", is_drained=True) == []


def test_memory_is_that_of_the_open_runs() -> None:
    """A run that ends between two looks is forgotten."""
    gone = GoneRuns()
    gone.find([run_of(launched(SimpleNamespace(exitcode=0)))], "app")
    assert len(gone._found_before) == 1
    gone.find([], "app")
    assert not gone._found_before

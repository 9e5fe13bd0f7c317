"""Why a run is terminated."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from rocketry.core import Task
from rocketry.core.task import TaskRun

from rocketry_otel._instrumentation.terminations import Terminations, termination_of
from tests.support.apps import make_app, succeed


class Run(TaskRun):  # type: ignore[misc]  # Rocketry has no types
    """A run that can be terminated at any time."""

    async def terminate(self) -> None:
        """Do nothing: the thread of a task does not end at once."""

    is_process = False


@pytest.fixture
def terminations() -> Iterator[Terminations]:
    """Terminations that watch nothing yet."""
    before = Task._terminate_run
    yield Terminations()
    assert Task._terminate_run is before


def terminated(task: Any, *reasons: Any) -> str | None:
    """Terminate a run for one reason after the other; return the one that is kept."""
    run = Run(start=1.0, task=None)
    for reason in reasons:
        asyncio.run(task._terminate_run(run, reason=reason))
    asyncio.run(task._terminate_run(run))
    return termination_of(run)


def task_of_an_app() -> Any:
    """Return a task of an application of its own."""
    return make_app().session.create_task(func=succeed, name="etl")


def test_first_known_reason_is_kept(terminations: Terminations) -> None:
    """Rocketry repeats the call until a thread has ended, and later for its own shutdown."""
    task = task_of_an_app()
    terminations.watch(Task, task.session)
    assert terminated(task, "of my own", "timeouted", "forced termination") == "timeout"
    assert terminated(task, "Task 'etl' timeouted") == "shutdown"
    assert terminated(task, "of my own") is None
    terminations.unwatch(Task, task.session)


def test_method_is_wrapped_once_for_all_sessions(terminations: Terminations) -> None:
    """It is restored after the last session; no other session is watched."""
    first, second, third = (task_of_an_app() for _ in range(3))
    before = Task._terminate_run
    terminations.watch(Task, first.session)
    wrapper = Task._terminate_run
    terminations.watch(Task, second.session)
    assert Task._terminate_run is wrapper is not before
    terminations.unwatch(Task, first.session)
    tasks = (first, second, third)
    found = [terminated(task, "forced termination") for task in tasks]
    assert found == [None, "requested", None]
    terminations.unwatch(Task, second.session)


def test_wrapper_of_other_code_stays(
    terminations: Terminations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours stays inside of it, and does nothing."""
    task = task_of_an_app()
    terminations.watch(Task, task.session)
    ours = Task._terminate_run

    def other(*args: Any, **kwargs: Any) -> Any:
        return ours(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Task, "_terminate_run", other)
        terminations.unwatch(Task, task.session)
        assert Task._terminate_run is other
        assert terminated(task, "timeouted") is None
    terminations.unwatch(Task, task.session)


def test_odd_reason_does_not_stop_the_termination(
    terminations: Terminations, caplog: pytest.LogCaptureFixture
) -> None:
    """A caller may give any object."""

    class Odd:
        def __str__(self) -> str:
            raise RuntimeError("no text")

    task = task_of_an_app()
    terminations.watch(Task, task.session)
    with caplog.at_level(logging.DEBUG, "rocketry_otel"):
        assert terminated(task, Odd()) is None
    terminations.unwatch(Task, task.session)
    assert [record.getMessage() for record in caplog.records if record.name == "rocketry_otel"] == [
        "the reason of a termination could not be kept"
    ]

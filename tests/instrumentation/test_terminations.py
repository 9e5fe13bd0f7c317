"""Why a run is terminated."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from rocketry.core import Task
from rocketry.core.task import TaskRun

from rocketry_otel._instrumentation.terminations import termination_of, terminations
from tests.support.apps import make_app, succeed


class Run(TaskRun):  # type: ignore[misc]  # Rocketry has no types
    """A run that can be terminated at any time."""

    async def terminate(self) -> None:
        """Do nothing: the thread of a task does not end at once."""

    is_process = False


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


def test_first_known_reason_is_kept() -> None:
    """Rocketry repeats the call until a thread has ended, and later for its own shutdown."""
    task = task_of_an_app()
    terminations.watch(Task, task.session)
    assert terminated(task, "of my own", "timeouted", "forced termination") == "timeout"
    assert terminated(task, "Task 'etl' timeouted") == "shutdown"
    assert terminated(task, "of my own") is None
    terminations.unwatch(Task, task.session)


def test_odd_reason_does_not_stop_the_termination(caplog: pytest.LogCaptureFixture) -> None:
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
        "a call of _terminate_run could not be followed"
    ]

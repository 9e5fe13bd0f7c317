from __future__ import annotations

import gc
import logging
import weakref
from typing import Any

import pytest

from rocketry_otel._instrumentation.watched_method import WatchedMethod


class Session:
    """A session that can be referred to weakly, as Rocketry's can."""


class Task:
    """A class of tasks with a method."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def add(self, number: int, more: int = 0) -> int:
        """Add numbers."""
        if number < 0:
            raise ValueError("a number below zero")
        return number + more


ORIGINAL = Task.add


class Followed:
    """A method that is watched, and its calls."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.method = WatchedMethod("add", self._follow)

    def _follow(self, task: Task, result: int, number: int, more: int = 0) -> int:
        self.calls.append((task, result, number, more))
        return result


def test_calls_for_watched_sessions_are_followed() -> None:
    """The method is wrapped once, and restored after the last session."""
    followed = Followed()
    first, second, third = (Task(Session()) for _ in range(3))
    followed.method.watch(Task, first.session)
    wrapper = Task.add
    followed.method.watch(Task, second.session)
    assert Task.add is wrapper is not ORIGINAL
    assert wrapper.__doc__ == "Add numbers."
    assert [task.add(1, more=2) for task in (first, second, third)] == [3, 3, 3]
    assert followed.calls == [(first, 3, 1, 2), (second, 3, 1, 2)]
    followed.method.unwatch(Task, first.session)
    assert Task.add is wrapper
    assert (first.add(1), second.add(2)) == (1, 2)
    assert followed.calls[2:] == [(second, 2, 2, 0)]
    for _ in range(2):
        followed.method.unwatch(Task, second.session)
        assert Task.add is ORIGINAL


def test_result_of_the_function_is_that_of_the_call() -> None:
    """It may give the caller another one."""
    task = Task(Session())
    method = WatchedMethod("add", lambda _task, result, *_: result * 10)
    method.watch(Task, task.session)
    assert task.add(2) == 20
    method.unwatch(Task, task.session)
    assert task.add(2) == 2


def test_error_of_the_method_reaches_the_caller_and_ours_does_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A call that failed is not followed."""
    task, calls = Task(Session()), []

    def broken(_task: Task, result: int, *_: Any) -> int:
        calls.append(result)
        raise RuntimeError("a fault of ours")

    method = WatchedMethod("add", broken)
    method.watch(Task, task.session)
    with caplog.at_level(logging.DEBUG, "rocketry_otel"):
        assert task.add(1) == 1
        with pytest.raises(ValueError, match="below zero"):
            task.add(-1)
    method.unwatch(Task, task.session)
    assert calls == [1]
    assert [record.getMessage() for record in caplog.records] == [
        "a call of add could not be followed"
    ]


def test_wrapper_of_other_code_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours stays inside of it and does nothing; watched again, a call is followed once."""
    followed, task = Followed(), Task(Session())
    with monkeypatch.context() as patch:
        patch.setattr(Task, "add", ORIGINAL)
        followed.method.watch(Task, task.session)
        ours = Task.add

        def theirs(self: Task, *args: Any, **kwargs: Any) -> int:
            return ours(self, *args, **kwargs)

        patch.setattr(Task, "add", theirs)
        followed.method.unwatch(Task, task.session)
        assert Task.add is theirs
        assert (task.add(1), followed.calls) == (1, [])
        followed.method.watch(Task, task.session)
        assert (task.add(1), followed.calls) == (1, [(task, 1, 1, 0)])
        followed.method.unwatch(Task, task.session)
        assert Task.add is theirs
    assert Task.add is ORIGINAL


def test_deleted_session_is_not_kept() -> None:
    """The wrapper stays until another session comes and goes."""
    followed, task = Followed(), Task(Session())
    followed.method.watch(Task, task.session)
    weak = weakref.ref(task.session)
    del task
    gc.collect()
    assert weak() is None
    other = Session()
    followed.method.watch(Task, other)
    followed.method.unwatch(Task, other)
    assert Task.add is ORIGINAL

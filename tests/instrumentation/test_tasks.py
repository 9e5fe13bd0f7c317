from __future__ import annotations

import gc

import pytest
from rocketry import Session

from rocketry_otel._instrumentation import tasks
from rocketry_otel._instrumentation.tasks import TaskDirectory
from tests.support import apps
from tests.support.apps import make_app


def session_with(*names: str, execution: str = "main") -> Session:
    """Return a session with tasks of these names."""
    session = make_app(execution=execution).session
    for name in names:
        session.create_task(func=apps.succeed, name=name)
    return session


def test_task_is_found_by_its_name() -> None:
    """Any session may have it; an unknown name gives ``None``."""
    directory = TaskDirectory()
    first, second = session_with("a"), session_with("b", execution="thread")
    directory.add(first)
    directory.add(second)
    assert directory.execution_of("a") == "main"
    assert directory.execution_of("b") == "thread"
    assert directory.execution_of("a") == "main"
    assert directory.execution_of("c") is None


def test_changed_task_is_seen() -> None:
    """Another mode, another name or a removal is noticed."""
    directory = TaskDirectory()
    session = session_with("a")
    directory.add(session)
    assert directory.execution_of("a") == "main"
    session["a"].execution = "async"
    assert directory.execution_of("a") == "async"
    session["a"].name = "b"
    assert directory.execution_of("a") is None
    assert directory.execution_of("b") == "async"
    session.remove_task("b")
    assert directory.execution_of("b") is None


def test_sessions_are_not_kept_alive() -> None:
    """A directory that outlives a session forgets it."""
    directory = TaskDirectory()
    directory.add(session_with("a"))
    gc.collect()
    assert directory.execution_of("a") is None


def test_remembered_tasks_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks under ever new names do not pile up."""
    monkeypatch.setattr(tasks, "_REMEMBERED", 2)
    directory = TaskDirectory()
    session = session_with("a", "b", "c")
    directory.add(session)
    for name in ("a", "b", "c"):
        assert directory.execution_of(name) == "main"
    assert len(directory._found) <= 2


def test_task_object_is_found_for_hooks() -> None:
    """It is the session's task of this name now; without a session it is ``None``."""
    directory = TaskDirectory()
    assert directory.find("a") is None
    assert directory.execution_of("a") is None
    session = session_with("a")
    directory.add(session)
    assert directory.find("a") is session["a"]
    assert directory.find("b") is None
    session.remove_task("a")
    again = session.create_task(func=apps.succeed, name="a")
    assert directory.find("a") is again

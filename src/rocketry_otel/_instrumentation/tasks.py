"""The parts of Rocketry that this package uses, as protocols; and a directory of tasks.

In: sessions, and the name of a task. Out: the task. Rocketry is never imported here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable
from weakref import WeakSet, ref

if TYPE_CHECKING:
    from collections.abc import Collection

_REMEMBERED = 4096


class Config(Protocol):
    """The configuration of a Rocketry session, as far as it is used here."""

    task_logger_basename: str


class Task(Protocol):
    """A task of Rocketry, as far as it is used here."""

    name: str
    session: Session

    def get_execution(self) -> str:
        """Return ``main``, ``async``, ``thread`` or ``process``."""
        ...


@runtime_checkable
class Session(Protocol):
    """A ``rocketry.Session``, as far as it is used here."""

    config: Config
    tasks: Collection[Task]


class Application(Protocol):
    """A ``rocketry.Rocketry``, as far as it is used here."""

    session: Session


class TaskDirectory:
    """Finds tasks by their names in sessions; it does not keep the sessions alive."""

    def __init__(self) -> None:
        """Begin with no session."""
        self._sessions: WeakSet[Session] = WeakSet()
        self._found: dict[str, ref[Task]] = {}

    def add(self, session: Session) -> None:
        """Add a session."""
        self._sessions.add(session)

    def __bool__(self) -> bool:
        return bool(self._sessions)

    def __contains__(self, session: object) -> bool:
        return session in self._sessions

    def execution_of(self, name: str) -> str | None:
        """Return the mode of execution of a task; ``None`` if no session has the task."""
        task = self.find(name)
        return None if task is None else task.get_execution()

    def find(self, name: str) -> Task | None:
        """Return the task of this name; ``None`` if no session has one."""
        if not self._sessions:
            return None
        weak = self._found.get(name)
        task = None if weak is None else weak()
        if task is None or task.name != name or not self._has(task):
            task = self._look_for(name)
        return task

    def _has(self, task: Task) -> bool:
        session = task.session
        return session in self._sessions and task in session.tasks

    def _look_for(self, name: str) -> Task | None:
        for session in self._sessions:
            for task in session.tasks:
                if task.name == name:
                    if len(self._found) >= _REMEMBERED:
                        self._found.clear()
                    self._found[name] = ref(task)
                    return task
        self._found.pop(name, None)
        return None

"""What is known of the tasks behind the records: the seam to Rocketry.

Rocketry is never imported here; these protocols say all that is used of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable
from weakref import WeakSet, ref

if TYPE_CHECKING:
    from collections.abc import Collection

_REMEMBERED = 4096


class Config(Protocol):
    """What is used of the configuration of a Rocketry session."""

    task_logger_basename: str


class Task(Protocol):
    """What is used of a task of Rocketry's."""

    name: str

    def get_execution(self) -> str:
        """Return ``main``, ``async``, ``thread`` or ``process``."""
        ...


@runtime_checkable
class Session(Protocol):
    """What is used of ``rocketry.Session``."""

    config: Config
    tasks: Collection[Task]


class Application(Protocol):
    """What is used of ``rocketry.Rocketry``."""

    session: Session


class TaskDirectory:
    """Finds tasks by their names, in sessions that it does not keep alive."""

    def __init__(self) -> None:
        """Begin with no session."""
        self._sessions: WeakSet[Session] = WeakSet()
        self._found: dict[str, ref[Task]] = {}

    def add(self, session: Session) -> None:
        """Look in ``session`` too."""
        self._sessions.add(session)

    def __bool__(self) -> bool:
        return bool(self._sessions)

    def __contains__(self, session: object) -> bool:
        return session in self._sessions

    def execution_of(self, name: str) -> str | None:
        """Return how a task is executed; ``None`` if no session has a task of this name."""
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
        return any(task in session.tasks for session in self._sessions)

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

"""Which runs a run waited for, and which span asked for it."""

from __future__ import annotations

import functools
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakSet, finalize

from opentelemetry.trace import get_current_span

from rocketry_otel._model.annotations import DEPENDENCY, MOST_LINKS, REQUEST, RunLink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rocketry_otel._model.ids import RunIds

_MOST = 1000


class Awaited(NamedTuple):
    """A task whose ending a condition waits for, and with which actions it may end."""

    task_name: str
    actions: tuple[str, ...]


def awaited(condition: Any, *, negated: bool = False) -> Iterator[Awaited]:
    """Yield what a start condition waits for.

    Args:
        condition: A condition of Rocketry's: ``after_success(...)`` and its kin, alone or
            combined with ``&``, ``|`` and ``~``. What stands below a ``~`` is not waited for.
        negated: Whether it stands below a ``~``.
    """
    depend_task = getattr(condition, "depend_task", None)
    actions = getattr(condition, "_dep_actions", None)
    if depend_task is not None and actions:
        name = _task_name(depend_task)
        if name is not None and not negated:
            yield Awaited(name, tuple(actions))
        return
    below_not = type(condition).__name__ == "Not"
    for part in getattr(condition, "subconditions", ()):
        yield from awaited(part, negated=negated is not below_not)


def dependency_links(
    condition: Any,
    since: int,
    newest_ending: Callable[[Awaited], tuple[RunIds, int] | None],
) -> tuple[RunLink, ...]:
    """Return links to the runs that let a run start.

    Args:
        condition: The task's start condition.
        since: When the task last began, in nanoseconds since the epoch: what ended before
            that has had its run already, as Rocketry sees it.
        newest_ending: Returns the ids of the newest run that ended as awaited, and when.
    """
    links = {}
    for one in awaited(condition):
        ending = newest_ending(one)
        if ending is not None and ending[1] > since:
            ids = ending[0]
            links[ids] = RunLink(ids.trace_id, ids.span_id, DEPENDENCY)
    return tuple(links.values())[:MOST_LINKS]


class Requests:
    """Remembers, for each ``task.run()``, the span that was active where it was called."""

    def __init__(self) -> None:
        """Begin with none."""
        # By identity: two tasks are equal to pydantic if all that they hold is.
        self._asked: dict[int, deque[RunLink | None]] = {}
        self._sessions: WeakSet[Any] = WeakSet()
        self._restore: Callable[[], bool] | None = None

    def watch(self, task_class: Any, session: Any) -> None:
        """Watch every ``task.run()`` of a session's tasks."""
        self._sessions.add(session)
        if self._restore is not None:
            return
        run = task_class.run

        @functools.wraps(run)
        def watched(task: Any, *args: Any, **kwargs: Any) -> Any:
            result = run(task, *args, **kwargs)
            if task.session in self._sessions:
                self._note(task)
            return result

        def restore() -> bool:
            # Somebody may have wrapped ours in turn: then it stays, and is not set a second time.
            if task_class.run is not watched:
                return False
            task_class.run = run
            return True

        task_class.run = watched
        self._restore = restore

    def unwatch(self, session: Any) -> None:
        """Watch a session's tasks no longer; after the last session, restore ``task.run``."""
        self._sessions.discard(session)
        for task in session.tasks:
            self._asked.pop(id(task), None)
        if not self._sessions and self._restore is not None:
            self._asked.clear()
            if self._restore():
                self._restore = None

    def _note(self, task: Any) -> None:
        if id(task) not in self._asked:
            finalize(task, self._asked.pop, id(task), None)
        self._asked.setdefault(id(task), deque(maxlen=_MOST)).append(_active_span())

    def take(self, task: Any) -> tuple[bool, RunLink | None]:
        """Return whether the run that is being launched was asked for, and from which span.

        Rocketry has by now taken the request off ``task.batches``.
        """
        asked = self._asked.get(id(task))
        waiting = len(task.batches)
        # Requests that were taken back, as ``task.batches.clear()`` does, lead nowhere.
        while asked and len(asked) > waiting + 1:
            asked.popleft()
        if not asked or len(asked) <= waiting:
            return False, None
        return True, asked.popleft()


requests = Requests()


def _active_span() -> RunLink | None:
    context = get_current_span().get_span_context()
    return RunLink(context.trace_id, context.span_id, REQUEST) if context.is_valid else None


def _task_name(task: Any) -> str | None:
    if isinstance(task, str):
        return task
    registered = getattr(task, "__rocketry__", None)
    name = registered["name"] if registered else getattr(task, "name", None)
    return name if isinstance(name, str) else None

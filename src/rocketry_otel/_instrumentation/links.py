"""The links of a run: to the runs that it waited for, or to the span that requested it.

In: a task's start condition, and calls of ``task.run()``. Out: links with trace ids and span ids.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry.trace import get_current_span

from rocketry_otel._model.annotations import DEPENDENCY, MOST_LINKS, REQUEST, RunLink
from rocketry_otel._runtime.by_identity import ByIdentity

from .watched_method import WatchedMethod

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rocketry_otel._model.ids import RunIds

_MOST = 1000


class Awaited(NamedTuple):
    """A task whose ending a condition waits for, and the actions that count as this ending."""

    task_name: str
    actions: tuple[str, ...]


class Request(NamedTuple):
    """The span that was active where ``task.run()`` was called.

    Attributes:
        link: The link to it.
        is_sampled: Whether it is sampled: only then can it be the parent of the run.
    """

    link: RunLink
    is_sampled: bool


def awaited(condition: Any, *, negated: bool = False) -> Iterator[Awaited]:
    """Yield the endings that a start condition waits for.

    Args:
        condition: A condition of Rocketry: ``after_success(...)`` and its like, alone or combined
            with ``&``, ``|`` and ``~``. A part below a ``~`` is not waited for.
        negated: Whether the condition is below a ``~``.
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
        since: When the task last began, in nanoseconds since the epoch. Rocketry has used earlier
            endings for an earlier run.
        newest_ending: Returns the ids of the newest run that ended as awaited, and the time.
    """
    links = {}
    for one in awaited(condition):
        ending = newest_ending(one)
        if ending is not None and ending[1] > since:
            ids = ending[0]
            links[ids] = RunLink(ids.trace_id, ids.span_id, DEPENDENCY)
    return tuple(links.values())[:MOST_LINKS]


class Requests(WatchedMethod):
    """Remembers the active span at each call of ``task.run()``."""

    def __init__(self) -> None:
        """Begin with no request."""
        super().__init__("run", self._note)
        self._asked = ByIdentity[deque[Request | None]]()

    def unwatch(self, class_: type, session: Any) -> None:
        """Stop watching a session's tasks, and forget their requests."""
        super().unwatch(class_, session)
        for task in session.tasks:
            self._asked.pop(task)

    def _note(self, task: Any, result: Any, *_args: Any, **_kwargs: Any) -> Any:
        asked = self._asked.get(task)
        if asked is None:
            asked = self._asked[task] = deque(maxlen=_MOST)
        asked.append(_active_span())
        return result

    def take(self, task: Any) -> tuple[bool, Request | None]:
        """Return whether ``task.run()`` requested this launch, and the span that was active there.

        Rocketry has already removed the request from ``task.batches``.
        """
        asked = self._asked.get(task)
        waiting = len(task.batches)
        # Requests that were withdrawn, as by ``task.batches.clear()``, have no run.
        while asked and len(asked) > waiting + 1:
            asked.popleft()
        if not asked or len(asked) <= waiting:
            return False, None
        return True, asked.popleft()


requests = Requests()


def _active_span() -> Request | None:
    context = get_current_span().get_span_context()
    if not context.is_valid:
        return None
    link = RunLink(context.trace_id, context.span_id, REQUEST)
    return Request(link, is_sampled=context.trace_flags.sampled)


def _task_name(task: Any) -> str | None:
    if isinstance(task, str):
        return task
    registered = getattr(task, "__rocketry__", None)
    name = registered["name"] if registered else getattr(task, "name", None)
    return name if isinstance(name, str) else None

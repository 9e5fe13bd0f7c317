"""Which attempt a run is, for tasks whose start condition has ``retry``.

In: launches, and the beginnings of runs. Out: the number of the attempt, how many there may be, and
the attempt before. Rocketry's own condition reads the repository at each look. Here it is read once
for each task; the failures in a row are those of its `TaskState`.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rocketry_otel._model.annotations import RETRY as RETRY_LINK
from rocketry_otel._model.annotations import RunLink
from rocketry_otel._model.event import RUN
from rocketry_otel._runtime.forks import after_fork_in_child
from rocketry_otel._schedule.conditions import RETRY, Node, Not, Retry
from rocketry_otel._schedule.triggers import TRIGGER

from .latest_runs import look_up

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rocketry_otel._history.run_lookup import RunLookup
    from rocketry_otel._model.event import TaskEvent
    from rocketry_otel._model.ids import RunIds

    from .launching import Launching

ATTEMPT = "rocketry.attempt"
ATTEMPT_LIMIT = "rocketry.attempt.limit"

_NO_LIMIT = -1
# Tasks under ever new names must not fill the memory: the repository has all of them.
_MOST = 10_000


@dataclass(slots=True)
class _Runs:
    """The newest runs of a task.

    Attributes:
        ids: Those of the newest run; ``None`` if there was none.
        attempt: Which attempt it was; ``None`` if that is not known.
    """

    ids: RunIds | None
    attempt: int | None


class Attempts:
    """Counts the attempts of tasks.

    Args:
        run_lookup: The runs in the repository.
    """

    def __init__(self, run_lookup: RunLookup) -> None:
        self._run_lookup = run_lookup
        self._known: dict[str, _Runs] = {}
        self._renew_lock()
        after_fork_in_child(self._renew_lock)

    def _renew_lock(self) -> None:
        # It guards `_known`. No other lock is taken while it is held.
        self._lock = threading.Lock()

    def remember(self, event: TaskEvent, ids: RunIds | None) -> None:
        """Remember the beginning of a run, as far as its task has attempts.

        Args:
            event: An event of any kind.
            ids: The ids of its run, if it has one.
        """
        known = self._known.get(event.task_name or "") if event.action == RUN else None
        if known is not None:
            with self._lock:
                known.ids, known.attempt = ids, _attempt_of(event)

    def of(self, launching: Launching) -> dict[str, int]:
        """Return the attempt of a launch, and how many there may be, as attributes."""
        task = launching.task
        limit = _limit_of(launching.condition.tree)
        if limit is None:
            return {}
        failures = launching.bridge.task_states.failures_in_row(task)
        runs = self._runs_of(str(task.name))
        attempt = 1
        if launching.trigger.get(TRIGGER) == RETRY:
            attempt = 1 + (failures if runs.attempt is None else runs.attempt)
        if limit == _NO_LIMIT or failures != attempt - 1:
            # Failures before this slot count as well: Rocketry will not grant as many.
            return {ATTEMPT: attempt}
        return {ATTEMPT: attempt, ATTEMPT_LIMIT: limit + 1}

    def link_of(self, task_name: str, attributes: tuple[tuple[str, object], ...]) -> list[RunLink]:
        """Return the link to the attempt before, for a launch with these attributes."""
        attempt, known = dict(attributes).get(ATTEMPT), self._known.get(task_name)
        if attempt in {None, 1} or known is None or known.ids is None:
            return []
        return [RunLink(known.ids.trace_id, known.ids.span_id, RETRY_LINK)]

    def _runs_of(self, task_name: str) -> _Runs:
        known = self._known.get(task_name)
        if known is not None:
            return known
        found = self._read(task_name)
        with self._lock:
            if len(self._known) >= _MOST:
                self._known.clear()
            return self._known.setdefault(task_name, found)

    def _read(self, task_name: str) -> _Runs:
        began = look_up(self._run_lookup.newest, task_name, RUN)
        if began is None:
            return _Runs(None, None)
        return _Runs(look_up(self._run_lookup.ids_of, began), _attempt_of(began))


def _attempt_of(began: TaskEvent) -> int | None:
    attempt = dict(began.attributes).get(ATTEMPT)
    return attempt if isinstance(attempt, int) else None


def attempt_attributes(launching: Launching) -> dict[str, int]:
    """Return which attempt a launched run is."""
    return launching.bridge.attempts.of(launching)


def _limit_of(tree: Node) -> int | None:
    """Return how often ``retry`` lets a task start; ``None`` if it never does."""
    limits = {part.limit for part in _retries(tree) if part.limit != 0}
    if not limits:
        return None
    return _NO_LIMIT if _NO_LIMIT in limits else max(limits)


def _retries(node: Node) -> Iterator[Retry]:
    if isinstance(node, Retry):
        yield node
    elif not isinstance(node, Not):
        for part in node.parts:
            yield from _retries(part)

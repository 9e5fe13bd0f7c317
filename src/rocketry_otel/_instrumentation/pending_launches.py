"""Launches of runs that have no record yet.

In: the context, links and attributes of a launch. Out: the same, when the first record of the run
comes.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from rocketry_otel._model.text import optional_text, safe_text
from rocketry_otel._runtime.forks import after_fork_in_child

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from rocketry_otel._model.annotations import RunLink
    from rocketry_otel._model.plain_values import AttributeValue

    from .launched import Launched

_MOST = 10_000

_Key = tuple[str, str | None]


class Launch(NamedTuple):
    """The launch of a run.

    Attributes:
        context: The context of the launcher, for its baggage.
        links: The links of the run.
        launched: The run as Rocketry holds it, if known.
        attributes: What is known of the run at its launch: plain, and sorted by key. The ``run``
            record stores them.
        execution: Its mode of execution. The name of its task would not find it later: the task
            may be deleted, or another application may have one of that name.
    """

    context: Context | None
    links: tuple[RunLink, ...]
    launched: Launched | None = None
    attributes: tuple[tuple[str, AttributeValue], ...] = ()
    execution: str | None = None


class PendingLaunches:
    """Keeps launches until the first record of their run comes, in bounded memory."""

    def __init__(self) -> None:
        """Begin with no launch."""
        self._launches: dict[_Key, deque[Launch]] = {}
        self._renew_lock()
        after_fork_in_child(self._renew_lock)

    def _renew_lock(self) -> None:
        # It guards `_launches`. It is an innermost lock: no other one is taken while it is held.
        self._lock = threading.Lock()

    def put(self, task_name: object, run_id: object, launch: Launch) -> None:
        """Keep a launch; if too many wait, the oldest are dropped: their child processes died."""
        # The event of the first record will have the same name and id.
        key = (safe_text(task_name), optional_text(run_id))
        with self._lock:
            self._launches.setdefault(key, deque(maxlen=_MOST)).append(launch)
            while len(self._launches) > _MOST:
                del self._launches[next(iter(self._launches))]

    def follow(self, task_name: object, run_id: object, launched: Launched) -> None:
        """Add to the newest launch with this name and id the run as Rocketry holds it."""
        key = (safe_text(task_name), optional_text(run_id))
        with self._lock:
            launches = self._launches.get(key)
            if launches and launches[-1].launched is None:
                launches[-1] = launches[-1]._replace(launched=launched)
                return
        # The application has set another function for run ids.
        self.put(task_name, run_id, Launch(None, (), launched))

    def has(self, task_name: object, run_id: object) -> bool:
        """Return whether a launch with this name and id waits."""
        return (safe_text(task_name), optional_text(run_id)) in self._launches

    def take(self, task_name: str, run_id: str | None) -> Launch | None:
        """Return the launch of a run whose first record has come, and forget it."""
        if not self._launches:
            return None
        with self._lock:
            kept = self._launches.get((task_name, run_id))
            if kept is None:
                return None
            launch = kept.popleft()
            if not kept:
                del self._launches[task_name, run_id]
            return launch

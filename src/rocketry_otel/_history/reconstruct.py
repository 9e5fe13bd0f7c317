"""Stored records as steps of runs, in their order: for catching up and for replay.

In: the records of a repository. Out: for each, its event and the step that it made in its run, as
when it was live.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from rocketry_otel._model.event import CRASH, TaskEvent, parse_event
from rocketry_otel._model.runs import Run, RunTracker, Step
from rocketry_otel._repositories.skipped import ignore

from .run_lookup import ends_nothing, ids_in
from .streams.base import Place, Window
from .streams.stream_of import stream_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from redbird import BaseRepo

    from rocketry_otel._model.ids import RunIds
    from rocketry_otel._repositories.skipped import OnSkipped

    from .run_lookup import RunLookup


class Crashes(Protocol):
    """Crash records that are kept beside the repository: Rocketry has logged none."""

    def has(self, ids: RunIds) -> bool:
        """Return whether the run with these ids has one."""
        ...

    def all(self) -> list[Mapping[str, Any]]:
        """Return their fields, in the order of their times."""
        ...


class _NoCrashes:
    """No crash records."""

    def has(self, ids: RunIds) -> bool:
        """Return false."""
        del ids
        return False

    def all(self) -> list[Mapping[str, Any]]:
        """Return nothing."""
        return []


class Reconstructed(NamedTuple):
    """A stored record as it was when it was live.

    Attributes:
        fields: Its fields.
        event: Its event.
        step: The step that the event made in a run.
    """

    fields: Mapping[str, Any]
    event: TaskEvent
    step: Step


class HistoryReader:
    """A reading of a repository, which gives the records as they were when they were live.

    Records go through the same tracker of runs as live ones. A beginning before ``since`` is
    looked up. Each iteration goes on behind the last record of the one before, with the records
    that were added since.

    The caller may take any time between two records: no transaction, lock or connection is held
    meanwhile. Another thread may add records. An unreadable record is skipped, with a warning. A
    record that is added during an iteration may be missed.

    Records of a repository without an order come in the order of ``created``.

    Args:
        repo: The repository, of any kind and model.
        run_lookup: The runs in it.
        since: When the oldest was created, in nanoseconds since the epoch.
        until: When the newest was created.
        on_skipped: Called for each record that cannot be read.
        crashes: Crash records beside the repository. Each comes in the order of its time, and
            ends its run whatever the repository has: it was sent first.

    Attributes:
        can_go_on: Whether there may be another iteration.
    """

    def __init__(
        self,
        repo: BaseRepo,
        run_lookup: RunLookup,
        since: int = 0,
        until: int | None = None,
        on_skipped: OnSkipped = ignore,
        crashes: Crashes | None = None,
    ) -> None:
        self._stream = stream_of(repo)
        self._stream.on_skipped = on_skipped
        self._window = Window(since) if until is None else Window(since, until)
        self._place = Place()
        self.can_go_on = self._stream.can_go_on
        self._run_lookup = run_lookup
        self._tracker = RunTracker(
            keeps_run_id=run_lookup.keeps("run_id"),
            find_run=self._find_run,
            goes_on=lambda run: run.began is not None and run_lookup.has_named_ending(run.began),
        )
        self._fields: Mapping[str, Any] = {}
        self._looked_for: set[str | None] = set()
        self._crashes = crashes or _NoCrashes()
        self._crashed: set[RunIds] = set()

    def __iter__(self) -> Iterator[Reconstructed]:
        """Give the records that were not given yet."""
        crashes = self._new_crashes()
        for fields in self._stream.read(self._window, self._place):
            event, ids = parse_event(fields), ids_in(fields)
            while crashes and crashes[0][0].created <= event.created:
                yield from self._crash(*crashes.popleft())
            self._fields = fields
            if ends_nothing(event, fields):
                yield Reconstructed(fields, event, Step(None, "none"))
                continue
            step = self._tracker.observe(event, ids)
            if step.change == "ended" and not self._is_first_ending(event, step):
                step = step._replace(change="repeated")
            yield Reconstructed(fields, event, step)
        while crashes:
            yield from self._crash(*crashes.popleft())

    def open_runs(self) -> list[Run]:
        """Return the runs that have no ending among the records given so far."""
        return self._tracker.open_runs()

    def _new_crashes(self) -> deque[tuple[TaskEvent, Mapping[str, Any], RunIds]]:
        """Return the crash records beside the repository that were not given yet."""
        found: deque[tuple[TaskEvent, Mapping[str, Any], RunIds]] = deque()
        for fields in self._crashes.all():
            ids = ids_in(fields)
            if ids is not None and ids not in self._crashed:
                self._crashed.add(ids)
                if self._window.holds(fields):
                    found.append((parse_event(fields), fields, ids))
        return found

    def _crash(
        self, event: TaskEvent, fields: Mapping[str, Any], ids: RunIds
    ) -> Iterator[Reconstructed]:
        self._fields = fields
        step = self._tracker.observe(event, ids)
        # Retention may have removed the beginning.
        if step.change == "ended" and step.run is not None and step.run.began is not None:
            yield Reconstructed(fields, event, step)

    def _is_first_ending(self, event: TaskEvent, step: Step) -> bool:
        """Return whether no other record, here or beside the repository, has ended the run."""
        if not step.was_open and not self._run_lookup.is_first_ending(event, self._fields):
            return False
        if step.run is None or step.run.ids in self._crashed:
            return False
        # Rocketry logs a crash after a restart, for a run that may be closed since this began.
        return event.action != CRASH or not self._crashes.has(step.run.ids)

    def is_whole(self, rest: Callable[[], bool]) -> bool:
        """Return whether all records were given that are there now before the end of the reading.

        Args:
            rest: Gives others their turn; returns whether to go on.
        """
        return self._stream.is_whole(self._window, self._place, rest)

    def _find_run(self, ending: TaskEvent) -> TaskEvent | None:
        if not self._fields.get("trace_id"):
            if self._window.since <= 0:
                return None  # it would have been read
            if ending.run_id is None:
                # Of a run that has no name there is one at most that goes on from before.
                if ending.task_name in self._looked_for:
                    return None
                self._looked_for.add(ending.task_name)
        return self._run_lookup.find_beginning_again(ending, self._fields)

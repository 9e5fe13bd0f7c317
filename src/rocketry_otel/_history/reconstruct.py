"""Stored records as steps of runs, in their order: for catching up and for replay.

In: the records of a repository. Out: for each, its event and the step that it made in its run, as
when it was live.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from rocketry_otel._model.event import TaskEvent, parse_event
from rocketry_otel._model.runs import RunTracker, Step
from rocketry_otel._repositories.skipped import ignore

from .run_lookup import ids_in
from .streams.base import Place, Window
from .streams.stream_of import stream_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from redbird import BaseRepo

    from rocketry_otel._repositories.skipped import OnSkipped

    from .run_lookup import RunLookup


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
    ) -> None:
        self._stream = stream_of(repo)
        self._stream.on_skipped = on_skipped
        self._window = Window(since) if until is None else Window(since, until)
        self._place = Place()
        self.can_go_on = self._stream.can_go_on
        self._run_lookup = run_lookup
        self._tracker = RunTracker(keeps_run_id=run_lookup.keeps("run_id"), find_run=self._find_run)
        self._fields: Mapping[str, Any] = {}
        self._looked_for: set[str | None] = set()

    def __iter__(self) -> Iterator[Reconstructed]:
        """Give the records that were not given yet."""
        for fields in self._stream.read(self._window, self._place):
            self._fields = fields
            event = parse_event(fields)
            step = self._tracker.observe(event, ids_in(fields))
            is_looked_up = step.change == "ended" and not step.was_open
            if is_looked_up and not self._run_lookup.is_first_ending(event, fields):
                step = step._replace(change="repeated")
            yield Reconstructed(fields, event, step)

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

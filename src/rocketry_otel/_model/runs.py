"""Pairing events into runs.

In: events, in the order in which they were logged. Out: for each event its run, and the change
of it. Only the event that began a run is held while the run goes on. Live handling, replay and
crash recovery all use this tracker.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from .event import CRASH, ENDINGS, RUN, TaskEvent
from .ids import RunIds, ids_of_run

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.sampling import SamplingResult

    from .annotations import Annotations

OPEN_RUNS_LIMIT = 10_000
_ENDED_RUNS_LIMIT = 4_096
# Runs of one task in one instant without run ids differ by their order, up to this many.
_MOST_IN_AN_INSTANT = 100

_Key = tuple[str, ...]


class _Ended(NamedTuple):
    """A run that has ended, without its events, which may be large."""

    ids: RunIds
    began_with_id: bool


@dataclass(slots=True, eq=False)
class Run:
    """A run of a task, from its beginning to its end.

    Attributes:
        ids: The ids of its trace and span.
        began: The event that began it; ``None`` if it ended without a beginning.
        ended: The event that ended it; ``None`` while it goes on.
        context: The OpenTelemetry context with its span, once that is made.
        sampling: The sampler's decision at the beginning of the run.
        counted_by: The object that counted it among the active runs.
        annotations: Attributes and events that the task's body has added so far.
        launched_in: The context in which it was launched, if known.
        launch: Rocketry's own objects of the run, which show whether it goes on; ``None`` if it
            was not launched here.
        keys: By which a tracker finds it again.
    """

    ids: RunIds
    began: TaskEvent | None
    ended: TaskEvent | None = None
    context: Context | None = None
    sampling: SamplingResult | None = None
    counted_by: object = None
    annotations: Annotations | None = None
    launched_in: Context | None = None
    launch: object = None
    keys: tuple[_Key, ...] = ()

    def is_of(self, task_name: str) -> bool:
        """Return whether it is a run of this task."""
        return self.began is not None and self.began.task_name == task_name

    @property
    def end_estimated(self) -> bool:
        """Whether a crash cut the run off, so that its real end is not known."""
        return self.began is not None and self.ended is not None and self.ended.action == CRASH


class Step(NamedTuple):
    """The change that an event made.

    Attributes:
        run: The run that the event belongs to; ``None`` if it belongs to none.
        change: ``began`` or ``ended`` if the event did that to the run; ``repeated`` if it
            ended a run that had already ended; ``none`` if it did neither.
        given_up: A run without an ending that was forgotten to make room.
        was_open: Whether the ended run was open in this tracker, and not found elsewhere.
    """

    run: Run | None
    change: Literal["began", "ended", "repeated", "none"]
    given_up: Run | None = None
    was_open: bool = False


class RunTracker:
    """Pairs the endings of runs with their beginnings, in bounded memory.

    Args:
        keeps_run_id: Whether the repository keeps run ids, so that ids may depend on them.
        find_run: Returns the ``run`` event of an ending that has no open run, such as a run
            that a crash cut off in an earlier process; ``None`` if it is not found.
        has_crashed: Returns whether a crash record that Rocketry did not log has ended the run
            with these ids. Rocketry logs one for the same run after a restart.
        goes_on: Returns whether a run goes on for all that is known, here or in another process.
            Rocketry logs a crash of such a run when another process starts.
        limit: How many runs may be open at once; then the oldest is given up.
    """

    def __init__(
        self,
        *,
        keeps_run_id: bool = True,
        find_run: Callable[[TaskEvent], TaskEvent | None] = lambda _: None,
        has_crashed: Callable[[RunIds], bool] = lambda _: False,
        goes_on: Callable[[Run], bool] = lambda _: False,
        limit: int = OPEN_RUNS_LIMIT,
    ) -> None:
        self._keeps_run_id = keeps_run_id
        self._find_run = find_run
        self._has_crashed = has_crashed
        self._goes_on = goes_on
        self._limit = limit
        self._open: dict[int, Run] = {}
        self._open_by_key: dict[_Key, list[Run]] = {}
        self._open_by_ids: dict[RunIds, Run] = {}
        # Not a dict, which would step over all removed ones to find the oldest.
        self._ended: OrderedDict[_Key | RunIds, _Ended] = OrderedDict()

    @property
    def open_count(self) -> int:
        """How many runs are open."""
        return len(self._open)

    def observe(
        self, event: TaskEvent, ids: RunIds | None = None, began: TaskEvent | None = None
    ) -> Step:
        """Take an event and return the change that it made.

        Args:
            event: The event.
            ids: The ids in its stored record. They win over every guess by run id, place or
                order: the repository may have refused the beginning of the run, which was known
                when the ending was logged.
            began: The beginning of the run that an ending with ids has; else it is looked up.
        """
        if event.task_name is None:
            return Step(None, "none")
        if event.action == RUN:
            return self._begin(event, event.task_name, ids)
        if event.action in ENDINGS:
            return self._end(event, event.task_name, ids, began)
        return Step(self._run_around(event, event.task_name), "none")

    def open_run(self, task_name: str, run_id: str | None) -> Run | None:
        """Return the newest open run of a task that has this id."""
        if run_id is not None:
            named = self._open_by_key.get((task_name, run_id))
            return named[-1] if named else None
        for run in reversed(self._open.values()):
            if run.is_of(task_name) and run.began is not None and run.began.run_id is None:
                return run
        return None

    def open_runs(self) -> list[Run]:
        """Return the open runs, in the order in which they began."""
        return list(self._open.values())

    def ids(self, began: TaskEvent) -> RunIds:
        """Return the ids of the run with this beginning."""
        return ids_of_run(began, keeps_run_id=self._keeps_run_id)

    def _unused_ids(self, began: TaskEvent) -> RunIds:
        """Return the ids of a run that begins: those of another in the same instant are taken."""
        ids, earlier = self.ids(began), 0
        while earlier < _MOST_IN_AN_INSTANT and (ids in self._open_by_ids or ids in self._ended):
            earlier += 1
            ids = ids_of_run(began, keeps_run_id=self._keeps_run_id, earlier=earlier)
        return ids

    def _begin(self, event: TaskEvent, task_name: str, ids: RunIds | None) -> Step:
        run = Run(ids or self._unused_ids(event), began=event)
        return Step(run, "began", self._hold_open(run, event, task_name))

    def adopt(self, other: RunTracker) -> None:
        """Go on with the open runs of another tracker, under the ids that they have."""
        for run in other.open_runs():
            began = run.began
            if began is None or began.task_name is None:  # pragma: no cover  # open runs have both
                continue
            self._hold_open(run, began, began.task_name)

    def _hold_open(self, run: Run, began: TaskEvent, task_name: str) -> Run | None:
        """Keep an open run; return the one that was given up to make room."""
        given_up = None
        if len(self._open) >= self._limit:
            given_up = next(iter(self._open.values()))
            self._close(given_up)
        self._open[id(run)] = self._open_by_ids[run.ids] = run
        run.keys = _keys(began, task_name)
        for key in run.keys:
            runs = self._open_by_key.get(key)
            if runs is None:
                self._open_by_key[key] = [run]
            else:
                runs.append(run)
            self._ended.pop(key, None)
        return given_up

    def _end(
        self, event: TaskEvent, task_name: str, ids: RunIds | None, began: TaskEvent | None = None
    ) -> Step:
        run = self._open_by_ids.get(ids) if ids else self._open_run(event, task_name)
        if run is not None:
            if event.action == CRASH and ids is None and self._goes_on(run):
                return Step(None, "none")
            self._close(run)
            run.ended = event
            self._remember(run, task_name)
            return Step(run, "ended", was_open=True)
        ended = self._ended.get(ids) if ids else self._ended_run(event, task_name)
        if ended is not None:
            return Step(Run(ended.ids, began=None), "repeated")
        is_known = began is not None
        began = began or self._find_run(event)
        ids = ids or self.ids(began or event)
        if event.action == CRASH and (
            ids in self._ended or (not is_known and self._has_crashed(ids))
        ):
            return Step(Run(ids, began=None), "repeated")
        run = Run(ids, began=began)
        if event.action == CRASH and not is_known and self._goes_on(run):
            return Step(None, "none")
        run.ended = event
        self._remember(run, task_name)
        return Step(run, "ended")

    def _open_run(self, event: TaskEvent, task_name: str) -> Run | None:
        """Return the open run that an ending belongs to.

        If several runs have the same id, the first to begin is the first to end. A crash ends
        the newest run, as in Rocketry.
        """
        if event.action == CRASH:
            return next(
                (run for run in reversed(self._open.values()) if run.is_of(task_name)), None
            )
        if event.run_id is not None:
            named = self._open_by_key.get((task_name, event.run_id))
            if not named:
                return self._nameless_run(event, task_name)
            if len(named) == 1:
                return named[0]
            # Several runs have this id: the place decides, if each has its own.
            place = _place(event, task_name)
            here = [run for run in named if run.began and _place(run.began, task_name) == place]
            return here[0] if here else named[0]
        place = _place(event, task_name)
        if place is not None:
            return next(iter(self._open_by_key.get(place, ())), None)
        # A record of a model that keeps neither run id nor process pairs by order.
        return next((run for run in self._open.values() if run.is_of(task_name)), None)

    def _nameless_run(self, event: TaskEvent, task_name: str) -> Run | None:
        """Return the open run in an ending's place whose beginning has no run id."""
        place = _place(event, task_name)
        runs = () if place is None else self._open_by_key.get(place, ())
        return next((run for run in runs if run.began and run.began.run_id is None), None)

    def _ended_run(self, event: TaskEvent, task_name: str) -> _Ended | None:
        """Return the run that has ended before, if this is a second ending of it."""
        if event.action == CRASH:
            return None
        if event.run_id is not None:
            ended = self._ended.get((task_name, event.run_id))
            if ended is not None:
                return ended
        place = _place(event, task_name)
        ended = None if place is None else self._ended.get(place)
        # Rocketry logs some runs, or their second ending, without the run id. Two ids are two
        # runs, even if a thread's identifier is used again.
        if ended is None or (event.run_id is not None and ended.began_with_id):
            return None
        return ended

    def _run_around(self, event: TaskEvent, task_name: str) -> Run | None:
        """Return the run whose body wrote a record, if only one run is possible."""
        place = _place(event, task_name)
        runs = () if place is None else self._open_by_key.get(place, ())
        return runs[0] if len(runs) == 1 else None

    def _remember(self, run: Run, task_name: str) -> None:
        began, event = run.began, run.ended
        ended = _Ended(run.ids, began is not None and began.run_id is not None)
        self._ended[run.ids] = ended
        if began is not None:
            for key in run.keys or _keys(began, task_name):
                self._ended[key] = ended
        if event is not None and event.run_id is not None:
            # Without the place of the ending: the next failure there is another run.
            self._ended[task_name, event.run_id] = ended
        while len(self._ended) > _ENDED_RUNS_LIMIT:
            self._ended.popitem(last=False)

    def _close(self, run: Run) -> None:
        del self._open[id(run)]
        if self._open_by_ids.get(run.ids) is run:
            del self._open_by_ids[run.ids]
        for key in run.keys:
            runs = self._open_by_key[key]
            if len(runs) == 1:
                del self._open_by_key[key]
            else:
                runs.remove(run)


def _place(event: TaskEvent, task_name: str) -> _Key | None:
    """Return the process and thread that logged the event, if known.

    Rocketry logs no run id if a thread or a child process fails before the task's function.
    Process and thread are then the same as on the run record.
    """
    if event.process is None or event.thread is None:
        return None
    return (task_name, event.process, event.thread)


def _keys(event: TaskEvent, task_name: str) -> tuple[_Key, ...]:
    """Return the keys by which a run is found again."""
    place = _place(event, task_name)
    keys: tuple[_Key, ...] = () if place is None else (place,)
    return keys if event.run_id is None else (*keys, (task_name, event.run_id))


class Observation(NamedTuple):
    """A record as an event, and the change that it made to a run."""

    event: TaskEvent
    step: Step

    @property
    def ids(self) -> RunIds | None:
        """The ids of the run that the record belongs to."""
        return None if self.step.run is None else self.step.run.ids

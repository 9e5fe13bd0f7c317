"""How long records are kept, and removing those that are older."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from rocketry_otel._history.streams.base import OUTLINE, Window
from rocketry_otel._history.streams.stream_of import stream_of
from rocketry_otel._model.durations import NANOSECONDS
from rocketry_otel._model.event import TaskEvent, parse_event
from rocketry_otel._model.runs import RunTracker

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from redbird.base import BaseRepo

    from rocketry_otel._history.streams.base import RecordStream
    from rocketry_otel._model.ids import RunIds
    from rocketry_otel._model.retention import Retention
    from rocketry_otel._model.runs import Step

    # A task name and an action, as they are stored.
    Kind = tuple[Any, Any]

# How many runs that have ended are remembered for an ending that is logged a second time.
_ENDED_RUNS_LIMIT = 4_096


class Pruned(NamedTuple):
    """The result of a removal.

    Attributes:
        removed: The number of removed records.
        is_complete: Whether no record had to stay because it is not delivered.
    """

    removed: int
    is_complete: bool


def prune(repo: BaseRepo, retention: Retention, *, acknowledged: int, now: int) -> Pruned:
    """Remove the records that are older than the retention asks for.

    Three kinds stay at any age: the newest record of each action of each task, from which
    Rocketry restores its state after a restart; the beginning of an open run; and the beginning
    of a run whose ending stays.

    It may be interrupted at any moment, and others may add records meanwhile. Its memory grows
    with the records that stay, not with those that it removes.

    Args:
        repo: The repository.
        retention: How long records are kept.
        acknowledged: Records from this time on are not delivered, and stay; in nanoseconds since
            the epoch.
        now: The time from which ages count, in nanoseconds since the epoch.

    Returns:
        What was removed.

    Raises:
        RepositoryError: Records cannot be removed safely from a repository of this kind.
    """
    plan = _plan(repo, retention, acknowledged, now)
    removed = plan.stream.remove(plan.window, plan.old.but(plan.kept)) if plan.number else 0
    return Pruned(removed, plan.is_complete)


def count_old(repo: BaseRepo, retention: Retention, *, acknowledged: int, now: int) -> int:
    """Return how many records ``prune`` would remove; the arguments are the same."""
    return _plan(repo, retention, acknowledged, now).number


class _Plan(NamedTuple):
    """The old records, and those of them that stay."""

    stream: RecordStream
    window: Window
    old: _Old
    kept: set[_Key]
    is_complete: bool

    @property
    def number(self) -> int:
        """How many records are to be removed."""
        return max(self.old.count - len(self.kept), 0)


def _plan(repo: BaseRepo, retention: Retention, acknowledged: int, now: int) -> _Plan:
    stream = stream_of(repo)
    wanted = _bound(stream, retention, now)
    window, is_complete = Window(until=min(acknowledged, wanted) - 1), wanted <= acknowledged
    old = _Old()
    if window.until < 0:
        return _Plan(stream, window, old, set(), is_complete)
    for fields in stream.outlines(window):
        old.observe(fields)
    kept = old.kept(stream.newest(old.kinds), window)
    return _Plan(stream, window, old, kept, is_complete)


def _bound(stream: RecordStream, retention: Retention, now: int) -> int:
    """Return the time before which records are too old, in nanoseconds since the epoch."""
    if retention.count is not None:
        return stream.earliest_of_newest(retention.count)
    return now - (retention.seconds or 0) * NANOSECONDS


class _Key(NamedTuple):
    """Identifies a record, as far as its fields can."""

    task_name: str | None
    action: str | None
    created: int
    run_id: str | None


def _event(fields: Mapping[str, Any]) -> TaskEvent:
    # Other fields are not needed here, and a traceback takes time to parse.
    return parse_event({name: fields.get(name) for name in OUTLINE})


def _key(event: TaskEvent) -> _Key:
    return _Key(event.task_name, event.action, event.created, event.run_id)


class _Old:
    """The old records, in their order, and those of them that must stay.

    Newer records need not be read: a run that is open after the last old record goes on, or its
    ending is newer.

    Attributes:
        count: How many there are.
    """

    def __init__(self) -> None:
        self.count = 0
        self._tracker = RunTracker()
        self._beginnings: dict[RunIds, _Key] = {}
        # By kind: the record added last and the one created last, with their beginnings.
        self._last: dict[Kind, tuple[_Key, ...]] = {}
        self._latest: dict[Kind, tuple[_Key, ...]] = {}
        self._final: _Key | None = None

    @property
    def kinds(self) -> Collection[Kind]:
        """The kinds of the old records: task names and actions."""
        return self._last.keys()

    def observe(self, fields: Mapping[str, Any]) -> None:
        """Take in the next record."""
        event = _event(fields)
        beginning = self._beginning(self._tracker.observe(event))
        key = _key(event)
        keys = (key,) if beginning is None else (key, beginning)
        kind = (fields.get("task_name"), fields.get("action"))
        self._last[kind] = keys
        if kind not in self._latest or self._latest[kind][0].created <= event.created:
            self._latest[kind] = keys
        self._final = key
        self.count += 1

    def _beginning(self, step: Step) -> _Key | None:
        """Return the key of the beginning of the run that a record has ended."""
        if step.run is None or step.change not in {"ended", "repeated"}:
            return None
        if step.run.began is not None:
            self._beginnings[step.run.ids] = _key(step.run.began)
            while len(self._beginnings) > _ENDED_RUNS_LIMIT:
                del self._beginnings[next(iter(self._beginnings))]
        return self._beginnings.get(step.run.ids)

    def kept(self, newest: Mapping[Kind, Mapping[str, Any]], window: Window) -> set[_Key]:
        """Return the keys of the old records that must stay.

        Args:
            newest: By kind: the record added last of all records.
            window: The times of old records.
        """
        kept = {_key(run.began) for run in self._tracker.open_runs() if run.began is not None}
        for kind in self.kinds:
            if kind not in newest or window.holds(newest[kind]):
                kept.update(self._last[kind], self._latest[kind])
        return kept

    def but(self, kept: set[_Key]) -> Callable[[Mapping[str, Any]], bool]:
        """Return a function that returns whether a record is to be removed.

        The function is called in the order of the records. Records that were added after the
        reading stay, though their times may be as old.
        """
        is_over = False

        def is_unwanted(fields: Mapping[str, Any]) -> bool:
            nonlocal is_over
            key = _key(_event(fields))
            was_over, is_over = is_over, is_over or key == self._final
            return not was_over and key not in kept

        return is_unwanted

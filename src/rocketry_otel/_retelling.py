"""Stored records as what they did to runs, in their order: for catching up and for replay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from . import _history
from ._events import TaskEvent, parse_event
from ._runs import RunTracker, Step
from ._stored import identity_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from redbird import BaseRepo

    from ._stored import StoredRuns


class Retold(NamedTuple):
    """A stored record as it was when it was live.

    Attributes:
        fields: Its fields.
        event: What it says.
        step: What that did to a run.
    """

    fields: Mapping[str, Any]
    event: TaskEvent
    step: Step


def retold(
    repo: BaseRepo,
    stored: StoredRuns,
    since: int = 0,
    until: int | None = None,
    unreadable: Callable[[int], None] | None = None,
) -> Iterator[Retold]:
    """Give the records of a repository as they were when they were live.

    They take the way of live records, through the same tracker of runs; what began before is
    looked up.

    Args:
        repo: The repository.
        stored: The runs in it.
        since: When the oldest was created, in nanoseconds since the epoch.
        until: When the newest was created.
        unreadable: Told how many more cannot be read.
    """
    fields: Mapping[str, Any] = {}
    looked_for: set[str | None] = set()

    def find_run(ending: TaskEvent) -> TaskEvent | None:
        if not fields.get("trace_id"):
            if since <= 0:
                return None  # it would have been read
            if ending.run_id is None:
                # Of a run that has no name there is one at most that goes on from before.
                if ending.task_name in looked_for:
                    return None
                looked_for.add(ending.task_name)
        return stored.find_beginning_again(ending, fields)

    tracker = RunTracker(
        keeps_run_id=stored.keeps("run_id"),
        find_run=find_run,
        # The repository may have refused the beginning, which was known when this was live.
        find_identity=lambda: identity_in(fields),
    )
    for fields in _history.records(repo, since, until, unreadable):
        event = parse_event(fields)
        step = tracker.observe(event)
        is_looked_up = step.change == "ended" and not step.was_open
        if is_looked_up and not stored.is_first_ending(event, fields):
            step = step._replace(change="repeated")
        yield Retold(fields, event, step)

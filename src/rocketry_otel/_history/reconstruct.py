"""Stored records as what they did to runs, in their order: for catching up and for replay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from rocketry_otel._model.event import TaskEvent, parse_event
from rocketry_otel._model.runs import RunTracker, Step
from rocketry_otel._repositories.skipped import passed_over

from .run_lookup import ids_in
from .streams.base import Window
from .streams.stream_of import stream_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from redbird import BaseRepo

    from .run_lookup import RunLookup


class Reconstructed(NamedTuple):
    """A stored record as it was when it was live.

    Attributes:
        fields: Its fields.
        event: What it says.
        step: What that did to a run.
    """

    fields: Mapping[str, Any]
    event: TaskEvent
    step: Step


def records(
    repo: BaseRepo,
    since: int = 0,
    until: int | None = None,
    unreadable: Callable[[int], None] | None = None,
) -> Iterator[dict[str, Any]]:
    """Give the fields of each stored record, in the order in which they were added.

    The caller may take any time between two of them: no transaction, lock or connection is held
    meanwhile. It may be done in another thread than that which adds records. What cannot be
    read is left out, with a warning; and what is added meanwhile may be.

    Where a repository of Red Bird's own does not tell the order, it is that of ``created``.

    Args:
        repo: The repository, of any kind and model.
        since: Only those created at this time or later, in nanoseconds since the epoch.
        until: Only those created at this time or before.
        unreadable: Told how many more cannot be read.
    """
    window = Window(since) if until is None else Window(since, until)
    found = stream_of(repo).read(window)
    while True:
        before = passed_over()
        fields = next(found, None)
        # The caller may look into the repository meanwhile, and come upon the same ones.
        if unreadable is not None:
            unreadable(passed_over() - before)
        if fields is None:
            return
        yield fields


def reconstruct(
    repo: BaseRepo,
    run_lookup: RunLookup,
    since: int = 0,
    until: int | None = None,
    unreadable: Callable[[int], None] | None = None,
) -> Iterator[Reconstructed]:
    """Give the records of a repository as they were when they were live.

    They take the way of live records, through the same tracker of runs; what began before is
    looked up.

    Args:
        repo: The repository.
        run_lookup: The runs in it.
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
        return run_lookup.find_beginning_again(ending, fields)

    tracker = RunTracker(
        keeps_run_id=run_lookup.keeps("run_id"),
        find_run=find_run,
    )
    for fields in records(repo, since, until, unreadable):
        event = parse_event(fields)
        step = tracker.observe(event, ids_in(fields))
        is_looked_up = step.change == "ended" and not step.was_open
        if is_looked_up and not run_lookup.is_first_ending(event, fields):
            step = step._replace(change="repeated")
        yield Reconstructed(fields, event, step)

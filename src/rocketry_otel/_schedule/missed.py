"""Why a slot went by without a run.

In: a slot, and the runs that went on meanwhile. Out: the reason that covers the most of the slot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .slots import Slot

BLOCKED, RUNNING, LIMIT, SCHEDULER_DOWN = "blocked", "running", "limit", "scheduler_down"


class RunTime(NamedTuple):
    """When a run went on, in seconds since the epoch; ``ended`` is ``None`` while it does."""

    task_name: str
    execution: str | None
    began: float
    ended: float | None = None

    def seconds_in(self, begin: float, end: float) -> float:
        """Return for how many seconds it went on between two times."""
        ended = end if self.ended is None else min(self.ended, end)
        return max(ended - max(self.began, begin), 0.0)


class Why(NamedTuple):
    """The reason of a missed slot, and the task that blocked the scheduler."""

    reason: str
    blocked_by: str | None = None


def reason_of(
    slot: Slot, task_name: str, runs: Iterable[RunTime], most_processes: int | None = None
) -> Why:
    """Return why a slot was missed.

    Args:
        slot: The slot.
        task_name: The task that should have run.
        runs: All runs of the same scheduler that may have gone on in the slot.
        most_processes: How many processes may run at once, if the task runs in one.
    """
    shares: dict[Why, float] = {}
    processes = []
    for run in runs:
        share = run.seconds_in(slot.begin, slot.end)
        if share <= 0:
            continue
        if run.task_name == task_name:
            why = Why(RUNNING)
        elif run.execution == "main":
            why = Why(BLOCKED, run.task_name)
        else:
            if run.execution == "process":
                processes.append(run)
            continue
        shares[why] = shares.get(why, 0.0) + share
    if most_processes is not None:
        limit = _seconds_with(processes, most_processes, slot)
        if limit > 0:
            shares[Why(LIMIT)] = limit
    # Without any, the loop has not looked in time: a body of an async task, or the machine.
    return max(shares, key=shares.__getitem__, default=Why(BLOCKED))


def _seconds_with(processes: list[RunTime], most: int, slot: Slot) -> float:
    """Return for how many seconds of a slot at least ``most`` processes went on."""
    changes = []
    for run in processes:
        ended = slot.end if run.ended is None else min(run.ended, slot.end)
        changes += [(max(run.began, slot.begin), 1), (ended, -1)]
    seconds, count, since = 0.0, 0, slot.begin
    for at, change in sorted(changes):
        if count >= most:
            seconds += at - since
        count, since = count + change, at
    return seconds

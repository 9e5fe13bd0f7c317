"""Since when a run that is launched now was due.

In: the alternatives of a start condition, and when the task and those that it waits for last began
or ended. Out: the time of its slot, and the time from which its delay counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rocketry_otel._model.event import RUN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from .conditions import After
    from .plan import Alternative

# The time of the launch is read a moment after Rocketry has compared its own.
_ROOM = 0.05


class Due(NamedTuple):
    """When a run was due, in seconds since the epoch.

    Attributes:
        slot: When its slot began, or its interval was over; ``None`` if it ran for neither.
        since: When the last thing that it waited for came true; ``None`` if not known.
    """

    slot: float | None = None
    since: float | None = None


class Times:
    """What is known at a launch.

    Args:
        now: The time of the launch.
        last: Returns when the task itself last did an action; ``None`` for never.
        ending: Returns when another task last ended as awaited; ``None`` for never.
    """

    def __init__(
        self,
        now: float,
        last: Callable[[str], float | None],
        ending: Callable[[After], float | None],
    ) -> None:
        self.now = now
        self.last = last
        self.ending = ending

    def newest(self, actions: Iterable[str]) -> float | None:
        """Return when the task itself last did one of some actions."""
        return newest_of(self.last, actions)


def newest_of(last: Callable[[str], float | None], actions: Iterable[str]) -> float | None:
    """Return when a task last did one of some actions; ``None`` for never.

    Args:
        last: Returns when it last did an action.
        actions: The actions.
    """
    return max((at for one in actions if (at := last(one)) is not None), default=None)


def due_of(alternatives: Iterable[Alternative], times: Times) -> Due:
    """Return when a run was due by the alternative that came true first."""
    found = [due for one in alternatives if (due := _due(one, times)) is not None]
    return min(found, key=lambda due: due.since or 0.0, default=Due())


def _due(alternative: Alternative, times: Times) -> Due | None:
    """Return when a run was due by an alternative; ``None`` if it is not true, as far as known."""
    parts = [*_of_intervals(alternative, times), *_of_endings(alternative, times)]
    if alternative.slots is not None:
        parts.append(_of_slot(alternative, times))
    if None in parts or not parts:
        return None
    known = [part for part in parts if part is not None]
    slot = max((part.slot for part in known if part.slot is not None), default=None)
    return Due(slot, max(part.since for part in known if part.since is not None))


def _of_slot(alternative: Alternative, times: Times) -> Due | None:
    slot = alternative.slot_at(times.now)
    if slot is None:
        return None
    if not alternative.is_once:
        return Due(None, slot.begin)
    began = times.last(RUN)
    if began is None or began < slot.begin:
        return Due(slot.begin, slot.begin)
    # It is not the first run of its slot: it waited for the ending of the one before.
    ended = times.newest(_ENDINGS)
    return None if ended is None or ended < began else Due(slot.begin, ended)


def _of_intervals(alternative: Alternative, times: Times) -> Iterator[Due | None]:
    for interval in alternative.intervals:
        base = times.newest(interval.actions)
        if base is not None:
            over = base + interval.seconds
            yield Due(over, over) if over <= times.now + _ROOM else None


def _of_endings(alternative: Alternative, times: Times) -> Iterator[Due | None]:
    began = times.last(RUN) or 0.0
    for after in alternative.after:
        ended = times.ending(after)
        yield None if ended is None or ended < began else Due(None, ended)


_ENDINGS = ("success", "fail", "terminate", "inaction", "crash")

"""The trace id and the span id of a run: the same in every process and at every time.

In: task name, run id and time of the beginning. Out: two integers.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

from .annotations import parent_of

if TYPE_CHECKING:
    from .event import TaskEvent

_PERSON = b"rocketry-otel"


class RunIds(NamedTuple):
    """The ids of a run, as integers of 128 and 64 bits, never zero."""

    trace_id: int
    span_id: int

    @property
    def trace_hex(self) -> str:
        """The trace id as Jaeger's search box takes it: 32 hexadecimal digits."""
        return f"{self.trace_id:032x}"

    @property
    def span_hex(self) -> str:
        """The span id as 16 hexadecimal digits."""
        return f"{self.span_id:016x}"


def ids_of(task_name: str, run_id: str | None, began: int, earlier: int = 0) -> RunIds:
    """Return the ids of a run.

    They are a hash and not the run id itself: ratio samplers read the low bits of a trace id,
    and those of a UUID are not uniform. The beginning is part of the hash because a function
    of the user's (Rocketry's ``func_run_id``) may give the same id to several runs.

    Args:
        task_name: Name of the task.
        run_id: Rocketry's id of the run; ``None`` if the repository does not keep it, so that
            ids computed from the repository later are the same.
        began: When the run record was created, in nanoseconds since the epoch.
        earlier: How many runs with the same of these three come before it in the repository.
            Without run ids that happens where the application's own clock is at rest.
    """
    name = "\x00".join((task_name, run_id or "", str(began)))
    if earlier:
        name += f"\x00{earlier}"
    digest = blake2b(name.encode("utf-8"), digest_size=24, person=_PERSON).digest()
    return RunIds(
        trace_id=int.from_bytes(digest[:16], "big") or 1,
        span_id=int.from_bytes(digest[16:], "big") or 1,
    )


def ids_of_run(began: TaskEvent, *, keeps_run_id: bool = True, earlier: int = 0) -> RunIds:
    """Return the ids of the run that an event began.

    Args:
        began: The event. If it has a parent, the run is in the parent's trace.
        keeps_run_id: Whether the repository keeps run ids.
        earlier: See ``ids_of``.
    """
    run_id = began.run_id if keeps_run_id else None
    ids = ids_of(began.task_name or "", run_id, began.created, earlier)
    parent = parent_of(began.links)
    return ids if parent is None else ids._replace(trace_id=parent.trace_id)

"""From stored records to runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_TIMEOUT = "(timeouted)"


class Record(Protocol):
    """What is used of a stored record; ``TaskEventRecord`` has it."""

    task_name: str
    action: str
    created: float
    run_id: str | None
    message: str | None
    exc_type: str | None
    exc_message: str | None


@dataclass(frozen=True)
class Run:
    """A run of a task.

    Attributes:
        task_name: Name of the task.
        started: When it began, in seconds since the epoch.
        seconds: How long it took; ``None`` if its beginning or its end is not known.
        ended: How it ended: the action, ``timeout``, or ``running``.
        detail: What there is to say of the end; may be empty.
        trace_id: Its trace's id.
    """

    task_name: str
    started: float
    seconds: float | None
    ended: str
    detail: str
    trace_id: str


def runs_of(records: Iterable[Record], trace_id_of: Callable[[Record], str | None]) -> list[Run]:
    """Return the runs that records tell of, in the order in which they began.

    Args:
        records: The records, in any order.
        trace_id_of: Gives the trace id of the run that a record belongs to.
    """
    beginnings: dict[str | None, Record] = {}
    runs: dict[object, Run] = {}
    for record in sorted(records, key=_by_time):
        trace_id = trace_id_of(record) or ""
        if record.action == "run":
            beginnings[record.run_id] = record
            runs[record.run_id] = Run(
                record.task_name, record.created, None, "running", "", trace_id
            )
            continue
        # An ending of no run that began here: a crash that Rocketry found at its start.
        began = beginnings.get(record.run_id)
        seconds = None if began is None else record.created - began.created
        key = object() if began is None else record.run_id
        started = (began or record).created
        runs[key] = Run(
            record.task_name, started, seconds, _ended(record), _detail(record), trace_id
        )
    return sorted(runs.values(), key=lambda run: run.started)


def _by_time(record: Record) -> tuple[float, bool]:
    return record.created, record.action != "run"


def _ended(record: Record) -> str:
    is_timeout = record.action == "terminate" and _TIMEOUT in (record.message or "")
    return "timeout" if is_timeout else record.action


def _detail(record: Record) -> str:
    kind = (record.exc_type or "").rpartition(".")[2]
    message = " ".join((record.exc_message or "").split())
    return ": ".join(part for part in (kind, message) if part)

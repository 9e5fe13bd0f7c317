"""Which stored record a span or a log record came from.

In: an event, or the position of a stored record. Out: a reference, kept for the current thread
while it makes the signals. With it, delivery is known for each stored record.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rocketry_otel._model.event import TaskEvent


# A stored record is known by the time when it was created, its task and its action.
Key = tuple[int, str, str]


class RecordRef(NamedTuple):
    """The reference of an item to its stored record.

    Items without a reference (spans of a task's body, records that no repository keeps) are not
    stored, and can be sent only once.

    Attributes:
        created: The time of the record, in nanoseconds since the epoch.
        task_name: The name of its task.
        action: Its action.
        positions: For a record that is sent again from the repository: each channel to send it
            on, with the number of records before it. ``None`` for a live record, which goes to
            all channels.
    """

    created: int
    task_name: str
    action: str
    positions: Mapping[str, int] | None = None

    @property
    def is_live(self) -> bool:
        """Whether the record is sent when it is written, not again from the repository."""
        return self.positions is None


def record_ref_of(event: TaskEvent) -> RecordRef:
    """Return the reference to a record that was just written."""
    return RecordRef(event.created, event.task_name or "", event.action or "")


class _Current(threading.local):
    record_ref: RecordRef | None = None


_current = _Current()


def current_record_ref() -> RecordRef | None:
    """Return the reference for the items that this thread makes now."""
    return _current.record_ref


def enter(record_ref: RecordRef | None) -> RecordRef | None:
    """Set the reference for the items that this thread makes from now on.

    Returns:
        The reference before, to enter again afterwards.
    """
    before, _current.record_ref = _current.record_ref, record_ref
    return before

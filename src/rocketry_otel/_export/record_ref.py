"""On whose behalf something is sent: so that of each stored record is known what became of it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rocketry_otel._model.event import TaskEvent


# What names a stored record: when it was created, its task and its action.
Key = tuple[int, str, str]


class RecordRef(NamedTuple):
    """The way of one stored record to where its telemetry goes.

    What is sent without one (spans of a task's body, records that no repository keeps) is not
    stored, and can be sent but once.

    Attributes:
        created: When the record was created, in nanoseconds since the epoch.
        task_name: Its task.
        action: Its action.
        positions: For a record that is sent again from the repository: the channels that are to
            send it, and how many records come before it there. ``None`` for a record that is
            sent as it is written, on all channels.
    """

    created: int
    task_name: str
    action: str
    positions: Mapping[str, int] | None = None

    @property
    def is_live(self) -> bool:
        """Whether the record is sent as it is written, and not again from the repository."""
        return self.positions is None

    def is_for(self, channel: str) -> bool:
        """Return whether a channel is to send the record."""
        return self.positions is None or channel in self.positions


def record_ref_of(event: TaskEvent) -> RecordRef:
    """Return the way of a record that was just written."""
    return RecordRef(event.created, event.task_name or "", event.action or "")


class _Current(threading.local):
    record_ref: RecordRef | None = None


_current = _Current()


def current_record_ref() -> RecordRef | None:
    """Return on whose behalf this thread hands things over."""
    return _current.record_ref


def enter(record_ref: RecordRef | None) -> RecordRef | None:
    """Let what this thread hands over from now on belong to a stored record.

    Returns:
        What it belonged to before, to be entered again behind it.
    """
    before, _current.record_ref = _current.record_ref, record_ref
    return before

"""Stored rows that cannot be read, such as those of another program: skipped and counted."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from rocketry_otel._model.record import TaskEventRecord, exact_record
from rocketry_otel._model.text import one_line, safe_text

if TYPE_CHECKING:
    from collections.abc import Mapping

OnSkipped = Callable[[], None]

_logger = logging.getLogger("rocketry_otel")

# Rocketry makes dates of stored times. A day at both ends is for time zones.
_FIRST_DAY = datetime(1, 1, 2, tzinfo=timezone.utc).timestamp()
_LAST_DAY = datetime(9999, 12, 31, tzinfo=timezone.utc).timestamp()


def ignore() -> None:
    """Do nothing."""


class SkippedRows:
    """Skips rows of a repository that cannot be read, and logs the first of them.

    Args:
        name: The name of the repository in the warning.
    """

    def __init__(self, name: object) -> None:
        self._name = name
        self._warned = False

    def skip(self, why: object, on_skipped: OnSkipped = ignore) -> None:
        """Skip a row.

        Args:
            why: The reason, such as an exception.
            on_skipped: Counts the row.
        """
        on_skipped()
        if not self._warned:
            self._warned = True
            words = one_line(safe_text(why))
            _logger.warning("rows of %s that cannot be read are left out: %s", self._name, words)

    def record(
        self, values: Mapping[str, Any], on_skipped: OnSkipped = ignore
    ) -> TaskEventRecord | None:
        """Return the record that a row has; ``None`` if the row has none and is skipped."""
        try:
            return stored_record(values)
        except Exception as error:  # noqa: BLE001  # the row of another program may hold anything
            self.skip(error, on_skipped)
            return None


def stored_record(values: Mapping[str, Any]) -> TaskEventRecord:
    """Return the record that stored values are.

    Raises:
        Exception: The values are no record.
    """
    record = exact_record(values) or TaskEventRecord(**values)
    if not _FIRST_DAY <= record.created <= _LAST_DAY:
        raise ValueError(f"created is {record.created}, and no date is that")
    return record

"""From a row of the CSV file to a record, and a copy of the whole file, row by row."""

from __future__ import annotations

import csv
import os
from typing import TYPE_CHECKING, Any, BinaryIO

from rocketry_otel._model.record import TaskEventRecord

from .csv_file import COLUMNS, Mark, complete_rows
from .skipped import SkippedRows, ignore
from .values import NewestRecords, matches, satisfies

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .skipped import OnSkipped

_FIELDS = TaskEventRecord.__fields__


class Rows:
    """Makes records from rows, and logs once that some rows cannot be read."""

    def __init__(self, filename: Path) -> None:
        self._skipped = SkippedRows(filename)

    def parsed(self, raw: bytes, on_skipped: OnSkipped = ignore) -> list[str] | None:
        """Return the texts in a row; ``on_skipped`` is called if it cannot be read."""
        # Another program may have written bytes that are not UTF-8, or a NUL, which `csv`
        # refuses before Python 3.11.
        text = raw.decode("utf-8", "backslashreplace").replace("\0", "\\x00")
        try:
            row = next(csv.reader([text]))
        except csv.Error as error:
            self._skipped.skip(error, on_skipped)
            return None
        if len(row) != len(COLUMNS):
            self._skipped.skip(f"it has {len(row)} columns", on_skipped)
            return None
        return row

    def record(self, row: list[str], on_skipped: OnSkipped = ignore) -> TaskEventRecord | None:
        """Return the record of a row; ``on_skipped`` is called if it is none."""
        values: dict[str, Any] = {
            name: value
            for name, value in zip(COLUMNS, row, strict=True)
            # `None` is empty in the file.
            if value or _FIELDS[name].required
        }
        return self._skipped.record(values, on_skipped)

    def matching(
        self, row: list[str], query: dict[str, Any], on_skipped: OnSkipped = ignore
    ) -> TaskEventRecord | None:
        """Return the record of a row, if it matches."""
        # To make a record costs most: fields that are plain in the row are compared first.
        if not all(_may_satisfy(row, name, wanted) for name, wanted in query.items()):
            return None
        record = self.record(row, on_skipped)
        return record if record is not None and matches(record, query) else None


def _may_satisfy(row: list[str], name: str, wanted: Any) -> bool:
    field = _FIELDS.get(name)
    if field is None or field.type_ not in {str, float}:
        return True
    text = row[COLUMNS.index(name)]
    try:
        value = field.type_(text) if text or field.required else None
    except ValueError:
        # The row is no record: let the caller find out, and log it.
        return True
    return satisfies(value, wanted)


class Copy:
    """A copy of the file with some of its rows changed or left out.

    Others may add rows to the file meanwhile. The next step copies those.

    Args:
        target: The new file.
        rows: Makes records from rows.
        query: The query that a record must match to be changed.
        change: Returns the new row of a record: empty to leave it out, ``None`` to keep it.

    Attributes:
        changed: How many rows were changed or left out.
        newest: The newest rows of the copy.
    """

    def __init__(
        self,
        target: BinaryIO,
        rows: Rows,
        query: dict[str, Any],
        change: Callable[[TaskEventRecord], bytes | None],
    ) -> None:
        self._target = target
        self._rows = rows
        self._query = query
        self._change = change
        self._start()

    def _start(self) -> None:
        self._target.truncate(0)
        self._copied = Mark()
        self._end = 0
        self.changed = 0
        self.newest = NewestRecords()

    @property
    def mark(self) -> Mark:
        """The place of its own end."""
        return Mark.at(self._target, self._end)

    def take(self, file: BinaryIO) -> None:
        """Copy the rows added since the last step; all rows, if it is another file."""
        if not self._copied.is_in(file):
            self._start()
        end = file.seek(self._copied.end)
        for raw in complete_rows(file):
            is_header = end == 0
            end += len(raw)
            self._add(raw, None if is_header else self._rows.parsed(raw))
        self._copied = Mark.at(file, end)
        self._target.flush()
        os.fsync(self._target.fileno())

    def _add(self, raw: bytes, row: list[str] | None) -> None:
        # A row that does not match, or cannot be read, stays the same to the byte.
        if row is not None:
            record = self._rows.matching(row, self._query)
            changed = None if record is None else self._change(record)
            if changed is not None:
                self.changed += 1
                raw, row = changed, self._rows.parsed(changed) if changed else None
        self._target.write(raw)
        self._end += len(raw)
        if row is not None:
            self.newest.add(row[0], row[1], self._end, row)

"""The records of a CSV file."""

from __future__ import annotations

import csv
import locale
from typing import TYPE_CHECKING, Any

from rocketry_otel._repositories.csv_file import Mark, complete_rows
from rocketry_otel._repositories.csv_repo import TaskEventCSVRepo

from .base import IndexedStream, Place, RecordStream, Window, fields_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redbird.repos import CSVFileRepo

    from .base import Fields

# With no other option than these a row ends where one of ours does.
_HARMLESS = {"delimiter"}


def stream_of(repo: CSVFileRepo) -> RecordStream:
    """Return the records of a CSV file, of ours or of Red Bird's."""
    is_ours = isinstance(repo, TaskEventCSVRepo)
    return CSVStream(repo, repo.filename) if is_ours else RedBirdCSVStream(repo, repo.filename)


class CSVStream(IndexedStream):
    """The records of a file of ours: rows are added at its end alone."""

    can_go_on = True

    def read(self, window: Window, place: Place | None = None) -> Iterator[Fields]:
        """Give the fields of each record, in the order in which they were added."""
        place = place or Place()
        query = self.repo.format_query({"created": window.operation})
        begin = place.last or Mark()
        for record in self.repo.read_behind(begin, query, self.on_skipped, place.pass_by):
            fields = fields_of(record)
            if window.holds(fields):
                yield fields

    def is_whole(self, window: Window, place: Place, rest: Callable[[], bool]) -> bool:
        """Return whether it is still the same file, unchanged up to the place."""
        del window, rest
        return place.last is not None and bool(self.repo.is_unchanged(place.last))


class RedBirdCSVStream(RecordStream):
    """The records of a file of Red Bird's.

    Red Bird's own reading is not used: it stops at the first row that is incomplete or no record.
    Nor is its own removing: it overwrites the file, to which others may append.
    """

    def read(self, window: Window, place: Place | None = None) -> Iterator[Fields]:
        """Give the fields of each record, in the order in which they were added."""
        del place
        try:
            file = self.repo.filename.open("rb")
        except FileNotFoundError:
            return
        with file:
            # To the end of the file as it is now, and of the last row that is whole.
            size = file.seek(0, 2)
            file.seek(0)
            is_usual = self.repo.kwds_csv.keys() <= _HARMLESS
            texts = _texts(complete_rows(file) if is_usual else file, size)
            # The first row has the names of the columns.
            next(texts, None)
            for row in self._rows(texts):
                fields = self.fields(row)
                if fields is not None and window.holds(fields):
                    yield fields

    def _rows(self, texts: Iterator[str]) -> Iterator[dict[str, Any]]:
        reader = self.repo.get_reader(texts)
        while True:
            try:
                row = next(reader)
            except StopIteration:  # noqa: PERF203  # an error is of one row, not of those behind it
                return
            except csv.Error as error:
                self.left_out(error)
            else:
                yield row


def _texts(rows: Iterator[bytes], size: int) -> Iterator[str]:
    # Red Bird names no encoding, so that Python takes this.
    encoding = locale.getpreferredencoding(do_setlocale=False)
    end = 0
    for row in rows:
        end += len(row)
        if end > size:
            return
        # Before Python 3.11 `csv` refuses a NUL.
        yield row.decode(encoding, "backslashreplace").replace("\0", "\\x00")

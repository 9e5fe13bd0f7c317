"""The records of a CSV file."""

from __future__ import annotations

import csv
import locale
from typing import TYPE_CHECKING, Any

from rocketry_otel._repositories.csv_file import complete_rows
from rocketry_otel._repositories.csv_repo import TaskEventCSVRepo

from .base import IndexedStream, RecordStream, Window

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redbird.repos import CSVFileRepo

    from .base import Fields

# With no other option than these a row ends where one of ours does.
_HARMLESS = {"delimiter"}


def stream_of(repo: CSVFileRepo) -> RecordStream:
    """Return the records of a CSV file, of ours or of Red Bird's."""
    is_ours = isinstance(repo, TaskEventCSVRepo)
    return IndexedStream(repo, repo.filename) if is_ours else CSVStore(repo, repo.filename)


class CSVStore(RecordStream):
    """The records of a file of Red Bird's.

    Red Bird's own reading ends at the first row that is not whole or is no record, and its own
    removing writes over the file, where others may add to it: it is not used.
    """

    def read(self, window: Window) -> Iterator[Fields]:
        """Give the fields of each record, in the order in which they were added."""
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

"""A repository in a CSV file that outlives a kill."""

from __future__ import annotations

import csv
import logging
import os
import sys
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any, BinaryIO
from weakref import finalize

from pydantic.v1 import PrivateAttr
from redbird.repos import CSVFileRepo

from rocketry_otel._errors import RepositoryError
from rocketry_otel._model.record import TaskEventRecord
from rocketry_otel._runtime.forks import after_fork_in_child
from rocketry_otel._runtime.private_files import take_mode

from .csv_file import (
    COLUMNS,
    KeptFile,
    Mark,
    check_header,
    complete_rows,
    is_at,
    keep_damaged,
    locked_beside,
    reader_of,
    rendered,
    write_all,
)
from .csv_rows import Copy, Rows
from .skipped import ignore
from .urls import local_path, mask_url, refusal
from .values import NewestRecords, change_record, storable_query, storable_record
from .weak_references import Referable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from .skipped import OnSkipped

# The limit is one for the whole process. A traceback may be longer than its 131,072.
csv.field_size_limit(sys.maxsize)

_logger = logging.getLogger("rocketry_otel")


def open_url(url: str) -> TaskEventCSVRepo:
    """Open the repository of a ``csv://`` URL.

    Raises:
        RepositoryURLError: The URL names no file.
        RepositoryMismatchError: The file has other columns.
        RepositoryError: The file cannot be read and written.
    """
    path = local_path(url)
    repo = TaskEventCSVRepo(filename=path, model=TaskEventRecord)
    try:
        if path.is_dir():
            raise refusal(url, "this is a directory, where a CSV file is needed")
        path.parent.mkdir(parents=True, exist_ok=True)
        repo.prepare()
    except OSError as error:
        raise RepositoryError(f"cannot open {mask_url(url)}: {error}") from error
    return repo


class TaskEventCSVRepo(CSVFileRepo, Referable):  # type: ignore[misc]
    """Red Bird's ``CSVFileRepo``, in UTF-8, for many threads and processes, and after a kill.

    A writer holds a lock on the file, and writes only after a complete row. A reader needs no
    lock: it skips a row that is not complete yet.
    """

    # Up to here, all rows are complete.
    _complete: Mark = PrivateAttr(default_factory=Mark)
    # Up to here, the newest rows are known.
    _newest_mark: Mark = PrivateAttr(default_factory=Mark)
    _newest: NewestRecords = PrivateAttr(default_factory=NewestRecords)
    _lock: Any = PrivateAttr()
    _rows: Rows = PrivateAttr()
    _file: KeptFile = PrivateAttr()

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        self._rows = Rows(self.filename)
        self._file = KeptFile(self.filename)
        self._lock = Lock()
        after_fork_in_child(self._start_afresh)
        finalize(self, self._file.close)

    def _start_afresh(self) -> None:
        self._file.leave_to_the_parent()
        self._lock = Lock()

    def prepare(self) -> None:
        """Check the columns of the file, and move a row that was cut short out of it.

        Raises:
            RepositoryMismatchError: The file has other columns.
            OSError: The file cannot be read and written.
        """
        with self._file.locked() as file, reader_of(file) as reader:
            check_header(self.filename, reader)
        with self._writing():
            pass

    @contextmanager
    def _writing(self) -> Iterator[int]:
        """Lock the file, to write after a complete row."""
        kept = None
        with self._file.locked() as file:
            if not self._complete.is_end_of(file):
                kept = self._repair(file)
            yield file
        # Only after the lock is released: a handler of this warning may add a record.
        if kept is not None:
            _logger.warning(
                "the last row of %s was cut short, and is now in %s", self.filename, kept
            )

    def _repair(self, file: int) -> Path | None:
        """Move the rest after the last complete row, if any, to another file, and return that."""
        with reader_of(file) as reader:
            # Another process may have added rows, or put another file here.
            start = self._complete.end if self._complete.is_in(reader) else 0
            reader.seek(start)
            complete = start + sum(map(len, complete_rows(reader)))
            self._complete = Mark.at(reader, complete)
            tail = reader.read()
        if not tail:
            return None
        damaged = self.filename.with_name(f"{self.filename.name}.damaged")
        kept = keep_damaged(damaged, self.filename, tail.rstrip(b"\r\n") + b"\n")
        os.ftruncate(file, complete)
        return kept

    def insert(self, item: TaskEventRecord) -> None:
        """Add a record."""
        row = rendered(storable_record(item).values())
        with self._writing() as file:
            if self._complete.end == 0:
                row = rendered(COLUMNS) + row
            try:
                write_all(file, row)
            except OSError:
                # The disk may be full: half a row would be damage.
                os.ftruncate(file, self._complete.end)
                raise
            self._complete = self._complete.after(row)

    def query_items(self, query: dict[str, Any]) -> Iterator[TaskEventRecord]:
        """Yield the records that match, oldest first."""
        return self.read_behind(Mark(), query)

    def read_behind(
        self,
        mark: Mark,
        query: dict[str, Any],
        on_skipped: OnSkipped = ignore,
        on_end: Callable[[Mark], None] = lambda _: None,
    ) -> Iterator[TaskEventRecord]:
        """Yield the records behind a mark that match, oldest first.

        Args:
            mark: A mark in the file; an empty one is its beginning.
            query: The query.
            on_skipped: Called for each row that cannot be read.
            on_end: Called with the mark of the end, when all records were read.
        """
        with self._reading() as file:
            if file is None or not (mark.end == 0 or mark.is_in(file)):
                return
            end = mark.end
            for end, row in self._read_rows(file, end, on_skipped):  # noqa: B007, B020  # to where it came
                record = self._rows.matching(row, query, on_skipped)
                if record is not None:
                    yield record
            on_end(Mark.at(file, end))

    def is_unchanged(self, mark: Mark) -> bool:
        """Return whether the file is still the same up to a mark."""
        with self._reading() as file:
            return file is not None and mark.is_in(file)

    def query_read_last(self, query: dict[str, Any]) -> TaskEventRecord | None:
        """Return the newest record that matches; for a task's action, without reading all."""
        if NewestRecords.can_answer(query):
            self._read_newest()
            row = self._newest.find(query)
            record = None if row is None else self._rows.record(row)
            if row is None or record is not None:
                return record
        last = None
        for last in self.query_items(query):  # noqa: B007  # the last one is what counts
            pass
        return last

    def _read_newest(self) -> None:
        """Read the rows that were added to the file since the last time."""
        with self._lock, self._reading() as file:
            if file is None or not self._newest_mark.is_in(file):
                self._newest, self._newest_mark = NewestRecords(), Mark()
            if file is not None:
                end = self._newest_mark.end
                for end, row in self._read_rows(file, end):  # noqa: B020  # to where it came
                    self._newest.add(row[0], row[1], end, row)
                self._newest_mark = Mark.at(file, end)

    @contextmanager
    def _reading(self) -> Iterator[BinaryIO | None]:
        try:
            file = self.filename.open("rb")
        except FileNotFoundError:
            yield None
        else:
            with file:
                yield file

    def _read_rows(
        self, file: BinaryIO, start: int = 0, on_skipped: OnSkipped = ignore
    ) -> Iterator[tuple[int, list[str]]]:
        """Yield each row from a place in the file on, with the place where it ends.

        Rows that are added meanwhile are left out, so that there is an end.
        """
        size = os.fstat(file.fileno()).st_size
        end = file.seek(start)
        for raw in complete_rows(file):
            is_header = end == 0
            end += len(raw)
            if end > size:
                break
            row = None if is_header else self._rows.parsed(raw, on_skipped)
            if row is not None:
                yield end, row

    def query_update(self, query: dict[str, Any], values: dict[str, Any]) -> None:
        """Change the records that match."""

        def changed(record: TaskEventRecord) -> bytes:
            change_record(record, values)
            return rendered(storable_record(record).values())

        self._rewrite(query, changed)

    def query_delete(self, query: dict[str, Any]) -> None:
        """Remove the records that match."""
        self.remove(query, lambda _: True)

    def remove(self, query: dict[str, Any], is_unwanted: Callable[[TaskEventRecord], bool]) -> int:
        """Remove the matching records that are unwanted; return their number."""
        return self._rewrite(query, lambda record: b"" if is_unwanted(record) else None)

    def _rewrite(
        self, query: dict[str, Any], change: Callable[[TaskEventRecord], bytes | None]
    ) -> int:
        """Write a new file, and let it replace the old one when it is whole.

        Writers wait only for the end of that: most rows are copied before. Return the number of
        changed rows.
        """
        new = self.filename.with_name(f".{self.filename.name}.tmp")
        # It replaces the rest of a killed process, and only one process at a time writes it.
        with locked_beside(new, self.filename) as target:
            try:
                copy = Copy(target, self._rows, query, change)
                with self._reading() as file:
                    if file is not None:
                        copy.take(file)
                with self._writing() as locked, reader_of(locked) as file:
                    copy.take(file)
                    self._put_in_place(new, target, copy)
            except BaseException:
                new.unlink(missing_ok=True)
                raise
        return copy.changed

    def _put_in_place(self, new: Path, target: BinaryIO, copy: Copy) -> None:
        mark = copy.mark
        if not is_at(new, target.fileno()):
            raise OSError(f"{new} was replaced by another program")
        take_mode(target.fileno(), self.filename)
        # All that is known of the old file holds for the new one: no need to read it again.
        with self._lock:
            new.replace(self.filename)
            self._complete = self._newest_mark = mark
            self._newest = copy.newest

    def format_query(self, query: dict[str, Any]) -> dict[str, Any]:
        """Return the query, with its texts in the form of the file."""
        return storable_query(query)

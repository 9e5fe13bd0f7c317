"""A repository in a directory of JSON files."""

from __future__ import annotations

import json
import logging
import os
import time
from itertools import islice
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from pydantic.v1 import PrivateAttr
from redbird.repos import JSONDirectoryRepo

from rocketry_otel._errors import RepositoryError
from rocketry_otel._model.record import TaskEventRecord
from rocketry_otel._model.text import one_line, safe_text

from .skipped import ignore, stored_record
from .urls import local_path, mask_url, refusal
from .values import change_record, matches, storable_query, storable_record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from .skipped import OnSkipped

_logger = logging.getLogger("rocketry_otel")

# Digits of the time in nanoseconds, until the year 2286: so names sort like their times.
_DIGITS = 19


def open_url(url: str) -> TaskEventJSONRepo:
    """Open the repository of a ``json://`` URL.

    Raises:
        RepositoryURLError: The URL names no directory.
        RepositoryError: The directory cannot be made, read and written.
    """
    path = local_path(url)
    repo = TaskEventJSONRepo(path=path, model=TaskEventRecord)
    try:
        if path.exists() and not path.is_dir():
            raise refusal(url, "this is a file, where a directory is needed")
        path.mkdir(parents=True, exist_ok=True)
        repo.prepare()
    except OSError as error:
        raise RepositoryError(f"cannot open {mask_url(url)}: {error}") from error
    return repo


class TaskEventJSONRepo(JSONDirectoryRepo):  # type: ignore[misc]
    """Red Bird's ``JSONDirectoryRepo``, in which file names have the order of the records.

    A file exists whole or not at all.
    """

    # No field of a record is unique. Its file name is.
    id_field: str | None = None

    # The time in the name of the newest file, in nanoseconds.
    _newest: int = PrivateAttr(0)
    _skipped: set[str] = PrivateAttr(default_factory=set)

    def prepare(self) -> None:
        """Find the newest file, and check that files can be written.

        Raises:
            OSError: Files cannot be written.
        """
        stamps = [name.partition("-")[0] for name in self.names()]
        # If the clock was set back, new files still sort after old ones.
        self._newest = max((int(stamp) for stamp in stamps if _is_stamp(stamp)), default=0)
        trial = self.path / f".{uuid4().hex}.tmp"
        trial.touch()
        trial.unlink()

    def names(self, *, newest_first: bool = False) -> list[str]:
        """Return the names of all files, oldest first."""
        # Only the name is in memory, because there may be many files.
        with os.scandir(self.path) as entries:
            names = [entry.name for entry in entries if entry.name.endswith(".json")]
        names.sort(reverse=newest_first)
        return names

    def insert(self, item: TaskEventRecord) -> None:
        """Add a record."""
        self._newest = max(time.time_ns(), self._newest + 1)
        # Threads and processes may have the same time, and hosts the same process id.
        name = f"{self._newest:0{_DIGITS}d}-{os.getpid()}-{uuid4().hex[:12]}.json"
        self._write(self.path / name, item)

    def _write(self, path: Path, record: TaskEventRecord) -> None:
        text = json.dumps(storable_record(record), ensure_ascii=False)
        unfinished = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
        try:
            unfinished.write_text(text, encoding="utf-8")
            unfinished.replace(path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise

    def query_items(self, query: dict[str, Any]) -> Iterator[TaskEventRecord]:
        """Yield the records that match, oldest first."""
        return (record for _, record in self._matching(self.names(), query))

    def _matching(
        self, names: list[str], query: dict[str, Any]
    ) -> Iterator[tuple[Path, TaskEventRecord]]:
        for name in names:
            path = self.path / name
            record = self.read_file(name)
            if record is not None and matches(record, query):
                yield path, record

    def read_file(self, name: str, on_skipped: OnSkipped = ignore) -> TaskEventRecord | None:
        """Return the record in a file; ``on_skipped`` is called if it has none."""
        path = self.path / name
        try:
            return stored_record(json.loads(path.read_bytes().decode("utf-8")))
        except FileNotFoundError:
            # Deleted since the directory was read.
            return None
        except Exception as error:  # noqa: BLE001  # deep nesting raises RecursionError
            on_skipped()
            if name not in self._skipped:
                self._skipped.add(name)
                words = one_line(safe_text(error))
                _logger.warning("%s is no task event and is left out: %s", path, words)
            return None

    def query_read_first(self, query: dict[str, Any]) -> TaskEventRecord | None:
        """Return the oldest record that matches."""
        return next(self.query_items(query), None)

    def query_read_limit(self, query: dict[str, Any], n: int) -> list[TaskEventRecord]:
        """Return up to this many of the oldest records that match."""
        return list(islice(self.query_items(query), n))

    def query_read_last(self, query: dict[str, Any]) -> TaskEventRecord | None:
        """Return the newest record that matches; no older file is read."""
        newest_first = self._matching(self.names(newest_first=True), query)
        return next((record for _, record in newest_first), None)

    def query_update(self, query: dict[str, Any], values: dict[str, Any]) -> None:
        """Change the records that match."""
        for path, record in self._matching(self.names(), query):
            change_record(record, values)
            self._write(path, record)

    def query_delete(self, query: dict[str, Any]) -> None:
        """Remove the records that match."""
        self.remove(query, lambda _: True)

    def remove(self, query: dict[str, Any], is_unwanted: Callable[[TaskEventRecord], bool]) -> int:
        """Remove the matching records that are unwanted; return their number."""
        removed = 0
        for path, record in self._matching(self.names(), query):
            if is_unwanted(record):
                path.unlink(missing_ok=True)
                removed += 1
        return removed

    def format_query(self, query: dict[str, Any]) -> dict[str, Any]:
        """Return the query, with its texts in the form of the files."""
        return storable_query(query)


def _is_stamp(text: str) -> bool:
    return len(text) == _DIGITS and text.isascii() and text.isdigit()


def is_stamped(name: str) -> bool:
    """Return whether ``TaskEventJSONRepo`` has named a file."""
    return _is_stamp(name.partition("-")[0])


def is_ordered(repo: JSONDirectoryRepo) -> bool:
    """Return whether the file names of a directory have the order of its records."""
    return isinstance(repo, TaskEventJSONRepo)

"""Opening a repository of any model, to read it only."""

from __future__ import annotations

import csv
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from redbird.repos import CSVFileRepo, JSONDirectoryRepo

from rocketry_otel._errors import RepositoryError
from rocketry_otel._model.record import TaskEventRecord
from rocketry_otel._repositories.csv_file import COLUMNS
from rocketry_otel._repositories.csv_repo import TaskEventCSVRepo
from rocketry_otel._repositories.json_repo import TaskEventJSONRepo, is_stamped
from rocketry_otel._repositories.open_repository import module_for
from rocketry_otel._repositories.urls import local_path, mask_url, refusal

from .history_record import TOLERANT, HistoryRecord, check_names, not_there

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redbird import BaseRepo

    Opener = Callable[[str, ExitStack], BaseRepo]


@contextmanager
def open_history(url: str) -> Iterator[BaseRepo]:
    """Open an existing repository, of any model, to read it.

    Nothing is created and nothing is written.

    Args:
        url: See ``open_repository``.

    Raises:
        RepositoryURLError: The URL cannot be understood, or what it needs is not installed.
        RepositoryMismatchError: There are no records of tasks.
        RepositoryError: It is not there, or cannot be opened.
    """
    with ExitStack() as closing:
        yield open_existing(url, closing)


@contextmanager
def open_to_remove(url: str) -> Iterator[BaseRepo]:
    """Open an existing repository, of any model, to remove records from it.

    Nothing is created, and no table, column or index is changed.

    Args:
        url: See ``open_repository``.

    Raises:
        RepositoryError: As ``open_history``.
    """
    with ExitStack() as closing:
        kind = _kind_of(url.strip())
        if kind in {"csv_repo", "json_repo", "mongo_repo"}:
            # They do not distinguish between a reader and others.
            yield open_existing(url, closing)
        else:
            from .open_sql import open_sql  # noqa: PLC0415

            yield open_sql(url.strip(), closing, removes=True)


def open_existing(url: str, closing: ExitStack) -> BaseRepo:
    """Open an existing repository, of any model, to read it; the errors are those above.

    Args:
        url: See ``open_repository``.
        closing: Gets the callbacks that close it.
    """
    url = url.strip()
    return _opener(url, _kind_of(url))(url, closing)


def _kind_of(url: str) -> str:
    return module_for(url).__name__.rpartition(".")[2]


def _opener(url: str, kind: str) -> Opener:
    if kind == "memory_repo":
        raise refusal(url, "a repository in memory ends with its process")
    if kind == "csv_repo":
        return _open_csv
    if kind == "json_repo":
        return _open_json
    # These two import packages that need not be installed.
    if kind == "mongo_repo":
        from .open_mongo import open_mongo  # noqa: PLC0415

        return open_mongo
    from .open_sql import open_sql  # noqa: PLC0415

    return open_sql


class _HistoryCSVRepo(CSVFileRepo):  # type: ignore[misc]
    """Red Bird's ``CSVFileRepo``, which takes any text and creates no file."""

    def read_file(self) -> Iterator[dict[str, Any]]:
        """Give the rows, in any encoding."""
        with self.filename.open(errors="backslashreplace", newline="") as file:
            # Before Python 3.11 `csv` refuses a NUL.
            rows = self.get_reader(line.replace("\0", "\\x00") for line in file)
            next(rows, None)
            yield from rows


def _open_csv(url: str, _: ExitStack) -> BaseRepo:
    path = local_path(url)
    if not path.is_file():
        raise not_there(url, "file")
    try:
        with path.open(encoding="utf-8-sig", errors="backslashreplace", newline="") as file:
            names = next(csv.reader(line.replace("\0", "\\x00") for line in file), [])
    except OSError as error:
        raise RepositoryError(f"cannot open {mask_url(url)}: {error}") from error
    if names in (COLUMNS, []):  # an empty file is ours, before its first record
        return TaskEventCSVRepo(filename=path, model=TaskEventRecord)
    check_names(names, f"the file {path}")
    return _HistoryCSVRepo(
        filename=path, model=HistoryRecord, fieldnames=names, errors_query=TOLERANT
    )


class _HistoryJSONRepo(JSONDirectoryRepo):  # type: ignore[misc]
    """Red Bird's ``JSONDirectoryRepo``, which skips unreadable files."""

    def read_data(self, id_value: object = None) -> Iterator[dict[str, Any]]:
        """Give the data of each file."""
        del id_value  # the id field of an unknown model is not known
        for path in self.path.glob("*.json"):
            with suppress(OSError, ValueError, RecursionError):
                yield self.read_file(path.stem)


def _open_json(url: str, _: ExitStack) -> BaseRepo:
    path = local_path(url)
    if not path.is_dir():
        raise not_there(url, "directory")
    if any(is_stamped(file.name) for file in path.glob("*.json")):
        return TaskEventJSONRepo(path=path, model=TaskEventRecord)
    return _HistoryJSONRepo(path=path, model=HistoryRecord, id_field="id", errors_query=TOLERANT)

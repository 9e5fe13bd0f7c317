"""Opening what Rocketry wrote by whatever model, to be read alone."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic.v1 import BaseModel
from redbird.repos import CSVFileRepo, JSONDirectoryRepo

from rocketry_otel._errors import RepositoryError, RepositoryMismatchError
from rocketry_otel._records import TaskEventRecord

from . import open_repository
from ._csv import TaskEventCSVRepo
from ._csv_file import COLUMNS
from ._json import TaskEventJSONRepo, is_stamped
from ._urls import local_path, mask_url, refusal, without_secrets

if TYPE_CHECKING:
    from collections.abc import Callable

    from redbird import BaseRepo

_NEEDED = ("task_name", "action", "created")


class HistoryRecord(BaseModel):
    """What telemetry is made of, of records of any model: what one lacks is ``None``."""

    task_name: str
    action: str
    created: float
    run_id: str | None = None
    message: str | None = None
    exc_text: str | None = None
    exc_type: str | None = None
    exc_message: str | None = None
    process: str | None = None
    thread: str | None = None
    execution: str | None = None
    links: str | None = None
    attributes: str | None = None
    events: str | None = None
    trace_id: str | None = None
    span_id: str | None = None


def open_history(url: str) -> BaseRepo:
    """Open a repository that is there, whatever the model of its records, to read it.

    Nothing is made, but for the indices in MongoDB, and nothing is written.

    Args:
        url: See ``open_repository``.

    Raises:
        RepositoryURLError: The URL cannot be understood, or what it needs is not installed.
        RepositoryMismatchError: There are no records of tasks.
        RepositoryError: It is not there, or cannot be opened.
    """
    scheme = url.strip().partition("://")[0].lower()
    if scheme == "memory":
        raise refusal(url, "what is in memory is gone with the process that wrote it")
    openers: dict[str, Callable[[str], BaseRepo]] = {
        "csv": _open_csv,
        "json": _open_json,
        "mongodb": _open_mongo,
        "mongodb+srv": _open_mongo,
    }
    opener = openers.get(scheme, _open_sql)
    return opener(url.strip())


def _open_csv(url: str) -> BaseRepo:
    path = local_path(url)
    _need(path.is_file(), url, "there is no such file")
    try:
        with path.open(encoding="utf-8-sig", errors="backslashreplace", newline="") as file:
            names = next(csv.reader(file), [])
    except OSError as error:
        raise RepositoryError(f"cannot open {mask_url(url)}: {error}") from error
    _check(names, f"the file {path}")
    if names == COLUMNS:
        return TaskEventCSVRepo(filename=path, model=TaskEventRecord)
    return CSVFileRepo(filename=path, model=HistoryRecord, fieldnames=names)


def _open_json(url: str) -> BaseRepo:
    path = local_path(url)
    _need(path.is_dir(), url, "there is no such directory")
    if any(is_stamped(file.name) for file in path.glob("*.json")):
        return TaskEventJSONRepo(path=path, model=TaskEventRecord)
    return JSONDirectoryRepo(path=path, model=HistoryRecord, id_field="id")


def _open_mongo(url: str) -> BaseRepo:
    return open_repository(url)


def _open_sql(url: str) -> BaseRepo:
    try:
        import sqlalchemy as sa  # noqa: PLC0415  # it need not be installed
        import sqlalchemy.orm  # noqa: PLC0415  # Red Bird uses it without importing it
    except ModuleNotFoundError:
        return open_repository(url)  # which says what to install
    from redbird.repos import SQLRepo  # noqa: PLC0415

    from ._sql_engine import make_engine, split_table  # noqa: PLC0415

    place, name = split_table(url)
    database = place.database or ""
    if place.get_backend_name() == "sqlite" and not database.startswith("file:"):
        _need(Path(database).is_file(), url, "there is no such file")
    engine = make_engine(url, place)
    try:
        table = _table_in(sa.inspect(engine), name, is_chosen="table" in url.partition("?")[2])
        return SQLRepo(engine=engine, table=table, model=HistoryRecord)
    except KeyError:
        raise RepositoryMismatchError(
            f"the table {name} has no primary key, without which its records have no order"
        ) from None
    except sa.exc.SQLAlchemyError as error:
        words = without_secrets(str(getattr(error, "orig", None) or error).strip(), url)
        raise RepositoryError(f"cannot open {mask_url(url)}: {words}") from None


def _table_in(inspector: Any, name: str, *, is_chosen: bool) -> str:
    """Return the name of the table of records: the one that is named, or the only one."""
    if inspector.has_table(name):
        _check(_columns(inspector, name), f"the table {name}")
        return name
    tables = inspector.get_table_names()
    fitting = [table for table in tables if set(_NEEDED) <= set(_columns(inspector, table))]
    if len(fitting) == 1 and not is_chosen:
        return str(fitting[0])
    raise RepositoryMismatchError(
        f"there is no table {name}; tables with records of tasks, to choose by ?table=name: "
        f"{', '.join(sorted(fitting)) or 'none'}"
    )


def _columns(inspector: Any, table: str) -> list[str]:
    return [str(column["name"]) for column in inspector.get_columns(table)]


def _check(names: list[str], what: str) -> None:
    missing = [name for name in _NEEDED if name not in names]
    if missing:
        raise RepositoryMismatchError(
            f"{what} has no records of tasks; missing: {', '.join(missing)}"
        )


def _need(there: object, url: str, otherwise: str) -> None:
    if not there:
        raise RepositoryError(f"cannot open {mask_url(url)}: {otherwise}")

"""Opening a table of records of any model, to read it only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
import sqlalchemy.orm  # Red Bird uses it without importing it
from redbird.repos import SQLRepo
from sqlalchemy.engine import make_url

from rocketry_otel._errors import RepositoryError, RepositoryMismatchError
from rocketry_otel._repositories.sql_engine import make_engine, split_table
from rocketry_otel._repositories.sql_read_only import make_reading_engine, sqlite_file
from rocketry_otel._repositories.urls import mask_url, without_secrets

from .history_record import TOLERANT, HistoryRecord, are_enough, check_names, not_there

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import ExitStack

    from redbird import BaseRepo

_PAGE = 1_000


class _HistorySQLRepo(SQLRepo):  # type: ignore[misc]
    """Red Bird's ``SQLRepo``, which reads by the page and ends its session after each reading."""

    def query_data(self, query: Any) -> Iterator[Any]:
        """Give the rows that match."""
        try:
            yield from self._filter_orm(query).yield_per(_PAGE)
        finally:
            # An open transaction would keep the database from cleaning up.
            self.session.remove()


def open_sql(url: str, closing: ExitStack, *, removes: bool = False) -> BaseRepo:
    """Open the table of a URL of SQLAlchemy.

    Args:
        url: The URL.
        closing: Gets the callbacks that close it.
        removes: Whether records are removed from it.

    Raises:
        RepositoryURLError: The URL cannot be understood, or the driver is missing.
        RepositoryMismatchError: There is no table with records of tasks.
        RepositoryError: The database is missing, or refuses.
    """
    place, name = split_table(url)
    path = sqlite_file(place)
    if path is not None and not path.is_file():
        raise not_there(url, "file")
    engine = make_engine(url, place) if removes else make_reading_engine(url, place)
    closing.callback(engine.dispose)
    try:
        is_chosen = "table" in make_url(url).query
        table = _table_in(sa.inspect(engine), name, is_chosen=is_chosen)
        repo = _HistorySQLRepo(
            engine=engine, table=table, model=HistoryRecord, errors_query=TOLERANT
        )
    except KeyError:
        raise RepositoryMismatchError(
            f"the table {table} has no primary key, without which its records have no order"
        ) from None
    except (TypeError, OSError, sa.exc.SQLAlchemyError) as error:
        # A driver raises TypeError at an unknown option.
        words = without_secrets(str(getattr(error, "orig", None) or error).strip(), url)
        raise RepositoryError(f"cannot open {mask_url(url)}: {words}") from None
    closing.callback(repo.session.remove)
    return repo


def _table_in(inspector: Any, name: str, *, is_chosen: bool) -> str:
    """Return the name of the table of records: the one in the URL, or the only one."""
    if inspector.has_table(name):
        check_names(_columns(inspector, name), f"the table {name}")
        return name
    tables = inspector.get_table_names()
    fitting = [str(table) for table in tables if are_enough(_columns(inspector, table))]
    if len(fitting) == 1 and not is_chosen:
        return fitting[0]
    raise RepositoryMismatchError(
        f"there is no table {name}; tables with records of tasks, to choose by ?table=name: "
        f"{', '.join(sorted(fitting)) or 'none'}"
    )


def _columns(inspector: Any, table: str) -> list[str]:
    return [str(column["name"]) for column in inspector.get_columns(table)]

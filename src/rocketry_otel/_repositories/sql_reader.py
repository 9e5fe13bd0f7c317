"""Reads rows of a table by the page, through one connection that is kept.

In: a query and the size of a page. Out: rows: the id, and the values if the driver can read them.
"""

from __future__ import annotations

from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from .sql_connection import KeptConnection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sqlalchemy.engine import Connection, Engine

    # The id of a row, and its values if they can be read.
    Row = Sequence[Any]

# The names of parameters, which no column has.
_LIMIT, _BEHIND, _UNTIL = ":limit", ":behind", ":until"

# A program has few kinds of queries. One that makes up names must not fill the memory.
_MOST_STATEMENTS = 100


class Equal(NamedTuple):
    """A query for the rows whose columns have these values.

    Rocketry asks for little else. The statement is made once for all queries of the same columns.
    """

    values: dict[str, Any]


class Page(NamedTuple):
    """A page of the rows that match a query.

    Attributes:
        limit: How many rows it has at most.
        newest_first: Whether the rows come in the reverse of the order in which they were added.
        behind: The id of the last row of the page before.
        until: The id of the last row of all pages.
    """

    limit: int
    newest_first: bool = False
    behind: int | None = None
    until: int | None = None


class RowReader:
    """Reads rows, for any number of threads.

    A thread that finds the kept connection in use takes another one from the pool.

    Args:
        engine: The engine. The connection is taken from its pool, and belongs to this process.
        table: The table.
        id_: The column of the id, which has the order of the rows.
        columns: The names of the columns of a row.
        on_unreadable: Called with the error for each row that the driver cannot read.
    """

    def __init__(
        self,
        engine: Engine,
        table: sa.Table,
        id_: sa.Column[int],
        columns: Sequence[str],
        on_unreadable: Callable[[Exception], None],
    ) -> None:
        self._table = table
        self._id = id_
        self._ids = sa.select(id_)
        self._rows = sa.select(id_, *(table.c[name] for name in columns))
        self._on_unreadable = on_unreadable
        # One statement needs no transaction, and so two turns to the server less.
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._kept = KeptConnection(engine, Lock)
        self._statements: dict[Any, Any] = {}

    def leave_to_the_parent(self) -> Connection | None:
        """Start afresh in a forked child; return the connection of the parent, if it has one."""
        return self._kept.leave_to_the_parent()

    def scalar(self, statement: Any) -> Any:
        """Return the single value that a statement has for a result."""
        with self._connection() as connection:
            return connection.execute(statement).scalar()

    def newest_id(self) -> Any:
        """Return the id of the row that was added last; ``None`` without rows."""
        return self.scalar(sa.select(sa.func.max(self._id)))

    def rows(self, query: Any, page: Page) -> list[Row]:
        """Return a page of the rows that match a query.

        Args:
            query: An ``Equal``, or an expression of SQLAlchemy.
            page: Which page.

        Raises:
            SQLAlchemyError: The database refuses, or is away.
        """
        try:
            return self._fetch(self._rows, query, page)
        except Exception:  # noqa: BLE001  # a driver may raise anything at an odd value
            # A database that is away raises here.
            ids = self._fetch(self._ids, query, page)
            return [row for (id_,) in ids for row in self._row_alone(id_)]

    def _row_alone(self, id_: Any) -> list[Row]:
        its, page = self._id == id_, Page(1)
        try:
            return self._fetch(self._rows, its, page)
        except Exception as error:  # noqa: BLE001  # as above
            found = self._fetch(self._ids, its, page)
            self._on_unreadable(error)
            return found

    def _fetch(self, select: Any, query: Any, page: Page) -> list[Row]:
        statement = self._statement(select, query, page)
        parameters = {_LIMIT: page.limit, _BEHIND: page.behind, _UNTIL: page.until}
        if isinstance(query, Equal):
            parameters.update(query.values)
        with self._connection() as connection:
            return list(connection.execute(statement, parameters).fetchall())

    def _statement(self, select: Any, query: Any, page: Page) -> Any:
        """Return the statement for a query; its parameters are named after the columns."""
        if not isinstance(query, Equal):
            return self._page_of(select.where(query), page)
        columns = query.values.keys()
        kind = (
            select is self._rows,
            *columns,
            page.newest_first,
            page.behind is None,
            page.until is None,
        )
        statement = self._statements.get(kind)
        if statement is None:
            conditions = [self._table.c[name] == sa.bindparam(name) for name in columns]
            statement = self._page_of(select.where(sa.true(), *conditions), page)
            if len(self._statements) < _MOST_STATEMENTS:
                self._statements[kind] = statement
        return statement

    def _page_of(self, select: Any, page: Page) -> Any:
        if page.behind is not None:
            behind: sa.BindParameter[int] = sa.bindparam(_BEHIND)
            select = select.where(self._id < behind if page.newest_first else self._id > behind)
        if page.until is not None:
            select = select.where(self._id <= sa.bindparam(_UNTIL))
        order = self._id.desc() if page.newest_first else self._id
        return select.order_by(order).limit(sa.bindparam(_LIMIT, type_=sa.Integer))

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        lock = self._kept.lock
        if not lock.acquire(blocking=False):
            with self._engine.connect() as connection:
                yield connection
            return
        try:
            yield self._kept.usable()
            self._kept.note_use()
        except BaseException:
            self._kept.drop()
            raise
        finally:
            lock.release()

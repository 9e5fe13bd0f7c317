"""A repository in any SQL database that SQLAlchemy knows."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from hashlib import blake2b
from itertools import islice
from typing import TYPE_CHECKING, Any
from weakref import finalize

import sqlalchemy as sa
import sqlalchemy.orm  # Red Bird uses it without importing it.
from pydantic.v1 import PrivateAttr
from redbird.exc import KeyFoundError
from redbird.repos import SQLRepo
from redbird.sql.expressions import to_expression

from rocketry_otel._errors import RepositoryError
from rocketry_otel._model.record import TaskEventRecord
from rocketry_otel._runtime.forks import after_fork_in_child, before_fork

from .skipped import SkippedRows
from .sql_engine import analyze_sqlite, make_engine, prepare_sqlite, split_table, write
from .sql_reader import Equal, Page, RowReader
from .sql_table import open_table
from .sql_writer import RowWriter
from .urls import mask_url, refusal, without_secrets
from .values import storable, storable_query, storable_record, with_text
from .weak_references import Referable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sqlalchemy.engine import Engine

    from .sql_reader import Row

_PAGE = 2_000
_NAMES = tuple(TaskEventRecord.__fields__)
# Values that compare with a column as they are.
_PLAIN = {str, int, float}

# Pools and sessions of the parent process. If a child freed them, they would close the parent's
# connections to the database.
_abandoned: list[object] = []


def open_url(url: str) -> TaskEventSQLRepo:
    """Open the repository of a URL of SQLAlchemy.

    Raises:
        RepositoryURLError: SQLAlchemy does not understand the URL, or the driver is missing.
        RepositoryMismatchError: Records do not fit into the existing table.
        RepositoryError: The database refuses.
    """
    place, name = split_table(url)
    engine = make_engine(url, place)
    with ExitStack() as undo:
        undo.callback(engine.dispose)
        try:
            repo = _open(url, engine, name)
        except (sa.exc.SQLAlchemyError, OSError) as error:
            words = str(getattr(error, "orig", None) or error).strip()
            raise RepositoryError(
                f"cannot open {mask_url(url)}: {without_secrets(words, url)}"
            ) from None
        undo.pop_all()
        return repo


def _open(url: str, engine: Engine, name: str) -> TaskEventSQLRepo:
    try:
        engine.connect().close()
    except (TypeError, sa.exc.ProgrammingError) as error:
        # Drivers raise this for an unknown option.
        words = without_secrets(str(getattr(error, "orig", error)).strip(), url)
        raise refusal(url, f"the database's driver refuses it: {words}") from None
    if engine.dialect.name == "sqlite":
        prepare_sqlite(engine)
    table, limits = open_table(engine, name)
    if engine.dialect.name == "sqlite":
        analyze_sqlite(engine, name)
    return TaskEventSQLRepo(engine, table, limits)


class TaskEventSQLRepo(SQLRepo, Referable):  # type: ignore[misc]
    """Red Bird's ``SQLRepo``, safe with threads, forks and errors.

    Records are added through one connection that is kept, and read through another one. Every
    other operation takes its own connection from the pool. Each holds a connection for one
    statement, even if its result is read only in part. So an error cannot outlive its operation,
    as it does in a session.
    ``limits`` has the number of characters that a column holds, if it is limited.
    """

    session: Any
    engine: Any

    _limits: Mapping[str, int] = PrivateAttr()
    _skipped: SkippedRows = PrivateAttr()
    _writer: RowWriter = PrivateAttr()
    _reader: RowReader = PrivateAttr()

    def __init__(self, engine: Engine, table: sa.Table, limits: Mapping[str, int]) -> None:
        orm_class = type("TaskEvent", (), {})
        sqlalchemy.orm.registry().map_imperatively(orm_class, table)
        super().__init__(
            engine=engine,
            model=TaskEventRecord,
            model_orm=orm_class,
            table=table.name,
            id_field=next(iter(table.primary_key)).name,
        )
        self.engine = engine
        self._limits = limits
        self._skipped = SkippedRows(f"the table {table.name}")
        self._reader = RowReader(engine, table, self._id, _NAMES, self._skipped.skip)
        self._writer = RowWriter(engine, table, _NAMES)
        if engine.dialect.name == "sqlite":
            before_fork(self._close_idle)
        after_fork_in_child(self._start_afresh)
        finalize(self, engine.dispose)

    def _close_idle(self) -> None:
        # SQLite notes in the process which locks its open files have. A child with a copy of these
        # notes takes no lock of its own. Then the parent, when it closes the file, removes the log
        # that the child writes to.
        self.engine.dispose()

    def _start_afresh(self) -> None:
        kept = (self._writer.leave_to_the_parent(), self._reader.leave_to_the_parent())
        _abandoned.extend((self.engine.pool, self.session, *kept))
        self.engine.dispose(close=False)
        self.session = self.create_scoped_session(self.engine)

    @property
    def _table(self) -> sa.Table:
        table: sa.Table = self.model_orm.__table__
        return table

    @property
    def _id(self) -> sa.Column[int]:
        return self._table.c[self.id_field]

    def insert(self, item: TaskEventRecord) -> None:
        """Add a record.

        Raises:
            KeyFoundError: A constraint of an existing table forbids it.
        """
        try:
            self._writer.add(self._fit(storable_record(item)))
        except sa.exc.IntegrityError as error:
            raise KeyFoundError(f"table {self.table} refuses the record: {error.orig}") from error

    def upsert(self, item: TaskEventRecord) -> None:
        """Add a record: a record has no id of its own, and so replaces no other."""
        self.insert(item)

    def query_items(self, query: Any) -> Iterator[TaskEventRecord]:
        """Yield the records that match, in the order in which they were added.

        They are read in pages. Records that are added after the first page are left out.
        """
        return self._records(query, until_now=True)

    def query_read_first(self, query: Any) -> TaskEventRecord | None:
        """Return the oldest record that matches."""
        return next(self._records(query, first=1), None)

    def query_read_last(self, query: Any) -> TaskEventRecord | None:
        """Return the newest record that matches."""
        return next(self._records(query, first=1, newest_first=True), None)

    def query_read_limit(self, query: Any, n: int) -> list[TaskEventRecord]:
        """Return up to this many of the oldest records that match."""
        return list(islice(self._records(query, first=min(n, _PAGE)), n)) if n > 0 else []

    def query_count(self, query: Any) -> int:
        """Return the number of records that match."""
        count = sa.select(sa.func.count()).select_from(self._table)
        return int(self._reader.scalar(count.where(self._expression(query))))

    def query_update(self, query: Any, values: dict[str, Any]) -> int:
        """Change the records that match, and return their number."""
        changed = self._table.update().where(self._expression(query))
        return write(self.engine, changed.values(self._storable(values)))

    def query_delete(self, query: Any) -> int:
        """Remove the records that match, and return their number."""
        return write(self.engine, self._table.delete().where(self._expression(query)))

    def format_query(self, oper: dict[str, Any]) -> Any:
        """Return the query as the values of columns, or else as an expression of SQLAlchemy."""
        query = {name: self._fitted(name, one) for name, one in storable_query(oper).items()}
        is_plain = all(type(one) in _PLAIN and name in self._table.c for name, one in query.items())
        return Equal(query) if is_plain else to_expression(query, table=self._table.c)

    def _expression(self, query: Any) -> Any:
        equal = query.values if isinstance(query, Equal) else None
        return query if equal is None else to_expression(equal, table=self._table.c)

    def _records(
        self,
        query: Any,
        *,
        first: int = _PAGE,
        newest_first: bool = False,
        until_now: bool = False,
    ) -> Iterator[TaskEventRecord]:
        """Yield the records that can be read, by the page; the first page has so many rows.

        With ``until_now``, records that are added after the first page are left out.
        """
        page = Page(first, newest_first)
        while True:
            rows = self._reader.rows(query, page)
            is_last = len(rows) < page.limit
            if until_now and not is_last and page.until is None:
                page = page._replace(until=self._reader.newest_id())
            for row in rows:
                record = self._record_of(row)
                if record is not None:
                    yield record
            if is_last:
                return
            page = page._replace(limit=_PAGE, behind=rows[-1][0])

    def _record_of(self, row: Row) -> TaskEventRecord | None:
        # A row that the driver cannot read has only its id.
        return self._skipped.record(dict(zip(_NAMES, row[1:], strict=True))) if row[1:] else None

    def _storable(self, values: dict[str, Any]) -> dict[str, Any]:
        return self._fit({name: storable(name, value) for name, value in values.items()})

    def _fit(self, row: dict[str, Any]) -> dict[str, Any]:
        return (
            {name: self._fitted(name, value) for name, value in row.items()}
            if self._limits
            else row
        )

    def _fitted(self, name: str, value: Any) -> Any:
        """Shorten the text of a value, or of an operation, to the length of its column."""
        limit = self._limits.get(name)
        return value if limit is None else with_text(value, partial(_shortened, limit=limit))


def _shortened(text: str, *, limit: int) -> str:
    if len(text) <= limit:
        return text
    # Two long names with the same beginning stay different.
    digest = blake2b(text.encode(), digest_size=8).hexdigest()
    return f"{text[: max(limit - 17, 0)]}~{digest}"[:limit]

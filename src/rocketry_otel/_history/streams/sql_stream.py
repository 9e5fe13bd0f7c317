"""The records of a table in a SQL database."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from rocketry_otel._model.event import nanoseconds
from rocketry_otel._repositories.sql_engine import write

from .base import OUTLINE, Place, RecordStream, Window

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from redbird.repos import SQLRepo

    from .base import Fields, Unwanted

    _Key = Sequence[Any]
    _Condition = sa.ColumnElement[bool]

# Some databases take no more than 999 values in a statement.
_PAGE = 900


def stream_of(repo: SQLRepo) -> SQLStream:
    """Return the records of a table, of ours or of Red Bird's."""
    return SQLStream(repo)


class SQLStream(RecordStream):
    """The records of a table, read by the page.

    Each page uses a connection of its own: the session of Red Bird's repository belongs to the
    thread that adds records, and holds whole results in memory.
    """

    can_go_on = True

    def __init__(self, repo: SQLRepo) -> None:
        mapper = sa.inspect(repo.model_orm)
        super().__init__(repo, mapper.local_table.name)
        self._engine = repo.engine or repo.session.get_bind(mapper).engine
        self._columns = {attribute.key: attribute.columns[0] for attribute in mapper.column_attrs}
        self._created = self._columns["created"]
        self._primary = list(mapper.primary_key)
        # An integer key has the order of the inserts; others have none.
        others = [column for column in self._primary if column is not self._created]
        self._order = self._primary if self._counters() else [self._created, *others]

    def _counters(self) -> bool:
        # In SQLAlchemy 1.4 a type with variants is not an instance of its base type.
        types = [getattr(column.type, "impl", column.type) for column in self._primary]
        return len(types) == 1 and isinstance(types[0], sa.Integer)

    def read(self, window: Window, place: Place | None = None) -> Iterator[Fields]:
        """Give the fields of each record, in the order in which they were added."""
        place = place or Place()
        for page in self._pages(list(self._columns), window, place.last):
            for key, row in page:
                place.pass_by(tuple(key))
                fields = self.fields(SimpleNamespace(**row))
                if fields is not None:
                    yield fields

    def is_whole(self, window: Window, place: Place, rest: Callable[[], bool]) -> bool:
        """Return whether a reading has met all rows that are visible now before its place.

        Ids have the order of their ``INSERT``: a transaction that commits late shows its rows
        behind those of others.
        """
        pages = self._pages(["created"], window)
        return place.has_met_all((tuple(key) for page in pages for key, _ in page), rest)

    def outlines(self, window: Window) -> Iterator[Fields]:
        """Give the fields that pair the records of a run."""
        return self._rows([name for name in OUTLINE if name in self._columns], window)

    def _rows(self, names: Sequence[str], window: Window) -> Iterator[Fields]:
        for page in self._pages(names, window):
            yield from (fields for _, fields in page)

    def earliest_of_newest(self, count: int) -> int:
        """Return the earliest time among the records added last, in nanoseconds."""
        newest_first = [column.desc() for column in self._order]
        newest = sa.select(self._created).order_by(*newest_first).limit(count).subquery()
        return nanoseconds(self._scalar(sa.select(sa.func.min(newest.c[self._created.name]))))

    def newest(self, kinds: Collection[tuple[Any, Any]]) -> dict[tuple[Any, Any], Fields]:
        """Return the record added last of each kind: a task name and an action."""
        found = {}
        task_name, action = self._columns["task_name"], self._columns["action"]
        newest_first = [column.desc() for column in self._order]
        for kind in kinds:
            statement = sa.select(self._created).where(task_name == kind[0], action == kind[1])
            created = self._scalar(statement.order_by(*newest_first).limit(1))
            if created is not None:
                found[kind] = {"created": created}
        return found

    def remove(self, window: Window, is_unwanted: Unwanted) -> int:
        """Remove the records that are unwanted, and return how many these were."""
        removed = 0
        names = [name for name in OUTLINE if name in self._columns]
        for page in self._pages(names, window):
            unwanted = [key for key, fields in page if is_unwanted(fields)]
            if unwanted:
                began = time.monotonic()
                removed += write(self._engine, self._deletion(unwanted))
                # SQLite has one writer at a time and no queue: others have as much time.
                time.sleep(time.monotonic() - began)
        return removed

    def _deletion(self, keys: Sequence[_Key]) -> sa.sql.Delete:
        deletion = sa.delete(self._created.table)
        if len(self._primary) == 1:
            place = self._order.index(self._primary[0])
            return deletion.where(self._primary[0].in_([key[place] for key in keys]))
        return deletion.where(sa.or_(*map(self._is_row, keys)))

    def _pages(
        self, names: Sequence[str], window: Window, last: _Key | None = None
    ) -> Iterator[list[tuple[_Key, Fields]]]:
        """Give the rows within a window by the page: their keys, and those of their fields."""
        bounds = self._bounds(window)
        page = self._page(names, *bounds, *([] if last is None else [self._is_after(last)]))
        while page:
            found = (
                (key, dict(zip(names, values, strict=True)))
                for key, values in page
                if values is not None
            )
            yield [(key, fields) for key, fields in found if window.holds(fields)]
            page = self._page(names, *bounds, self._is_after(page[-1][0]))

    def _bounds(self, window: Window) -> list[_Condition]:
        """Return the conditions for a window, limited to the rows that exist now.

        They are on the leading column of the order: with conditions on the time, a database might
        sort all remaining rows for each page.
        """
        leading = self._order[0]
        times = sa.select(sa.func.min(leading), sa.func.max(leading))
        if window.lower is not None:
            times = times.where(self._created >= window.lower)
        if window.upper is not None:
            times = times.where(self._created <= window.upper)
        ((first, last),) = self._execute(times)
        return [sa.false()] if last is None else [leading >= first, leading <= last]

    def _page(
        self, names: Sequence[str], *conditions: _Condition
    ) -> list[tuple[_Key, Sequence[Any] | None]]:
        """Return the next rows: their keys, and their values if they can be read."""
        try:
            return self._fetch(names, *conditions)
        except Exception:  # noqa: BLE001  # a driver may raise anything at a value that is odd
            # A database that is away raises here.
            keys = [key for key, _ in self._fetch((), *conditions)]
            return [(key, self._values(names, key)) for key in keys]

    def _values(self, names: Sequence[str], key: _Key) -> Sequence[Any] | None:
        try:
            found = self._fetch(names, self._is_row(key))
        except Exception as error:  # noqa: BLE001  # as above
            self._fetch((), self._is_row(key))
            self.left_out(error)
            return None
        return found[0][1] if found else None

    def _fetch(
        self, names: Sequence[str], *conditions: _Condition
    ) -> list[tuple[_Key, Sequence[Any] | None]]:
        columns = [*self._order, *(self._columns[name] for name in names)]
        statement = sa.select(*columns).where(*conditions).order_by(*self._order).limit(_PAGE)
        width = len(self._order)
        return [(row[:width], row[width:]) for row in self._execute(statement)]

    def _is_row(self, key: _Key) -> _Condition:
        return sa.and_(*(column == value for column, value in self._pairs(key)))

    def _is_after(self, key: _Key) -> _Condition:
        """Return the condition on the rows behind one, as each database understands it."""
        cases: list[_Condition] = []
        same: _Condition = sa.true()
        for column, value in self._pairs(key):
            cases.append(sa.and_(same, column > value))
            same = sa.and_(same, column == value)
        return sa.or_(*cases)

    def _pairs(self, key: _Key) -> Iterable[tuple[sa.Column[Any], Any]]:
        return zip(self._order, key, strict=True)

    def _scalar(self, statement: Any) -> Any:
        return next((row[0] for row in self._execute(statement)), None)

    def _execute(self, statement: Any) -> list[Any]:
        with self._engine.connect() as connection:
            return list(connection.execute(statement))

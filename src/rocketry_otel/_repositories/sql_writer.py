"""Adds rows to a table through one connection that is kept.

In: the values of a row. Out: a committed row, or the error of the database.
"""

from __future__ import annotations

from contextlib import nullcontext
from threading import RLock
from typing import TYPE_CHECKING, Any

from rocketry_otel._runtime.forks import no_fork

from .sql_connection import KeptConnection
from .sql_engine import use_wal
from .sql_table import create_missing

if TYPE_CHECKING:
    from collections.abc import Sequence

    import sqlalchemy as sa
    from sqlalchemy.engine import Connection, Engine


class RowWriter:
    """Adds rows, each in a transaction of its own, for any number of threads.

    A connection that cannot be used any more is noticed before a row is sent. A row is sent once:
    an error after that may mean that it is stored, and is raised.

    Args:
        engine: The engine. The connection is taken from its pool, and belongs to this process.
        table: The table.
        columns: The names of the columns of a row.
    """

    def __init__(self, engine: Engine, table: sa.Table, columns: Sequence[str]) -> None:
        self._engine = engine
        self._table = table
        # Compiled once. SQLAlchemy would look for it at each row.
        row = dict.fromkeys(columns)
        compiled: Any = table.insert().inline().values(row).compile(dialect=engine.dialect)
        self._statement = str(compiled)
        self._order: Sequence[str] | None = getattr(compiled, "positiontup", None)
        # A child that is forked during a write to SQLite inherits its lock for good.
        self._guard = no_fork if engine.dialect.name == "sqlite" else nullcontext()
        # Re-entrant: a signal handler that logs may interrupt its holder, and then gets the error
        # of the driver instead of waiting forever.
        self._kept = KeptConnection(engine, RLock, self._prepare_new_file)

    def leave_to_the_parent(self) -> Connection | None:
        """Start afresh in a forked child; return the connection of the parent, if it has one."""
        return self._kept.leave_to_the_parent()

    def add(self, row: dict[str, Any]) -> None:
        """Add a row and commit it.

        Raises:
            SQLAlchemyError: The database refuses it, or the connection broke meanwhile.
        """
        values: Any = row if self._order is None else tuple(row[name] for name in self._order)
        with self._guard, self._kept.lock:
            connection = self._kept.usable()
            try:
                connection.exec_driver_sql(self._statement, values)
            except BaseException:
                self._kept.drop()
                raise
            self._kept.note_use()

    def _prepare_new_file(self) -> None:
        # It may be empty, as after a rotation.
        use_wal(self._engine)
        create_missing(self._engine, self._table)

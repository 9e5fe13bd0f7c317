"""Adds rows to a table through one connection that is kept.

In: the values of a row. Out: a committed row, or the error of the database.
"""

from __future__ import annotations

import select
import time
from contextlib import nullcontext, suppress
from threading import RLock
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from rocketry_otel._runtime.forks import no_fork

from .sql_engine import is_in_place, use_wal
from .sql_table import create_missing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.engine import Connection, Engine

# A connection to a server that has been idle for longer is tried before its use, in seconds: a
# router between here and there may have forgotten it.
_LONGEST_REST = 1.0


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
        self._connection: Connection | None = None
        self._used_at = 0.0
        # It guards the connection. Re-entrant: a signal handler that logs may interrupt its holder,
        # and then gets the error of the driver instead of waiting forever.
        self._lock = RLock()
        sa.event.listen(engine, "engine_disposed", lambda _: self.close())

    def leave_to_the_parent(self) -> Connection | None:
        """Start afresh in a forked child; return the connection of the parent, if it has one."""
        connection, self._connection = self._connection, None
        self._lock = RLock()
        return connection

    def add(self, row: dict[str, Any]) -> None:
        """Add a row and commit it.

        Raises:
            SQLAlchemyError: The database refuses it, or the connection broke meanwhile.
        """
        values: Any = row if self._order is None else tuple(row[name] for name in self._order)
        with self._guard, self._lock:
            connection = self._usable()
            try:
                connection.exec_driver_sql(self._statement, values)
            except BaseException:
                self._drop()
                raise
            self._used_at = time.monotonic()

    def close(self) -> None:
        """Close the connection, as at the disposal of the engine; the next row opens another.

        It waits for nothing: a connection that is in use stays.
        """
        if self._lock.acquire(blocking=False):
            try:
                self._drop()
            finally:
                self._lock.release()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sa.exc.SQLAlchemyError):
                # It is closed for good: nobody else gets a connection with an error.
                connection.invalidate()
                connection.close()

    def _usable(self) -> Connection:
        """Return the connection, after a check; open another one if it fails."""
        if self._connection is not None and not self._is_usable(self._connection):
            self._drop()
            if self._engine.dialect.name == "sqlite":
                # The new file may be empty, as after a rotation.
                use_wal(self._engine)
                create_missing(self._engine, self._table)
        if self._connection is None:
            connection = self._engine.connect()
            self._connection = connection.execution_options(isolation_level="AUTOCOMMIT")
        return self._connection

    def _is_usable(self, connection: Connection) -> bool:
        raw: Any = connection.connection.dbapi_connection
        dialect: Any = self._engine.dialect
        if dialect.name == "sqlite":
            return is_in_place(connection)
        is_recent = time.monotonic() - self._used_at < _LONGEST_REST
        try:
            if is_recent and hasattr(raw, "fileno") and not _has_input(raw.fileno()):
                return True
            return bool(dialect.do_ping(raw))
        except dialect.dbapi.Error:
            return False


def _has_input(file: int) -> bool:
    """Return whether there is something to read: a server sends nothing unless it closes."""
    poll = select.poll()
    poll.register(file, select.POLLIN)
    return bool(poll.poll(0))

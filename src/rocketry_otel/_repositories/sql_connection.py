"""A connection to a database that is kept from one statement to the next.

In: an engine. Out: a connection of its pool that is known to work. Taking a connection from the
pool for each statement would cost more than the statement.
"""

from __future__ import annotations

import select
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from .sql_engine import is_in_place

if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Lock, RLock

    from sqlalchemy.engine import Connection, Engine

# A connection to a server that has been idle for longer is tried before its use, in seconds: a
# router between here and there may have forgotten it.
_LONGEST_REST = 1.0


class KeptConnection:
    """A connection in which each statement is a transaction of its own.

    Whoever uses it holds ``lock``. An unusable connection is noticed before its use.

    Args:
        engine: The engine. The connection is taken from its pool, and belongs to this process.
        make_lock: Makes the lock.
        on_replaced: Called before another connection is opened because another SQLite file has
            taken the place of the one that was open.

    Attributes:
        lock: It guards the connection.
    """

    def __init__(
        self,
        engine: Engine,
        make_lock: Callable[[], Lock | RLock],
        on_replaced: Callable[[], object] = lambda: None,
    ) -> None:
        self._engine = engine
        self._make_lock = make_lock
        self._on_replaced = on_replaced
        self._connection: Connection | None = None
        self._used_at = 0.0
        self.lock = make_lock()
        sa.event.listen(engine, "engine_disposed", lambda _: self.close())

    def leave_to_the_parent(self) -> Connection | None:
        """Start afresh in a forked child; return the connection of the parent, if it has one."""
        connection, self._connection = self._connection, None
        self.lock = self._make_lock()
        return connection

    def usable(self) -> Connection:
        """Return the connection, after a check; open another one if it fails."""
        if self._connection is not None and not self._is_usable(self._connection):
            self.drop()
            if self._engine.dialect.name == "sqlite":
                self._on_replaced()
        if self._connection is None:
            connection = self._engine.connect()
            self._connection = connection.execution_options(isolation_level="AUTOCOMMIT")
        return self._connection

    def note_use(self) -> None:
        """Remember that the connection has just worked."""
        self._used_at = time.monotonic()

    def drop(self) -> None:
        """Close the connection for good: nobody else gets a connection with an error."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sa.exc.SQLAlchemyError):
                connection.invalidate()
                connection.close()

    def close(self) -> None:
        """Close the connection, as at the disposal of the engine; the next use opens another.

        It waits for nothing: a connection that is in use stays.
        """
        if self.lock.acquire(blocking=False):
            try:
                self.drop()
            finally:
                self.lock.release()

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

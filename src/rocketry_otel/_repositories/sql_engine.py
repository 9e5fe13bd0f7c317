"""From a URL of SQLAlchemy to an engine, or to an error with a remedy."""

from __future__ import annotations

import os
import re
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.engine import make_url

from rocketry_otel._errors import RepositoryError
from rocketry_otel._runtime.forks import no_fork

from .urls import mask_url, refusal, without_secrets

if TYPE_CHECKING:
    from sqlalchemy.engine import URL, Engine

# The dialects of MySQL and MariaDB. Either server is reached by both.
MYSQL = {"mysql", "mariadb"}

_TABLE = "rocketry_task_events"
# Packages with another name than their module.
_PACKAGES = {"MySQLdb": "mysqlclient"}
# The drivers besides SQLAlchemy's own choice, and the extra that brings one of them. SQLAlchemy 2.0
# takes psycopg2 for PostgreSQL and 2.1 takes psycopg: both work.
_DRIVERS = {
    "postgresql": (("psycopg", "psycopg2"), "postgresql"),
    "mysql": (("pymysql",), "mysql"),
    "mariadb": (("pymysql",), "mysql"),
}
# Otherwise a host that does not answer delays the application for two minutes, and a database in
# another encoding loses characters.
_CONNECT_OPTIONS = {
    "psycopg": {"connect_timeout": 10, "client_encoding": "utf8"},
    "psycopg2": {"connect_timeout": 10, "client_encoding": "utf8"},
    "pymysql": {"connect_timeout": 10, "charset": "utf8mb4"},
    "mysqldb": {"connect_timeout": 10, "charset": "utf8mb4"},
}
_SQLITE_OPTIONS = {
    "cached_statements",
    "check_same_thread",
    "detect_types",
    "isolation_level",
    "timeout",
    "uri",
}
# Where a connection of SQLite keeps which file it has open.
_FILE = "rocketry_otel.file"
_TABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,47}")


def split_table(url: str) -> tuple[URL, str]:
    """Split a URL into SQLAlchemy's part and the name of the table.

    Raises:
        RepositoryURLError: SQLAlchemy does not understand the URL, or the name is not allowed.
    """
    try:
        place = make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        # SQLAlchemy's message has the password in it.
        raise refusal(
            url,
            "SQLAlchemy does not understand it; expected is "
            "scheme://user:password@host:port/database?option=value, percent-encoded",
        ) from None
    if "@" in (place.host or ""):
        raise refusal(url, "an @ in a user's name or password is written %40")
    name = place.query.get("table", _TABLE)
    if not (isinstance(name, str) and _TABLE_NAME.fullmatch(name)):
        raise refusal(url, "table is a name of up to 48 letters, digits and underscores")
    return place.difference_update_query(["table"]), name


def make_engine(url: str, place: URL) -> Engine:
    """Make the engine of a database; it does not connect yet.

    Raises:
        RepositoryURLError: The database cannot be used, or its driver is missing.
        RepositoryError: The directory of a file cannot be created.
    """
    others, extra = _DRIVERS.get(place.drivername, ((), ""))
    missing = None
    for driver in (place.drivername, *(f"{place.drivername}+{other}" for other in others)):
        try:
            return _make_engine_of(url, place.set(drivername=driver))
        except sa.exc.NoSuchModuleError:  # noqa: PERF203  # three turns at the most
            continue
        except ImportError as error:
            missing = missing or error
    if missing is None:
        scheme = place.drivername
        hint = "; write postgresql://" if scheme.startswith("postgres") else ""
        raise refusal(
            url,
            f"the scheme {scheme!r} is neither memory, csv, json, mongodb or mongodb+srv nor a "
            f"database that SQLAlchemy knows here{hint}",
        )
    package = missing.name or "its driver"
    cure = f"'rocketry-otel[{extra}]'" if extra else _PACKAGES.get(package, package)
    raise refusal(url, f"the database's driver is missing ({missing}): pip install {cure}")


def _make_engine_of(url: str, place: URL) -> Engine:
    dialect = place.get_dialect()
    if dialect.is_async:
        raise refusal(url, f"{place.drivername} is for asyncio only; use another driver")
    if place.get_backend_name() == "sqlite":
        _check_sqlite(url, place)
        # Before SQLAlchemy 2, only the thread that has opened a connection may use it. A lock
        # takes care that one thread at a time does.
        sqlite = {} if "check_same_thread" in place.query else {"check_same_thread": False}
        return _create(url, place, connect_args=sqlite)
    if place.get_backend_name() in MYSQL and not place.database:
        raise refusal(url, "it names no database; write scheme://user:password@host/database")
    arguments = _CONNECT_OPTIONS.get(dialect.driver, {})
    chosen = {name: value for name, value in arguments.items() if name not in place.query}
    # A connection that the database has closed is noticed before its use.
    return _create(url, place, pool_pre_ping=True, connect_args=chosen)


def _create(url: str, place: URL, **options: Any) -> Engine:
    try:
        return sa.create_engine(place, **options)
    except (TypeError, ValueError, sa.exc.ArgumentError) as error:
        words = without_secrets(str(error), url)
        raise refusal(url, f"an option is not understood: {words}") from None


def _check_sqlite(url: str, place: URL) -> None:
    unknown = set(place.query) - _SQLITE_OPTIONS
    if unknown and "uri" not in place.query and place.get_driver_name() == "pysqlite":
        # SQLAlchemy ignores them.
        known = ", ".join(sorted(_SQLITE_OPTIONS))
        raise refusal(url, f"unknown option; known: table, {known}")
    database = place.database or ""
    if not database or ":memory:" in database or "mode=memory" in url:
        raise refusal(
            url,
            "SQLite in memory has a separate database for each thread, so it does not work "
            "with thread tasks; write memory:// or name a file",
        )
    if not database.startswith("file:"):
        try:
            Path(database).absolute().parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RepositoryError(f"cannot open {mask_url(url)}: {error}") from error


def write(engine: Engine, statement: Any) -> int:
    """Execute a statement in its own transaction, and return the number of changed rows."""
    # A child that is forked during a write to SQLite inherits its lock for good.
    guard = no_fork if engine.dialect.name == "sqlite" else nullcontext()
    with guard, engine.begin() as connection:
        return int(connection.execute(statement).rowcount)


def prepare_sqlite(engine: Engine) -> None:
    """Let SQLite lose no record, and let no reader lock writers out."""

    @sa.event.listens_for(engine, "connect")
    def _(connection: Any, record: Any) -> None:
        # A committed record survives a power cut.
        connection.execute("PRAGMA synchronous=FULL").close()
        database = connection.execute("PRAGMA database_list").fetchone()[2]
        record.info[_FILE] = (database, _identity(database))

    @sa.event.listens_for(engine, "checkout")
    def _(_connection: Any, record: Any, _proxy: object) -> None:
        if not is_in_place(record):
            # The pool opens another connection instead.
            raise sa.exc.DisconnectionError

    # A connection that is open already lacks both.
    engine.dispose()
    use_wal(engine)


def use_wal(engine: Engine) -> None:
    """Have SQLite write to a log beside the file first; the file keeps this mode."""
    # While others use the file, the mode cannot be changed: then one of them has just done so, or
    # the next one will.
    with suppress(sa.exc.OperationalError), engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")


def is_in_place(connection: Any) -> bool:
    """Return whether the file that a connection of SQLite has open is the one at its path.

    Args:
        connection: The connection, or its record in the pool.
    """
    database, identity = connection.info[_FILE]
    return bool(_identity(database) == identity)


def _identity(database: str) -> tuple[int, int] | None:
    try:
        found = os.stat(database)  # noqa: PTH116  # at each record; a Path takes twice as long
    except OSError:
        return None
    return found.st_dev, found.st_ino


def analyze_sqlite(engine: Engine, table: str) -> None:
    """Let SQLite analyze a thousand rows: otherwise it chooses the wrong index."""
    with suppress(sa.exc.OperationalError), engine.begin() as connection:
        connection.exec_driver_sql("PRAGMA analysis_limit=1000")
        connection.exec_driver_sql(f"ANALYZE {table}")

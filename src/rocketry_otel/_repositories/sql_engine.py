"""From a URL of SQLAlchemy to an engine, with words that help where there is none."""

from __future__ import annotations

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

_TABLE = "rocketry_task_events"
# Where the package has another name than what is imported of it.
_PACKAGES = {"MySQLdb": "mysqlclient"}
_SQLITE_OPTIONS = {
    "cached_statements",
    "check_same_thread",
    "detect_types",
    "isolation_level",
    "timeout",
    "uri",
}
_TABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,47}")


def split_table(url: str) -> tuple[URL, str]:
    """Split a URL into what SQLAlchemy takes and the name of the table.

    Raises:
        RepositoryURLError: SQLAlchemy does not understand the URL, or the name is none.
    """
    try:
        place = make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        # What SQLAlchemy says has the password in it.
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

    Args:
        url: What the user wrote.
        place: The same as SQLAlchemy takes it.

    Raises:
        RepositoryURLError: It is no database that can be used, or its driver is missing.
        RepositoryError: The directory of a file cannot be made.
    """
    drivers = [place.drivername]
    if place.drivername == "postgresql":
        # SQLAlchemy 2.0 means psycopg2 and 2.1 means psycopg: either is as good.
        drivers += ["postgresql+psycopg", "postgresql+psycopg2"]
    missing = None
    for driver in drivers:
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
    cure = "'rocketry-otel[postgresql]'" if drivers[1:] else _PACKAGES.get(package, package)
    raise refusal(url, f"the database's driver is missing ({missing}): pip install {cure}")


def _make_engine_of(url: str, place: URL) -> Engine:
    dialect = place.get_dialect()
    if dialect.is_async:
        raise refusal(url, f"{place.drivername} is for asyncio alone; take another driver")
    if place.get_backend_name() == "sqlite":
        _check_sqlite(url, place)
        return _create(url, place)
    arguments = {}
    if dialect.driver in {"psycopg", "psycopg2"}:
        # A host that does not answer holds up the application for two minutes otherwise.
        arguments = {"connect_timeout": 10, "client_encoding": "utf8"}
    chosen = {name: value for name, value in arguments.items() if name not in place.query}
    # A connection that the database has closed meanwhile is noticed before it is used.
    return _create(url, place, pool_pre_ping=True, connect_args=chosen)


def _create(url: str, place: URL, **options: Any) -> Engine:
    try:
        return sa.create_engine(place, **options)
    except (TypeError, ValueError, sa.exc.ArgumentError) as error:
        words = without_secrets(str(error), url)
        raise refusal(url, f"it has an option that is not understood: {words}") from None


def _check_sqlite(url: str, place: URL) -> None:
    unknown = set(place.query) - _SQLITE_OPTIONS
    if unknown and "uri" not in place.query and place.get_driver_name() == "pysqlite":
        # SQLAlchemy passes over them.
        known = ", ".join(sorted(_SQLITE_OPTIONS))
        raise refusal(url, f"it has an option that is not known; known: table, {known}")
    database = place.database or ""
    if not database or ":memory:" in database or "mode=memory" in url:
        raise refusal(
            url,
            "SQLite in memory has a database of its own for each thread, so that it does not "
            "work with thread tasks; write memory:// or name a file",
        )
    if not database.startswith("file:"):
        try:
            Path(database).absolute().parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RepositoryError(f"cannot open {mask_url(url)}: {error}") from error


def write(engine: Engine, statement: Any) -> int:
    """Execute a statement in a transaction of its own, and return how many rows it changed."""
    # A child that is forked in the midst of a write to SQLite inherits its lock for good.
    guard = no_fork if engine.dialect.name == "sqlite" else nullcontext()
    with guard, engine.begin() as connection:
        return int(connection.execute(statement).rowcount)


def prepare_sqlite(engine: Engine) -> None:
    """Have SQLite lose no record, and have nobody who reads lock out who writes."""

    @sa.event.listens_for(engine, "connect")
    def _(connection: Any, _: object) -> None:
        # A record that was accepted outlives a power cut.
        connection.execute("PRAGMA synchronous=FULL").close()

    # The file keeps this mode. It cannot be changed while others use the file: then one of
    # them has just done so, or the next one will.
    with suppress(sa.exc.OperationalError), engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")


def analyze_sqlite(engine: Engine, table: str) -> None:
    """Have SQLite look at a thousand rows, without which it takes the wrong one of two indices."""
    with suppress(sa.exc.OperationalError), engine.begin() as connection:
        connection.exec_driver_sql("PRAGMA analysis_limit=1000")
        connection.exec_driver_sql(f"ANALYZE {table}")

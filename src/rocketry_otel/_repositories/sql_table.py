"""The table of task events in a SQL database: its definition, creation and check."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from rocketry_otel._errors import RepositoryMismatchError
from rocketry_otel._model.record import TaskEventRecord

from .sql_engine import MYSQL

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sqlalchemy.engine import Connection, Engine
    from sqlalchemy.engine.interfaces import ReflectedColumn

_FIELDS = TaskEventRecord.__fields__

# The columns that identify a run are in an index. PostgreSQL limits its entries to 2,704 bytes,
# and MySQL allows no text without a length.
_INDEXED = {"task_name", "action", "run_id"}
_INDEXED_LENGTH = 255

# MySQL and MariaDB end their TEXT at 64 kB.
_LONG_TEXT = (
    sa.Text().with_variant(mysql.LONGTEXT(), "mysql").with_variant(mysql.LONGTEXT(), "mariadb")
)
_SHORT_TEXT = (
    sa.Text()
    .with_variant(sa.String(_INDEXED_LENGTH), "mysql")
    .with_variant(sa.String(_INDEXED_LENGTH), "mariadb")
)
_SHORT = {*_INDEXED, "execution", "trace_id", "span_id"}

# `Double` is not in SQLAlchemy 1.4: 53 bits are its mantissa.
_TYPES: Mapping[type, Any] = {str: _LONG_TEXT, float: sa.Float(53), int: sa.BigInteger()}
# Before SQLAlchemy 2.1, one of these is a subclass of the other.
_FRACTIONAL = (sa.Numeric, sa.Float)
# MySQL and MariaDB may have another encoding, with few characters. Most of their collations take
# "a" for "A", or for "a " with a space. A new table has the first of these that the server knows.
_ENCODING = "utf8mb4"
_EXACT_COLLATIONS = ("utf8mb4_0900_bin", "utf8mb4_nopad_bin", "utf8mb4_bin")
# How many characters of four bytes their types of text hold.
_MYSQL_LENGTHS = {"TINYTEXT": 63, "TEXT": 16_383, "MEDIUMTEXT": 4_194_303}
_ID_TYPE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def define_table(name: str, id_name: str = "id", **options: Any) -> sa.Table:
    """Return the table of task events, with further options of SQLAlchemy for its creation."""
    columns = [
        sa.Column(
            field.name,
            _SHORT_TEXT if field.name in _SHORT else _TYPES[field.type_],
            nullable=not field.required,
        )
        for field in _FIELDS.values()
    ]
    return sa.Table(
        name,
        sa.MetaData(),
        sa.Column(id_name, _ID_TYPE, primary_key=True, autoincrement=True),
        *columns,
        sa.Index(f"ix_{name}_task", "task_name", "action", "created"),
        # At each check of a condition, Rocketry queries the last record of a task and an action.
        sa.Index(f"ix_{name}_last", "task_name", "action", id_name),
        sa.Index(f"ix_{name}_created", "created"),
        sa.Index(f"ix_{name}_run", "run_id"),
        # No id is used twice, not even that of a deleted record.
        sqlite_autoincrement=True,
        **options,
    )


def open_table(engine: Engine, name: str) -> tuple[sa.Table, dict[str, int]]:
    """Create the table if it is missing, and check it otherwise.

    Returns:
        The table, and the number of characters that each limited column holds.

    Raises:
        RepositoryMismatchError: Records do not fit into the existing table.
        SQLAlchemyError: The database refuses.
    """
    create_missing(engine, define_table(name, **_options(engine)))
    with engine.connect() as connection:
        return _checked(connection, name)


def _options(engine: Engine) -> dict[str, str]:
    """Return the options for the creation of a table in a database."""
    dialect = engine.dialect.name
    if dialect not in MYSQL:
        return {}
    known = sa.text("SELECT collation_name FROM information_schema.collations")
    with engine.connect() as connection:
        found = set(connection.execute(known).scalars())
    collation = next(one for one in _EXACT_COLLATIONS if one in found)
    options = {"engine": "InnoDB", "default_charset": _ENCODING, "collate": collation}
    return {f"{dialect}_{name}": value for name, value in options.items()}


def create_missing(engine: Engine, table: sa.Table) -> None:
    """Create a table if it is missing.

    Raises:
        SQLAlchemyError: The database refuses.
    """
    if sa.inspect(engine).has_table(table.name):
        return
    try:
        with engine.begin() as connection:
            if engine.dialect.name == "sqlite":
                # Python's `sqlite3` begins no transaction for a DDL statement: two processes
                # could each create a part of the table.
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            table.metadata.create_all(connection)
    except sa.exc.DBAPIError:
        # Another process may have created it at the same moment.
        if not sa.inspect(engine).has_table(table.name):
            raise


def _checked(connection: Connection, name: str) -> tuple[sa.Table, dict[str, int]]:
    inspector = sa.inspect(connection)
    columns = {column["name"]: column for column in inspector.get_columns(name)}
    keys = inspector.get_pk_constraint(name)["constrained_columns"]
    differences = list(_differences(connection, name, columns, keys))
    if differences:
        raise RepositoryMismatchError(
            f"table {name} does not fit task events: {'; '.join(differences)}"
        )
    return define_table(name, keys[0]), _limits(connection, columns)


def _limits(connection: Connection, columns: Mapping[str, ReflectedColumn]) -> dict[str, int]:
    if connection.dialect.name == "sqlite":
        # For SQLite, a length is only a comment.
        return {}
    limits = dict.fromkeys(_INDEXED, _INDEXED_LENGTH)
    for name in _FIELDS:
        length = _length(connection, columns[name]["type"])
        if length is not None:
            limits[name] = min(length, limits.get(name, length))
    return limits


def _length(connection: Connection, found: sa.types.TypeEngine[Any]) -> int | None:
    length: int | None = getattr(found, "length", None)
    if length is None and connection.dialect.name in MYSQL:
        return _MYSQL_LENGTHS.get(type(found).__name__)
    return length


def _differences(
    connection: Connection, name: str, columns: Mapping[str, ReflectedColumn], keys: list[str]
) -> Iterator[str]:
    missing = [field for field in _FIELDS if field not in columns]
    if missing:
        yield f"missing columns: {', '.join(missing)}"
    if len(keys) != 1 or not _numbers_itself(connection, name, columns[keys[0]]):
        yield "no primary key of one integer column that counts by itself"
    if connection.dialect.name in MYSQL:
        yield from _other_encodings(connection, name)
    for column in columns.values():
        field = _FIELDS.get(column["name"])
        if field is None:
            if not (column["nullable"] or _has_default(column) or column["name"] in keys):
                yield f"the further column {column['name']} needs a value"
            continue
        if not (field.required or column["nullable"]):
            yield f"column {field.name} must allow NULL"
        if not _is_fit(connection, column["type"], field.type_):
            wanted = {str: "text", float: "double precision", int: "integer"}[field.type_]
            yield f"column {field.name} is {column['type']!r} where {wanted} is needed"


def _other_encodings(connection: Connection, name: str) -> Iterator[str]:
    # A character that is not in the encoding is an error of the database, and so fails the task.
    statement = sa.text(
        "SELECT column_name, character_set_name FROM information_schema.columns"
        " WHERE table_schema = DATABASE() AND table_name = :table"
        " AND character_set_name <> :encoding ORDER BY ordinal_position"
    )
    values = {"table": name, "encoding": _ENCODING}
    for column, encoding in connection.execute(statement, values):
        if column in _FIELDS:
            yield f"column {column} has the encoding {encoding} where {_ENCODING} is needed"


def _has_default(column: ReflectedColumn) -> bool:
    return column["default"] is not None or "computed" in column or "identity" in column


def _numbers_itself(connection: Connection, name: str, column: ReflectedColumn) -> bool:
    if column["name"] in _FIELDS or not isinstance(column["type"], sa.Integer):
        return False
    if connection.dialect.name == "sqlite":
        # In SQLite, only a column of type INTEGER counts by itself; INT does not.
        declared = connection.execute(
            sa.text("SELECT type FROM pragma_table_info(:table) WHERE name = :column"),
            {"table": name, "column": column["name"]},
        ).scalar_one()
        return str(declared).upper() == "INTEGER"
    return _has_default(column) or column.get("autoincrement") is True


def _is_fit(connection: Connection, found: sa.types.TypeEngine[Any], wanted: type) -> bool:
    if wanted is str:
        return isinstance(found, sa.String)
    if wanted is int:
        return isinstance(found, (sa.Integer, *_FRACTIONAL))
    # In single precision, a time since the epoch is minutes off.
    single = isinstance(found, sa.REAL) or (
        isinstance(found, sa.FLOAT) and connection.dialect.name in MYSQL
    )
    return isinstance(found, _FRACTIONAL) and (connection.dialect.name == "sqlite" or not single)

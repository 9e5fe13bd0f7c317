"""Opening a table that any model has left, to be read alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from rocketry_otel import RepositoryError, RepositoryMismatchError
from rocketry_otel._history.open_history import open_history
from tests.support.histories import write_by_red_bird


@contextmanager
def sqlite(path: Path) -> Iterator[sa.engine.Connection]:
    """Change an SQLite file."""
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        yield connection
    engine.dispose()


def table_of(path: Path, query: str = "") -> str:
    """Return the table that is read."""
    with open_history(f"sqlite:///{path}{query}") as repo:
        return str(repo.table)


def test_only_fitting_table_is_read(tmp_path: Path) -> None:
    """Tables with other columns do not count."""
    write_by_red_bird(f"sqlite:///{tmp_path}/t.db")
    with sqlite(tmp_path / "t.db") as connection:
        connection.exec_driver_sql("CREATE TABLE other (id INTEGER PRIMARY KEY, action TEXT)")
    assert table_of(tmp_path / "t.db") == "tasks"


def test_one_of_several_tables_must_be_chosen(tmp_path: Path) -> None:
    """The error names those that fit; the option chooses one of them."""
    path = tmp_path / "t.db"
    columns = "(id INTEGER PRIMARY KEY, task_name TEXT, action TEXT, created FLOAT)"
    with sqlite(path) as connection:
        for name in ("b", "a"):
            connection.exec_driver_sql(f"CREATE TABLE {name} {columns}")
        connection.exec_driver_sql("CREATE TABLE c (id INTEGER PRIMARY KEY, action TEXT)")
    words = "^there is no table rocketry_task_events; .*, to choose by .*: a, b$"
    with pytest.raises(RepositoryMismatchError, match=words):
        table_of(path)
    assert table_of(path, "?table=b") == "b"
    with pytest.raises(RepositoryMismatchError, match=r"missing: task_name, created$"):
        table_of(path, "?table=c")
    with pytest.raises(RepositoryMismatchError, match=r"^there is no table d; .*: a, b$"):
        table_of(path, "?table=d")


def test_database_without_a_fitting_table_is_refused(tmp_path: Path) -> None:
    """The error names the option."""
    with sqlite(tmp_path / "t.db") as connection:
        connection.exec_driver_sql("CREATE TABLE other (id INTEGER PRIMARY KEY)")
    with pytest.raises(RepositoryMismatchError, match=r"by .table=name: none$"):
        table_of(tmp_path / "t.db")


def test_table_without_a_primary_key_is_refused(tmp_path: Path) -> None:
    """The error names the table."""
    columns = "(task_name TEXT, action TEXT, created FLOAT)"
    with sqlite(tmp_path / "t.db") as connection:
        connection.exec_driver_sql(f"CREATE TABLE old {columns}")
    with pytest.raises(RepositoryMismatchError, match=r"^the table old has no primary key"):
        table_of(tmp_path / "t.db")


def test_file_that_is_no_database_is_an_error(tmp_path: Path) -> None:
    """The error names it."""
    (tmp_path / "t.db").write_text("task_name,action,created\n" * 100, encoding="utf-8")
    with pytest.raises(RepositoryError, match=r"t.db: file is not a database$"):
        table_of(tmp_path / "t.db")


def test_sqlite_uri_is_understood(tmp_path: Path) -> None:
    """SQLite's own spelling of a file works."""
    write_by_red_bird(f"sqlite:///{tmp_path}/a b.db")
    with open_history(f"sqlite:///file:{tmp_path}/a%20b.db?mode=ro&uri=true") as repo:
        assert len(repo.filter_by().all()) == 1


def test_unreachable_server_is_an_error() -> None:
    """Neither our text nor the driver's shows the password."""
    url = "postgresql://u:secret@127.0.0.1:1/d"
    with pytest.raises(RepositoryError) as caught, open_history(url):
        pass
    assert "refused" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_unknown_driver_option_is_an_error() -> None:
    """The error names it."""
    url = "postgresql://u:secret@127.0.0.1:1/d?odd=1"
    words = r"^cannot open postgresql://u:\*\*\*@127.0.0.1:1/d\?odd=1: .*option"
    with pytest.raises(RepositoryError, match=words), open_history(url):
        pass


def test_no_transaction_stays_open(make_url: Any, postgresql: Any) -> None:
    """A lookup in PostgreSQL delays no vacuum, even if it was read in part."""
    url = make_url("postgresql")
    for number in range(3):
        write_by_red_bird(url, created=number)
    with open_history(url) as repo:
        next(iter(repo.filter_by(task_name="etl")))
        sessions = postgresql.psql(
            "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
        )
        assert sessions == "0"

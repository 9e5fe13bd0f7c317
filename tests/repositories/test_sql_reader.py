"""Reading rows by the page, through one connection that is kept."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from redbird.oper import greater_than
from sqlalchemy.sql.elements import ColumnElement

from rocketry_otel._repositories.open_repository import open_repository
from rocketry_otel._repositories.sql_reader import Equal

from .records import record

if TYPE_CHECKING:
    from collections.abc import Callable

    from rocketry_otel._repositories.sql_repo import TaskEventSQLRepo


@pytest.fixture(params=["sqlite", "postgresql"])
def repo(request: pytest.FixtureRequest, make_url: Callable[[str], str]) -> TaskEventSQLRepo:
    """The repository of a database, with three records of two tasks."""
    repo: Any = open_repository(make_url(request.param))
    for number, name in enumerate(("etl", "report", "etl")):
        repo.add(record(name, created=number))
    return repo


def checkouts(repo: TaskEventSQLRepo) -> list[None]:
    """Return a list that grows with each connection that is taken from the pool."""
    taken: list[None] = []
    sa.event.listen(repo.engine, "checkout", lambda *_: taken.append(None))
    return taken


def test_readings_share_one_connection(repo: TaskEventSQLRepo) -> None:
    """All, the first, the last, the number and queries of all kinds take no other one."""
    taken = checkouts(repo)
    assert [one.created for one in repo.filter_by(task_name="etl").all()] == [0.0, 2.0]
    assert repo.filter_by(task_name="etl").first() == record("etl", created=0)
    assert repo.filter_by(created=greater_than(0.5)).last() == record("etl", created=2)
    assert repo.filter_by(task_name="etl").count() == 2
    assert len(taken) == 1


def test_reading_while_the_connection_is_in_use_takes_another(repo: TaskEventSQLRepo) -> None:
    """A thread does not wait for the reading of another thread."""
    reader = repo._reader
    with reader._connection(), ThreadPoolExecutor(1) as thread:
        found = thread.submit(repo.filter_by(task_name="report").all).result(timeout=60)
    assert found == [record("report", created=1)]


def test_connection_of_a_failed_reading_is_used_no_more(repo: TaskEventSQLRepo) -> None:
    """The next reading opens another one."""
    reader = repo._reader
    kept = reader._kept.usable()
    with pytest.raises(sa.exc.DBAPIError), reader._connection() as connection:
        connection.exec_driver_sql("SELECT * FROM missing_table")
    assert kept.closed
    assert repo.filter_by(task_name="report").all() == [record("report", created=1)]


def test_statement_is_made_once_for_the_same_columns(repo: TaskEventSQLRepo) -> None:
    """The values of a query are parameters; a query of other columns has its own statement."""
    for name in ("etl", "report", "nothing"):
        repo.filter_by(task_name=name, action="run").last()
    assert len(repo._reader._statements) == 1
    repo.filter_by(task_name="etl").last()
    assert len(repo._reader._statements) == 2


def test_statements_in_memory_are_bounded(
    repo: TaskEventSQLRepo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A query of further columns works, and its statement is not kept."""
    monkeypatch.setattr("rocketry_otel._repositories.sql_reader._MOST_STATEMENTS", 0)
    assert repo.filter_by(task_name="report").all() == [record("report", created=1)]
    assert repo._reader._statements == {}


def test_query_of_plain_values_has_no_expression(repo: TaskEventSQLRepo) -> None:
    """Other values, such as an operation or None, make an expression of SQLAlchemy."""
    assert repo.format_query({"task_name": "etl", "created": 1.5}) == Equal(
        {"task_name": "etl", "created": 1.5}
    )
    for value in (None, greater_than(1)):
        assert isinstance(repo.format_query({"created": value}), ColumnElement)


def test_query_of_plain_values_goes_on_behind_its_first_page(
    repo: TaskEventSQLRepo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each page has a statement of its own, and each record comes once."""
    monkeypatch.setattr("rocketry_otel._repositories.sql_repo._PAGE", 2)
    for number in range(3, 7):
        repo.add(record("etl", created=number))
    # A page that is read again would give records without end.
    found = islice(repo._records(repo.format_query({"task_name": "etl"}), first=2), 20)
    assert [one.created for one in found] == [0.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert len(repo._reader._statements) == 2

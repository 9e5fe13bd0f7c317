"""The records of a table in a SQL database."""

from __future__ import annotations

import threading

import pytest
import sqlalchemy as sa
import sqlalchemy.orm
from redbird.repos import SQLRepo

from rocketry_otel import TaskEventRecord
from rocketry_otel._history.streams.base import Window
from rocketry_otel._history.streams.stream_of import stream_of
from tests.repositories.records import record
from tests.support.repositories import Make
from tests.support.stored import records

SQLITE = ["sqlite", "plain-sqlite", "plain-sqlite-text"]


def execute(repo, statement: str) -> None:
    """Execute a statement that no repository would."""
    table = repo.model_orm.__table__.name
    with repo.session.get_bind().begin() as connection:
        connection.execute(sa.text(statement.format(table=table)))


def names(repo) -> str:
    """Return the names of the tasks that are read."""
    return "".join(fields["task_name"] for fields in records(repo))


def fill(repo) -> None:
    """Add ten records."""
    for number, name in enumerate("abcdefghij"):
        repo.add(record(name, created=float(number), message=f"m{number}"))


@pytest.mark.parametrize("kind", SQLITE)
@pytest.mark.parametrize(
    "bad",
    [
        "SET process = 'none'",
        "SET process = 1e400",
        # The driver refuses this one, and with it all that is read together with it.
        "SET trace_id = CAST(x'ff' AS TEXT)",
    ],
)
def test_unreadable_row_is_skipped(
    make_repo: Make, kind: str, bad: str, caplog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole page of them is skipped, the rows behind it are read, one warning is logged."""
    monkeypatch.setattr("rocketry_otel._history.streams.sql_stream._PAGE", 2)
    repo = make_repo(kind)
    fill(repo)
    execute(repo, f"UPDATE {{table}} {bad} WHERE task_name IN ('b', 'e', 'f')")
    assert names(repo) == names(repo) == "acdghij"
    (message,) = [one.getMessage() for one in caplog.records]
    assert message.startswith(f"records of {type(repo).__name__} ")


def test_row_removed_meanwhile_is_skipped(
    make_repo: Make, caplog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its page is read again because of another row."""
    repo = make_repo("plain-sqlite")
    fill(repo)
    execute(repo, "UPDATE {table} SET trace_id = CAST(x'ff' AS TEXT) WHERE task_name = 'j'")
    stream = stream_of(repo)
    values = stream._values

    def remove_first(*arguments):
        execute(repo, "DELETE FROM {table} WHERE task_name = 'c'")
        return values(*arguments)

    monkeypatch.setattr(stream, "_values", remove_first)
    assert "".join(fields["task_name"] for fields in stream.read(Window())) == "abdefghi"


def test_unreachable_database_is_an_error(make_repo: Make) -> None:
    """Its records do not count as unreadable."""
    repo = make_repo("plain-sqlite")
    fill(repo)
    reading = records(repo)
    next(reading)
    execute(repo, "DROP TABLE {table}")
    with pytest.raises(sa.exc.OperationalError, match="no such table"):
        list(reading)


@pytest.mark.parametrize("kind", SQLITE)
def test_missing_kind_has_no_newest(make_repo: Make, kind: str) -> None:
    """Without unwanted records nothing is removed."""
    repo = make_repo(kind)
    stream = stream_of(repo)
    assert stream.earliest_of_newest(3) == 0
    assert stream.remove(Window(), lambda _: True) == 0
    fill(repo)
    assert stream.newest([("a", "run"), ("a", "fail")]) == {("a", "run"): {"created": 0.0}}
    assert stream.earliest_of_newest(3) == 7_000_000_000
    assert stream.remove(Window(), lambda _: False) == 0
    assert names(repo) == "abcdefghij"


@pytest.mark.parametrize("kind", [*SQLITE, "postgresql", "plain-postgresql"])
def test_paused_reader_holds_no_connection(make_repo: Make, kind: str) -> None:
    """So it holds neither a transaction nor a lock."""
    repo = make_repo(kind)
    fill(repo)
    pool = repo.session.get_bind().pool
    repo.session.remove()
    # A repository of ours keeps one to add records. (With SQLAlchemy 1.4 the pool of SQLite's files
    # does not count them.)
    before = getattr(pool, "checkedout", int)()
    assert before <= int(not kind.startswith("plain"))
    reading = records(repo)
    next(reading)
    assert getattr(pool, "checkedout", int)() == before
    execute(repo, "DELETE FROM {table}")


def test_session_of_the_user_is_not_used(make_repo: Make) -> None:
    """It belongs to the thread that adds: a reading has its own connection."""
    engine = make_repo("plain-sqlite").session.get_bind()
    session = sa.orm.Session(engine)
    repo = SQLRepo(session=session, table="tasks", model=TaskEventRecord, id_field="id")
    fill(repo)
    found = []
    thread = threading.Thread(target=lambda: found.append(names(repo)))
    thread.start()
    thread.join()
    assert found == ["abcdefghij"]
    session.close()


@pytest.mark.parametrize("kind", ["plain-sqlite", "plain-sqlite-text", "sqlite"])
def test_composite_key_identifies_a_row(make_repo: Make, kind: str, monkeypatch) -> None:
    """Rows are found and removed by all columns of their key."""
    monkeypatch.setattr("rocketry_otel._history.streams.sql_stream._PAGE", 3)
    repo = make_repo(kind)
    fill(repo)
    stream = stream_of(repo)
    columns = repo.model_orm.__table__.c
    stream._primary = [columns.created, columns.message]
    stream._order = [columns.created, columns.message]
    assert "".join(fields["task_name"] for fields in stream.read(Window())) == "abcdefghij"
    removed = stream.remove(Window(2_000_000_000), lambda fields: fields["task_name"] in "adgj")
    assert removed == 3
    assert names(repo) == "abcefhi"

"""The repository in a SQL database: SQLite, PostgreSQL, and the statements for MySQL."""

from __future__ import annotations

import math
import sqlite3
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
import sqlalchemy.orm
from redbird.exc import KeyFoundError
from redbird.repos import SQLRepo
from sqlalchemy.dialects import mysql
from sqlalchemy.schema import CreateIndex, CreateTable

from rocketry_otel._errors import RepositoryError, RepositoryMismatchError, RepositoryURLError
from rocketry_otel._model.record import TaskEventRecord
from rocketry_otel._repositories.open_repository import open_repository
from rocketry_otel._repositories.sql_engine import make_engine
from rocketry_otel._repositories.sql_table import define_table
from tests.support.processes import run_python

from .records import FULL, record

FIELDS = list(TaskEventRecord.__fields__)
COLUMNS = {
    name: {"str": "TEXT", "float": "DOUBLE PRECISION", "int": "BIGINT"}[field.type_.__name__]
    + (" NOT NULL" if field.required else "")
    for name, field in TaskEventRecord.__fields__.items()
}
SQLITE_ID = {"id": "INTEGER PRIMARY KEY"}


@pytest.fixture
def path(tmp_path):
    """Where the SQLite file is, or will be."""
    return tmp_path / "events.db"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, make_url):
    """The URL of an empty database."""
    return make_url(request.param)


@pytest.fixture
def repo(url):
    """The repository of an empty database."""
    return open_repository(url)


def engine_of(url):
    """Return an engine of the test's own, with whichever driver there is."""
    return make_engine(url, sa.engine.make_url(url))


@pytest.fixture
def execute(url):
    """Executes statements in the database, on an engine of its own."""
    if url.startswith("sqlite"):
        open_repository(f"{url}?table=unused").engine.dispose()
    engine = engine_of(url)

    def execute(statement):
        with engine.begin() as connection:
            result = connection.exec_driver_sql(statement)
            return [tuple(row) for row in result] if result.returns_rows else None

    yield execute
    engine.dispose()


def create(name, columns):
    """Return the statement that makes a table of columns."""
    quoted = ", ".join(f'"{column}" {kind}' for column, kind in columns.items())
    return f"CREATE TABLE {name} ({quoted})"


def ids(url):
    """Return the column of ids, as a database has it."""
    return SQLITE_ID if url.startswith("sqlite") else {"id": "BIGSERIAL PRIMARY KEY"}


def schema(url, table="rocketry_task_events"):
    """Return all that can be known of a table."""
    engine = engine_of(url)
    inspector = sa.inspect(engine)
    seen = (
        [{**column, "type": repr(column["type"])} for column in inspector.get_columns(table)],
        inspector.get_pk_constraint(table),
        inspector.get_indexes(table),
    )
    engine.dispose()
    return seen


# --- The table -------------------------------------------------------------------------------


def test_sqlite_table_has_columns_and_indices(path):
    """The id counts up, and the columns are in order."""
    repo = open_repository(f"sqlite:///{path}")
    assert isinstance(repo, SQLRepo)
    connection = sqlite3.connect(path)
    rows = connection.execute(
        "SELECT name, type, [notnull], pk FROM pragma_table_info(?)", [repo.table]
    )
    kinds = {str: "TEXT", float: "FLOAT", int: "BIGINT"}
    assert rows.fetchall() == [
        ("id", "INTEGER", 1, 1),
        *(
            (name, kinds[field.type_], int(field.required), 0)
            for name, field in TaskEventRecord.__fields__.items()
        ),
    ]
    (statement,) = connection.execute(
        "SELECT sql FROM sqlite_master WHERE name = 'rocketry_task_events'"
    ).fetchone()
    assert "AUTOINCREMENT" in statement
    assert indices(f"sqlite:///{path}") == INDICES
    connection.close()


INDICES = {
    "ix_rocketry_task_events_task": ["task_name", "action", "created"],
    "ix_rocketry_task_events_last": ["task_name", "action", "id"],
    "ix_rocketry_task_events_created": ["created"],
    "ix_rocketry_task_events_run": ["run_id"],
}


def indices(url):
    """Return the columns of each index."""
    return {index["name"]: index["column_names"] for index in schema(url)[2]}


def test_postgresql_table_has_columns_and_indices(postgresql):
    """The id counts up, and the columns are in order."""
    database = postgresql.new_database()
    open_repository(postgresql.url(database))
    seen = postgresql.psql(
        "SELECT column_name, data_type, is_nullable FROM information_schema.columns "
        "WHERE table_name = 'rocketry_task_events' ORDER BY ordinal_position",
        database,
    )
    kinds = {str: "text", float: "double precision", int: "bigint"}
    assert seen.splitlines() == [
        "id|bigint|NO",
        *(
            f"{name}|{kinds[field.type_]}|{'NO' if field.required else 'YES'}"
            for name, field in TaskEventRecord.__fields__.items()
        ),
    ]
    assert indices(postgresql.url(database)) == INDICES


@pytest.mark.parametrize("dialect", [mysql.dialect(), mysql.dialect(is_mariadb=True)])
def test_mysql_table_has_indexable_text(dialect):
    """Columns with an index have short text, the others long text."""
    table = define_table("rocketry_task_events")
    if dialect.is_mariadb:
        dialect.name = "mariadb"
    statement = str(CreateTable(table).compile(dialect=dialect))
    lines = [line.strip().rstrip(",") for line in statement.splitlines()]
    for expected in (
        "id BIGINT NOT NULL AUTO_INCREMENT",
        "task_name VARCHAR(255) NOT NULL",
        "action VARCHAR(255) NOT NULL",
        "created FLOAT(53) NOT NULL",
        "run_id VARCHAR(255)",
        "message LONGTEXT",
        "exc_text LONGTEXT",
        "process BIGINT",
        "execution VARCHAR(255)",
        "trace_id VARCHAR(255)",
    ):
        assert expected in lines
    for index in table.indexes:
        assert "CREATE INDEX" in str(CreateIndex(index).compile(dialect=dialect))


def test_another_table(repo, url, execute):
    """The option names the table, and is not passed to the database."""
    other = open_repository(f"{url}{'&' if '?' in url else '?'}table=mine_2")
    other.add(record())
    assert other.table == "mine_2"
    assert execute("SELECT task_name, id FROM mine_2") == [("fetch", 1)]
    assert repo.filter_by().all() == []


@pytest.mark.parametrize("name", ["a-b", "1a", "x" * 49, "a.b", "a&table=b", "%22"])
def test_bad_table_name_is_refused(path, name):
    """A name that would need quotes is refused."""
    with pytest.raises(RepositoryURLError, match="48 letters, digits and underscores"):
        open_repository(f"sqlite:///{path}?table={name}")
    assert not path.exists()


def test_two_that_start_at_once(url):
    """All of eight that open an empty database at once find one table, and its indices."""
    start = threading.Barrier(8)

    def start_and_add(number):
        start.wait()
        repo = open_repository(url)
        repo.add(record(created=number))
        repo.engine.dispose()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(start_and_add, range(8)))
    repo = open_repository(url)
    assert sorted(one.created for one in repo.filter_by()) == list(range(8))
    assert indices(url) == INDICES


def test_table_created_by_another_process_is_used(postgresql):
    """Both create it at the same moment."""
    url = postgresql.url(postgresql.new_database())
    others = []

    def make_it_first(_connection, _cursor, statement, *_):
        if "CREATE TABLE" in statement and not others:
            others.append(None)
            others[0] = open_repository(url)

    sa.event.listen(sa.engine.Engine, "before_cursor_execute", make_it_first)
    try:
        repo = open_repository(url)
    finally:
        sa.event.remove(sa.engine.Engine, "before_cursor_execute", make_it_first)
    repo.add(record())
    assert others[0].filter_by().all() == [record()]
    assert indices(url) == INDICES


def test_table_with_more_columns_is_used(url, execute):
    """Further columns that need no value stay as they are."""
    columns = ids(url) | COLUMNS | {"seen": "INTEGER", "note": "TEXT NOT NULL DEFAULT 'x'"}
    execute(create("rocketry_task_events", columns))
    before = schema(url)
    repo = open_repository(url)
    repo.add(FULL)
    assert repo.filter_by().all() == [FULL]
    assert repo[1] == FULL
    assert schema(url) == before


def test_table_with_another_order_and_key_is_used(url, execute):
    """The columns may have any order, and the key any name."""
    key = ids(url)["id"]
    columns = dict(reversed(COLUMNS.items())) | {"number": key}
    execute(create("rocketry_task_events", columns))
    repo = open_repository(url)
    for number in range(3):
        repo.add(record(created=-number))
    assert repo.id_field == "number"
    assert [one.created for one in repo.filter_by()] == [0.0, -1.0, -2.0]


def test_identity_column_is_accepted(postgresql):
    """A key by GENERATED in PostgreSQL counts like one by a sequence."""
    database = postgresql.new_database()
    columns = {"id": "INT GENERATED ALWAYS AS IDENTITY PRIMARY KEY"} | COLUMNS
    postgresql.psql(create("rocketry_task_events", columns), database)
    repo = open_repository(postgresql.url(database))
    repo.add(FULL)
    assert repo[1] == FULL


def without(*names):
    """Return the columns but for some."""
    return {name: kind for name, kind in COLUMNS.items() if name not in names}


@pytest.mark.parametrize(
    ("columns", "differs"),
    [
        (without("links", "span_id"), "missing columns: links, span_id"),
        (COLUMNS | {"host": "TEXT NOT NULL"}, "the further column host needs a value"),
        (COLUMNS | {"created": "TEXT NOT NULL"}, "column created is TEXT.. where double precision"),
        (COLUMNS | {"created": "BIGINT NOT NULL"}, "column created is BIGINT.. where double"),
        (COLUMNS | {"message": "INTEGER"}, "column message is INTEGER.. where text is needed"),
        (COLUMNS | {"process": "TEXT"}, "column process is TEXT.. where integer is needed"),
        (COLUMNS | {"runtime": "TIMESTAMP"}, "column runtime is TIMESTAMP.. where double"),
        (COLUMNS | {"run_id": "TEXT NOT NULL"}, "column run_id must allow NULL"),
    ],
)
def test_unfitting_table_is_refused(url, execute, columns, differs):
    """The error has the differences, and the table is not changed."""
    execute(create("rocketry_task_events", ids(url) | columns))
    before = schema(url)
    with pytest.raises(RepositoryMismatchError, match=f"rocketry_task_events .*{differs}"):
        open_repository(url)
    assert schema(url) == before


@pytest.mark.parametrize(
    "columns",
    [
        COLUMNS,
        {"id": "BIGINT PRIMARY KEY"} | COLUMNS,
        {"id": "INT PRIMARY KEY"} | COLUMNS,
        {"id": "TEXT PRIMARY KEY"} | COLUMNS,
        COLUMNS | {"process": "INTEGER PRIMARY KEY"},
        {"id": "INTEGER"} | COLUMNS | {"trace_id": 'TEXT, PRIMARY KEY ("id", "trace_id")'},
    ],
)
def test_table_without_a_counting_key_is_refused(url, execute, columns):
    """Its records would have no order."""
    if "PRIMARY KEY (" in columns.get("trace_id", ""):
        columns = without("trace_id", "span_id") | {"span_id": "TEXT"} | columns
        key = columns.pop("trace_id")
        columns["trace_id"] = key
    execute(create("rocketry_task_events", columns))
    with pytest.raises(RepositoryMismatchError, match="no primary key of one integer column"):
        open_repository(url)


def test_single_precision_is_refused(postgresql):
    """A time in single precision would be minutes off."""
    database = postgresql.new_database()
    columns = ids("postgresql") | COLUMNS | {"start": "REAL"}
    postgresql.psql(create("rocketry_task_events", columns), database)
    with pytest.raises(RepositoryMismatchError, match=r"column start is REAL.. where double"):
        open_repository(postgresql.url(database))


def test_all_differences_are_listed(path):
    """One error lists all differences."""
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE rocketry_task_events (created TEXT)")
    connection.close()
    with pytest.raises(RepositoryMismatchError) as caught:
        open_repository(f"sqlite:///{path}")
    missing = ", ".join(name for name in FIELDS if name != "created")
    assert str(caught.value) == (
        f"table rocketry_task_events does not fit task events: missing columns: {missing}; "
        "no primary key of one integer column that counts by itself; "
        "column created is TEXT() where double precision is needed"
    )


def test_view_is_refused(url, execute):
    """A view has no key, so that it is no table of task events."""
    open_repository(f"{url}{'&' if '?' in url else '?'}table=other")
    execute("CREATE VIEW rocketry_task_events AS SELECT * FROM other")
    with pytest.raises(RepositoryError):
        open_repository(url)


# --- Reading and writing ---------------------------------------------------------------------


def test_ids(repo):
    """Red Bird's ways to name one record take its id."""
    for number in range(3):
        repo.add(record(created=number))
    assert repo[2].created == 1.0
    del repo[2]
    repo[3] = {"message": "third"}
    assert [(one.created, one.message) for one in repo] == [(0.0, None), (2.0, "third")]
    with pytest.raises(KeyError):
        repo[2]
    with pytest.raises(KeyError):
        del repo[2]
    repo.add(record())
    assert repo[4] == record()


def test_many_records_are_read_by_the_page(repo):
    """More records than a page are all there, in order, and none that is added meanwhile."""
    with repo.engine.begin() as connection:
        connection.execute(
            repo.model_orm.__table__.insert(),
            [record(created=number).dict() for number in range(4_500)],
        )
    seen = []
    for one in repo.filter_by(action="run"):
        seen.append(one.created)
        if len(seen) % 1000 == 0:
            repo.add(record(created=-1))
    assert seen == list(range(4_500))
    assert repo.filter_by(action="run").count() == 4_504


def statements(repo, ask):
    """Return the statements that an operation sends."""
    sent = []

    def note(_connection, _cursor, statement, *_):
        sent.append(" ".join(statement.split()))

    sa.event.listen(repo.engine, "before_cursor_execute", note)
    ask()
    sa.event.remove(repo.engine, "before_cursor_execute", note)
    return sent


@pytest.mark.parametrize(
    ("ask", "end"),
    [
        (lambda result: result.all(), ".id LIMIT"),
        (lambda result: result.last(), "DESC LIMIT"),
        (lambda result: result.first(), ".id LIMIT"),
        (lambda result: result.limit(2), ".id LIMIT"),
        (lambda result: result.count(), "WHERE"),
    ],
)
def test_one_statement_answers_each_query(repo, ask, end):
    """It gives the last, the first, some or the number, and no further row."""
    for number in range(5):
        repo.add(record(created=number))
    (sent,) = statements(repo, lambda: ask(repo.filter_by(task_name="fetch")))
    assert end in sent


def test_readers_that_stop_early_hold_no_connection(repo):
    """Forty threads that each read a part of a result hold none; writer and reader keep theirs."""
    for number in range(3):
        repo.add(record(created=number))
    results = []

    def read_one():
        result = iter(repo.filter_by())
        results.append((result, next(result)))

    threads = [threading.Thread(target=read_one) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one for _, one in results] == [record(created=0)] * 40
    assert "Current Checked out connections: 2" in repo.engine.pool.status() or isinstance(
        repo.engine.pool, sa.pool.NullPool
    )


def test_record_against_a_constraint_is_refused(url, execute):
    """The error is Red Bird's, and the next record is stored."""
    execute(create("rocketry_task_events", ids(url) | COLUMNS | {"run_id": "TEXT UNIQUE"}))
    repo = open_repository(url)
    repo.add(record("a", run_id="1"))
    with pytest.raises(KeyFoundError, match="table rocketry_task_events refuses the record: "):
        repo.add(record("b", run_id="1"))
    repo.add(record("c", run_id="1"), if_exists="ignore")
    repo.add(record("d", run_id="2"))
    assert [one.task_name for one in repo.filter_by()] == ["a", "d"]


def test_unknown_field_is_refused(repo):
    """A query or a change of it raises, and the next operation works."""
    repo.add(record())
    with pytest.raises(AttributeError):
        repo.filter_by(colour="red")
    with pytest.raises(sa.exc.SQLAlchemyError):
        repo.filter_by().update(colour="red")
    assert repo.filter_by().all() == [record()]


def test_long_names_in_postgresql(postgresql):
    """Names too long for an index are shortened, stay different, and are found."""
    repo = open_repository(postgresql.url(postgresql.new_database()))
    one, two = "😀" * 5000 + "a", "😀" * 5000 + "b"
    repo.add(record(one, "run", 1.0, run_id=one))
    repo.add(record(two, "run", 2.0, run_id=two))
    assert repo.filter_by(task_name=one, action="run").last().created == 1.0
    assert repo.filter_by(run_id=two).last().created == 2.0
    kept = repo.filter_by().first()
    assert kept.task_name[:238] == "😀" * 238
    assert len(kept.task_name) == 255


def test_columns_of_limited_length(postgresql):
    """Text is cut to the length of a column of an existing table."""
    database = postgresql.new_database()
    columns = ids("postgresql") | COLUMNS
    columns |= {"message": "VARCHAR(10)", "exc_text": "VARCHAR(30)", "run_id": "VARCHAR(300)"}
    postgresql.psql(create("rocketry_task_events", columns), database)
    repo = open_repository(postgresql.url(database))
    repo.add(record(message="m" * 10, exc_text="e" * 30, run_id="r" * 255))
    repo.add(record(message="m" * 11, exc_text="e" * 31, run_id="r" * 256))
    exact, cut = repo.filter_by().all()
    assert exact == record(message="m" * 10, exc_text="e" * 30, run_id="r" * 255)
    assert cut.message.startswith("~")
    assert len(cut.message) == 10
    assert cut.exc_text.startswith("e" * 13 + "~")
    assert cut.run_id.startswith("r" * 238 + "~")
    assert (len(cut.exc_text), len(cut.run_id)) == (30, 255)


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_another_encoding_of_the_database(postgresql, encoding):
    """Text is kept in databases that are not in UTF-8, as far as they can hold it."""
    database = postgresql.new_database(f"ENCODING '{encoding}' TEMPLATE template0")
    repo = open_repository(postgresql.url(database))
    repo.add(record("Grüße"))
    assert repo.filter_by(task_name="Grüße").all() == [record("Grüße")]


def test_record_without_a_time_is_refused(path):
    """SQLite refuses it, and the next record is stored."""
    repo = open_repository(f"sqlite:///{path}")
    with pytest.raises(KeyFoundError, match="NOT NULL"):
        repo.add(record(created=math.nan))
    repo.add(record())
    assert repo.filter_by().all() == [record()]


def test_session_of_red_bird_works(repo):
    """The session and the mapped class work as in a plain repository."""
    repo.add(FULL)
    (kept,) = repo.session.query(repo.model_orm).all()
    assert (kept.id, kept.task_name) == (1, "fetch")
    repo.session.remove()


# --- What goes wrong -------------------------------------------------------------------------


def test_locked_database_works_again(path):
    """A record that meets a locked database raises, and the next one is stored."""
    repo = open_repository(f"sqlite:///{path}?timeout=0.05")
    repo.add(record("before"))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    for change in (
        lambda: repo.add(record("during")),
        lambda: repo.filter_by().update(message="during"),
        lambda: repo.filter_by().delete(),
    ):
        with pytest.raises(sa.exc.OperationalError, match="database is locked"):
            change()
    # In this mode of SQLite, writers do not lock readers out.
    assert repo.filter_by().all() == [record("before")]
    other.execute("COMMIT")
    other.close()
    repo.add(record("after"))
    assert repo.filter_by().all() == [record("before"), record("after")]


def test_reader_does_not_block_a_record(path):
    """Another connection is in the middle of reading."""
    repo = open_repository(f"sqlite:///{path}?timeout=0.05")
    repo.add(record("a"))
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM rocketry_task_events").fetchone() == (1,)
    repo.add(record("b"))
    assert repo.filter_by().count() == 2
    reader.close()


def test_how_sqlite_is_set(path):
    """Every connection of SQLite writes ahead, and waits until the disk has the record."""
    repo = open_repository(f"sqlite:///{path}")
    with repo.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2


def test_opening_a_locked_database(path):
    """A locked file is opened if it has the table; otherwise the error names the lock."""
    url = f"sqlite:///{path}?timeout=0.05"
    open_repository(url).engine.dispose()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    repo = open_repository(url)
    assert repo.filter_by().count() == 0
    with pytest.raises(RepositoryError) as caught:
        open_repository(f"{url}&table=another")
    assert str(caught.value) == f"cannot open {url}&table=another: database is locked"
    other.close()
    repo.add(record())


def test_closed_connection_is_renewed(postgresql):
    """After the server has closed every connection, the next record is stored."""
    database = postgresql.new_database()
    repo = open_repository(postgresql.url(database))
    repo.add(record("a"))
    terminate(postgresql, database)
    repo.add(record("b"))
    terminate(postgresql, database)
    assert repo.filter_by(task_name="b").count() == 1
    assert [one.task_name for one in repo.filter_by()] == ["a", "b"]


def test_connection_closed_during_a_record_raises(postgresql):
    """The next record is stored."""
    database = postgresql.new_database()
    repo = open_repository(postgresql.url(database))

    def cut(*_):
        terminate(postgresql, database)

    sa.event.listen(repo.engine, "before_cursor_execute", cut)
    with pytest.raises(sa.exc.OperationalError, match=CLOSED):
        repo.add(record("a"))
    with pytest.raises(sa.exc.OperationalError, match=CLOSED):
        repo.filter_by().all()
    sa.event.remove(repo.engine, "before_cursor_execute", cut)
    repo.add(record("b"))
    assert repo.filter_by().all() == [record("b")]


# The wording depends on the driver.
CLOSED = "terminating connection|server closed the connection"


def terminate(server, database):
    """Have the server close every connection to a database, and wait until they are gone."""
    server.psql(
        "SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity "  # noqa: S608
        f"WHERE datname = '{database}'"
    )


def test_connection_closed_long_ago_is_renewed(postgresql, monkeypatch):
    """A connection that has rested is tried before its use, also if the server sent nothing."""
    monkeypatch.setattr("rocketry_otel._repositories.sql_connection._LONGEST_REST", 0.0)
    monkeypatch.setattr("rocketry_otel._repositories.sql_connection._has_input", lambda _: False)
    database = postgresql.new_database()
    repo = open_repository(postgresql.url(database))
    repo.add(record("a"))
    repo.add(record("b"))
    terminate(postgresql, database)
    repo.add(record("c"))
    assert [one.task_name for one in repo.filter_by()] == ["a", "b", "c"]


def test_record_whose_answer_is_lost_is_not_sent_twice(postgresql):
    """The server has committed it when the connection breaks: the error is raised."""
    database = postgresql.new_database()
    repo = open_repository(postgresql.url(database))

    def cut(*_):
        terminate(postgresql, database)
        raise ConnectionError("the answer is lost")

    sa.event.listen(repo.engine, "after_cursor_execute", cut)
    with pytest.raises(ConnectionError, match="the answer is lost"):
        repo.add(record("a"))
    sa.event.remove(repo.engine, "after_cursor_execute", cut)
    repo.add(record("b"))
    assert [one.task_name for one in repo.filter_by()] == ["a", "b"]


def test_one_connection_adds_all_records(repo):
    """Eight threads add records through one connection, and none is lost."""
    made = []
    sa.event.listen(repo.engine, "connect", lambda *_: made.append(None))
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: repo.add(record(created=number)), range(200)))
    assert len(made) <= 1
    assert sorted(one.created for one in repo.filter_by()) == list(range(200))


def test_disposed_engine_keeps_no_connection(repo):
    """The kept connection is closed as well, and the next record opens another one."""
    repo.add(record("a"))
    kept = repo._writer._kept._connection
    repo.engine.dispose()
    assert kept.closed
    repo.add(record("b"))
    assert [one.task_name for one in repo.filter_by()] == ["a", "b"]


def test_change_goes_to_the_file_that_took_the_place(path, tmp_path):
    """An idle connection of the pool to the file before is used no more."""
    repo = open_repository(f"sqlite:///{path}")
    repo.add(record("old"))
    repo.filter_by(task_name="nothing").delete()
    backup = open_repository(f"sqlite:///{tmp_path}/backup.db")
    for name in ("restored", "unwanted"):
        backup.add(record(name))
    backup.engine.dispose()
    for name in ("", "-wal", "-shm"):
        path.with_name(f"{path.name}{name}").rename(tmp_path / f"rotated{name}")
    (tmp_path / "backup.db").rename(path)
    assert repo.filter_by(task_name="unwanted").delete() == 1
    assert [one.task_name for one in repo.filter_by()] == ["restored"]
    repo.engine.dispose()


@pytest.mark.parametrize("is_empty", [True, False])
def test_replaced_sqlite_file_is_noticed(path, tmp_path, is_empty):
    """Records go to the file that is at the path: a new one, or one restored from a backup."""
    repo = open_repository(f"sqlite:///{path}")
    repo.add(record("old"))
    backup = open_repository(f"sqlite:///{tmp_path}/backup.db")
    backup.add(record("restored"))
    backup.engine.dispose()
    for name in ("", "-wal", "-shm"):
        path.with_name(f"{path.name}{name}").rename(tmp_path / f"rotated{name}")
    if not is_empty:
        (tmp_path / "backup.db").rename(path)
        # A reader notices it, too.
        assert [one.task_name for one in repo.filter_by()] == ["restored"]
    repo.add(record("new"))
    expected = ["new"] if is_empty else ["restored", "new"]
    assert [one.task_name for one in repo.filter_by()] == expected
    with repo.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    repo.engine.dispose()
    rotated = sqlite3.connect(tmp_path / "rotated")
    rows = rotated.execute("SELECT task_name FROM rocketry_task_events").fetchall()
    assert rows == [("old",)]
    rotated.close()


FORK = """
    import os, sys
    from rocketry_otel._model.record import TaskEventRecord
    from rocketry_otel._repositories.open_repository import open_repository

    def connection_of(repo):
        if repo.engine.dialect.name == "sqlite":
            # SQLite does not show connections: it is enough that both can write.
            return os.getpid()
        with repo.engine.connect() as connection:
            return connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()

    repo = open_repository(sys.argv[1])
    repo.add(TaskEventRecord(task_name="parent", action="run", created=1))
    # A session of the user's that is in the middle of something, too.
    repo.session.query(repo.model_orm).first()
    before = connection_of(repo)
    child = os.fork()
    if child == 0:
        try:
            repo.session.query(repo.model_orm).first()
            assert repo.filter_by().count() == 1
            repo.add(TaskEventRecord(task_name="child", action="run", created=2))
            assert connection_of(repo) != before
            status = 0
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            status = 1
        # As multiprocessing ends a child.
        os._exit(status) if sys.argv[2] == "_exit" else sys.exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert connection_of(repo) == before
    repo.session.commit()
    repo.add(TaskEventRecord(task_name="parent again", action="run", created=3))
    print([one.task_name for one in repo.filter_by()])
"""


@pytest.mark.parametrize("ending", ["_exit", "exit"])
def test_forked_child_has_a_connection_of_its_own(url, ending):
    """A forked child reads and writes, and the parent's connection is as it was."""
    done = run_python(FORK, url, ending)
    assert (done.stdout, done.stderr) == ("['parent', 'child', 'parent again']\n", "")


OUTLIVING = """
    import os, sys
    from rocketry_otel import TaskEventRecord, open_repository

    def add(name):
        repo.add(TaskEventRecord(task_name=name, action="run", created=1))

    repo = open_repository(sys.argv[1])
    add("parent")
    from_child, to_parent = os.pipe()
    from_parent, to_child = os.pipe()
    child = os.fork()
    if child == 0:
        add("child")
        os.write(to_parent, b"x")
        os.read(from_parent, 1)
        add("child again")
        os._exit(0)
    os.read(from_child, 1)
    repo.engine.dispose()
    os.write(to_child, b"x")
    assert os.waitpid(child, 0)[1] == 0
    print(sorted(one.task_name for one in open_repository(sys.argv[1]).filter_by()))
"""


def test_child_outlives_the_connections_of_its_parent(url):
    """What a forked child adds after its parent has closed the database is not lost."""
    done = run_python(OUTLIVING, url)
    assert (done.stdout, done.stderr) == ("['child', 'child again', 'parent']\n", "")


def test_connection_in_use_is_not_waited_for(repo):
    """A fork, or the disposal of the engine, while another thread adds a record."""
    repo.add(record("a"))
    kept = repo._writer._kept._connection
    with repo._writer._kept.lock:
        other = threading.Thread(target=repo.engine.dispose)
        other.start()
        other.join()
    assert not kept.closed
    repo.add(record("b"))
    assert [one.task_name for one in repo.filter_by()] == ["a", "b"]


def test_child_works_at_once(repo):
    """Starting afresh, the repository leaves its connections alone and makes new ones."""
    repo.add(record())
    pool, session, kept = repo.engine.pool, repo.session, repo._writer._kept._connection
    repo._start_afresh()
    assert repo.engine.pool is not pool
    repo.add(record("child"))
    assert repo._writer._kept._connection is not kept
    assert not kept.closed
    assert repo.session is not session
    assert repo.filter_by().all() == [record(), record("child")]
    kept.close()
    pool.dispose()


def test_freed_repository_closes_its_connections(postgresql):
    """When the repository is freed, the server has no connection of it, not even the kept one."""
    database = postgresql.new_database()
    repo = open_repository(postgresql.url(database))
    repo.add(record())
    count = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}'"  # noqa: S608
    assert postgresql.psql(count) == "1"
    kept = repo._writer._kept._connection.connection.dbapi_connection
    del repo
    assert kept.closed


# --- Opening ---------------------------------------------------------------------------------


def test_relative_and_absolute_paths(tmp_path, monkeypatch):
    """Three slashes are relative, four are absolute, and directories are made."""
    monkeypatch.chdir(tmp_path)
    relative = open_repository("sqlite:///a/b/relative.db")
    absolute = open_repository(f"sqlite:////{tmp_path}/c/absolute.db")
    named = open_repository(f"sqlite:///file:{tmp_path}/uri.db?uri=true&mode=rwc")
    monkeypatch.chdir("/")
    for repo in (relative, absolute, named):
        repo.add(record())
        assert repo.filter_by().count() == 1
    assert (tmp_path / "a/b/relative.db").exists()
    assert (tmp_path / "c/absolute.db").exists()
    assert (tmp_path / "uri.db").exists()


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite+pysqlite:///:memory:",
        "sqlite:///file::memory:?cache=shared&uri=true",
        "sqlite:///file:x?mode=memory&cache=shared&uri=true",
    ],
)
def test_sqlite_in_memory_is_refused(url):
    """SQLite in memory is refused with the reason and an alternative."""
    with pytest.raises(
        RepositoryURLError, match="does not work with thread tasks; write memory://"
    ):
        open_repository(url)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("mysql+mysqldb://u:p@h/d", "(No module named 'MySQLdb'): pip install mysqlclient"),
        ("mysql+mysqlconnector://u:p@h/d", "(No module named 'mysql'): pip install mysql"),
        ("sqlite+aiosqlite:///x.db", "sqlite+aiosqlite is for asyncio only"),
        ("postgresql+asyncpg://u:p@h/d", "postgresql+asyncpg is for asyncio only"),
        ("postgresql+nothing://u:p@h/d", "the scheme 'postgresql+nothing' is neither memory, "),
        ("postgresql://u:p@q@h/d", "an @ in a user's name or password is written %40"),
        ("postgresql://u:p@h:port/d", "SQLAlchemy does not understand it"),
        ("sqlite:///x.db?colour=red", "known: table, cached_statements, check_same_thread"),
        ("sqlite:///x.db?timeout=long", "could not convert string to float: 'long'"),
        ("sqlite:///file:x.db?uri=true&check_same_thread=x", "String is not true/false: 'x'"),
    ],
)
def test_urls_that_are_refused(tmp_path, monkeypatch, url, why):
    """Options unknown to SQLAlchemy or a driver are refused; a missing driver is named."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RepositoryURLError) as caught:
        open_repository(url)
    assert why in str(caught.value)


def test_missing_postgresql_driver_is_named(monkeypatch):
    """The error names the extra."""
    for name in ("psycopg", "psycopg2"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(RepositoryURLError) as caught:
        open_repository("postgresql://u:s3cret@h/d")
    assert str(caught.value).startswith("postgresql://u:***@h/d: the database's driver is missing")
    assert str(caught.value).endswith("pip install 'rocketry-otel[postgresql]'")


def test_options_of_postgresql(postgresql):
    """Options of the URL reach PostgreSQL, and one that it does not know is refused."""
    url = postgresql.url()
    repo = open_repository(f"{url}&application_name=mine&connect_timeout=3&table=options")
    with repo.engine.connect() as connection:
        assert connection.exec_driver_sql("SHOW application_name").scalar() == "mine"
    with pytest.raises(RepositoryURLError, match='invalid connection option "colour"'):
        open_repository(f"{url}&colour=red")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("tester:", "nobody:"), 'password authentication failed for user "nobody"'),
        (("/postgres?", "/no_such_database?"), 'database "no_such_database" does not exist'),
    ],
)
def test_refusal_of_a_server_is_shown(postgresql, change, words):
    """The error has the server's message, without the password."""
    url = postgresql.url().replace(*change)
    with pytest.raises(RepositoryError) as caught:
        open_repository(url)
    assert type(caught.value) is RepositoryError
    assert words in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert ":***@/" in str(caught.value)


def test_refused_connection_is_an_error():
    """It has the masked URL and the driver's text."""
    with pytest.raises(RepositoryError) as caught:
        open_repository("postgresql://user:s3cret@127.0.0.1:1/d")
    assert str(caught.value).startswith("cannot open postgresql://user:***@127.0.0.1:1/d: ")
    assert "Connection refused" in str(caught.value)


def test_file_that_is_no_database_stays(tmp_path):
    """The error names it."""
    (tmp_path / "x.db").write_text("no database, but long enough to be seen as none" * 30)
    with pytest.raises(RepositoryError, match="file is not a database"):
        open_repository(f"sqlite:///{tmp_path}/x.db")
    with pytest.raises(RepositoryError, match=r"Not a directory|File exists"):
        open_repository(f"sqlite:///{tmp_path}/x.db/y.db")


# --- Red Bird's own --------------------------------------------------------------------------


def test_repository_of_red_bird_shares_the_table(url):
    """A plain repository of Red Bird on the same table reads and writes the same records."""
    ours = open_repository(url)
    ours.add(FULL)
    engine = engine_of(url)
    plain = SQLRepo(
        engine=engine, table="rocketry_task_events", model=TaskEventRecord, id_field="id"
    )
    assert plain.filter_by().all() == [FULL]
    plain.add(record("plain"))
    assert ours.filter_by().all() == [FULL, record("plain")]
    plain.session.remove()
    engine.dispose()


def test_reader_notices_a_replaced_file(path):
    """A backup was put in the place of the file: the next reading is of that one."""
    repo = open_repository(f"sqlite:///{path}")
    repo.add(record("before"))
    assert [item.task_name for item in repo] == ["before"]
    other = path.with_name("other.db")
    backup = open_repository(f"sqlite:///{other}")
    backup.add(record("restored"))
    backup.engine.dispose()
    for name in ("events.db-wal", "events.db-shm"):
        path.with_name(name).unlink()
    other.rename(path)
    assert [item.task_name for item in repo] == ["restored"]
    repo.add(record("after"))
    assert [item.task_name for item in repo] == ["restored", "after"]

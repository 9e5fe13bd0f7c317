"""The repository in MariaDB: encodings, text of every length, and a server that goes away."""

from __future__ import annotations

import gc
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from rocketry_otel import open_repository
from rocketry_otel._errors import RepositoryError, RepositoryMismatchError, RepositoryURLError
from rocketry_otel._model.record import TaskEventRecord

from .records import FULL, record

TABLE = "rocketry_task_events"
GONE = "Lost connection|server has gone away|Can't connect|Connection reset|Broken pipe"
TYPES = {"str": "TEXT", "float": "DOUBLE", "int": "BIGINT"}


@pytest.fixture
def database(mariadb):
    """The name of an empty database whose encoding is Latin-1, which ignores case."""
    return mariadb.new_database("CHARACTER SET latin1")


@pytest.fixture
def url(mariadb, database):
    """The URL of that database."""
    return mariadb.url(database)


def create(mariadb, database, options="", **other):
    """Create a table as a user might have done, with other types for some columns."""
    columns = {
        name: TYPES[field.type_.__name__] + " NOT NULL" * field.required
        for name, field in TaskEventRecord.__fields__.items()
    }
    types = ", ".join(f"`{name}` {kind}" for name, kind in {**columns, **other}.items())
    mariadb.sql(
        f"CREATE TABLE {TABLE} (id INT AUTO_INCREMENT PRIMARY KEY, {types}) {options}", database
    )


def terminate(mariadb, database):
    """Have the server close every connection of the application to a database."""
    ids = mariadb.sql(
        f"SELECT id FROM information_schema.processlist WHERE db = '{database}'"  # noqa: S608
    )
    for number in ids.split():
        mariadb.sql(f"KILL {number}")


def names(repo):
    """Return the names of the tasks of all records."""
    return [one.task_name for one in repo.filter_by()]


def test_table_has_an_encoding_for_every_text(mariadb, database, url):
    """The types, indices, engine, encoding and collation do not depend on the database's own."""
    open_repository(url)
    columns = mariadb.sql(
        "SELECT column_name, column_type, is_nullable, collation_name, extra"  # noqa: S608
        f" FROM information_schema.columns WHERE table_schema = '{database}'"
        " ORDER BY ordinal_position"
    )
    short = {"task_name", "action", "run_id", "execution", "trace_id", "span_id"}
    expected = ["id\tbigint(20)\tNO\tNULL\tauto_increment"]
    for name, field in TaskEventRecord.__fields__.items():
        text = "varchar(255)" if name in short else "longtext"
        kind = {"str": text, "float": "double", "int": "bigint(20)"}[field.type_.__name__]
        collation = "utf8mb4_nopad_bin" if field.type_ is str else "NULL"
        expected.append(f"{name}\t{kind}\t{'NO' if field.required else 'YES'}\t{collation}\t")
    assert columns.splitlines() == expected
    of_table = "SELECT engine FROM information_schema.tables WHERE table_schema = "
    assert mariadb.sql(f"{of_table}'{database}'") == "InnoDB"
    indices = mariadb.sql(
        "SELECT index_name, group_concat(column_name ORDER BY seq_in_index)"  # noqa: S608
        f" FROM information_schema.statistics WHERE table_schema = '{database}'"
        " GROUP BY index_name ORDER BY index_name"
    )
    assert indices.splitlines() == [
        f"ix_{TABLE}_created\tcreated",
        f"ix_{TABLE}_last\ttask_name,action,id",
        f"ix_{TABLE}_run\trun_id",
        f"ix_{TABLE}_task\ttask_name,action,created",
        "PRIMARY\tid",
    ]


@pytest.mark.parametrize("scheme", ["mysql", "mariadb", "mysql+pymysql", "mariadb+pymysql"])
def test_names_differ_by_case_accent_and_space(mariadb, scheme, monkeypatch):
    """Each name is a task of its own; each scheme opens the database."""
    monkeypatch.setitem(sys.modules, "MySQLdb", None)
    repo = open_repository(mariadb.url(mariadb.new_database(), scheme))
    different = ["fetch", "Fetch", "fétch", "fetch ", " fetch", "世界 🌍"]
    for number, name in enumerate(different):
        repo.add(record(name, "run", float(number), run_id=name))
    for number, name in enumerate(different):
        assert repo.filter_by(task_name=name, action="run").last().created == number
        assert repo.filter_by(run_id=name).count() == 1
    assert names(repo) == different


def test_two_that_start_at_once(mariadb, url):
    """All of eight that open an empty database at once find one table."""
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


def test_existing_table_is_used_to_its_lengths(mariadb, database, url):
    """Text is cut to what a column holds, whether it is limited in bytes or in characters."""
    create(mariadb, database, "CHARACTER SET utf8mb4", message="TINYTEXT", run_id="VARCHAR(20)")
    repo = open_repository(url)
    repo.add(FULL)
    assert repo[1].exc_text == FULL.exc_text
    repo.add(record("😀" * 300, message="😀" * 64, exc_text="😀" * 16_384, run_id="r" * 21))
    kept = repo[2]
    lengths = [len(text) for text in (kept.task_name, kept.message, kept.exc_text, kept.run_id)]
    assert lengths == [255, 63, 16_383, 20]
    repo.add(record(message="😀" * 63, exc_text="😀" * 16_383))
    assert repo[3] == record(message="😀" * 63, exc_text="😀" * 16_383)
    assert repo.filter_by(run_id="r" * 21).count() == 1


def test_table_with_another_encoding_is_refused(mariadb, database, url):
    """A text that it cannot hold would fail a task, so the error names each such column."""
    create(mariadb, database, "CHARACTER SET utf8mb4", message="TEXT CHARACTER SET latin1")
    with pytest.raises(RepositoryMismatchError) as caught:
        open_repository(url)
    assert str(caught.value) == (
        f"table {TABLE} does not fit task events: "
        "column message has the encoding latin1 where utf8mb4 is needed"
    )


def test_further_column_may_have_any_encoding(mariadb, database, url):
    """Nothing is written to it."""
    create(mariadb, database, "CHARACTER SET utf8mb4", notes="TEXT CHARACTER SET latin1")
    repo = open_repository(url)
    repo.add(record("a"))
    assert repo.filter_by().all() == [record("a")]


def test_single_precision_is_refused(mariadb, database, url):
    """A time in single precision would be minutes off."""
    create(mariadb, database, "CHARACTER SET utf8mb4", start="FLOAT")
    with pytest.raises(RepositoryMismatchError, match=r"column start is FLOAT.. where double"):
        open_repository(url)


def test_closed_connection_is_renewed(mariadb, database, url):
    """After the server has closed every connection, the next record is stored."""
    repo = open_repository(url)
    repo.add(record("a"))
    terminate(mariadb, database)
    repo.add(record("b"))
    terminate(mariadb, database)
    assert repo.filter_by(task_name="b").count() == 1
    assert names(repo) == ["a", "b"]


def test_connection_closed_during_a_record_raises(mariadb, database, url):
    """The next record is stored, and none is sent twice."""
    repo = open_repository(url)

    def cut(*_):
        terminate(mariadb, database)

    for moment in ("before_cursor_execute", "after_cursor_execute"):
        repo.add(record(moment))
        sa.event.listen(repo.engine, moment, cut)
        if moment.startswith("before"):
            with pytest.raises(sa.exc.OperationalError, match=GONE):
                repo.add(record("cut"))
        elif sa.__version__.startswith("1."):
            # It commits once more, and so meets the error. The record is stored already.
            with pytest.raises(sa.exc.OperationalError, match=GONE):
                repo.add(record("answered"))
        else:
            repo.add(record("answered"))
        sa.event.remove(repo.engine, moment, cut)
    repo.add(record("last"))
    expected = ["before_cursor_execute", "after_cursor_execute", "answered", "last"]
    assert names(repo) == expected


# PyMySQL leaves the socket of a refused connection to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_killed_server_is_noticed_and_found_again(mariadb, url):
    """A record raises while the server is away. All that was committed is there afterwards."""
    repo = open_repository(url)
    repo.add(record("a"))
    mariadb.process.kill()
    for _ in range(2):
        with pytest.raises(sa.exc.OperationalError, match=GONE):
            repo.add(record("lost"))
        with pytest.raises(sa.exc.OperationalError, match=GONE):
            repo.filter_by().all()
    mariadb.process.start()
    repo.add(record("b"))
    assert names(repo) == ["a", "b"]
    # Within this test, for the next one would fail of the warnings.
    gc.collect()


def test_one_connection_adds_all_records(url):
    """Eight threads add records through one connection, and none is lost."""
    repo = open_repository(url)
    made = []
    sa.event.listen(repo.engine, "connect", lambda *_: made.append(None))
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: repo.add(record(created=number)), range(200)))
    assert len(made) <= 1
    assert sorted(one.created for one in repo.filter_by()) == list(range(200))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (("tester:", "nobody:"), RepositoryError, "Access denied for user 'nobody'@'localhost'"),
        (("/test_", "/none_"), RepositoryError, "Unknown database 'none_"),
        (("?unix", "?colour=red&unix"), RepositoryURLError, "the database's driver refuses it: "),
    ],
)
def test_refusal_of_the_server_is_shown(url, change, error, words):
    """The error has the message of the server or the driver, without the password."""
    with pytest.raises(error) as caught:
        open_repository(url.replace(*change))
    assert type(caught.value) is error
    assert words in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("url", ["mysql://u:p@h", "mariadb+pymysql://u:p@h/"])
def test_url_without_a_database_is_refused(url):
    """The error shows where the database is written."""
    with pytest.raises(RepositoryURLError) as caught:
        open_repository(url)
    assert str(caught.value).endswith(
        ": it names no database; write scheme://user:password@host/database"
    )


@pytest.mark.parametrize("scheme", ["mysql", "mariadb"])
def test_missing_driver_is_named(monkeypatch, scheme):
    """The error names the extra."""
    for name in ("MySQLdb", "pymysql"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(RepositoryURLError) as caught:
        open_repository(f"{scheme}://u:s3cret@h/d")
    assert str(caught.value).startswith(f"{scheme}://u:***@h/d: the database's driver is missing")
    assert str(caught.value).endswith("pip install 'rocketry-otel[mysql]'")

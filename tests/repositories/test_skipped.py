"""Rows of another program in a repository are skipped and counted, whatever they hold."""

from __future__ import annotations

import bson
import pytest
import sqlalchemy as sa
from pydantic.v1 import ValidationError

from rocketry_otel._history.reconstruct import HistoryReader
from rocketry_otel._history.run_lookup import RunLookup
from rocketry_otel._repositories.mongo_repo import ForkSafeMongoSession
from rocketry_otel._repositories.skipped import SkippedRows, stored_record
from tests.support.foreign_rows import CASES, NAMES, add_foreign

from .records import FULL, record

OLD, NEW = record("etl", message="old"), record("etl", created=3.0, message="new")


@pytest.mark.parametrize(("kind", "row"), CASES, ids=NAMES)
def test_newest_foreign_row_is_skipped_by_each_query(make_repo, caplog, kind: str, row) -> None:
    """Each query gives the records around it; one warning is logged."""
    repo = make_repo(kind)
    repo.add(OLD)
    add_foreign(repo, kind, row)
    of_the_task = repo.filter_by(task_name="etl", action="run")
    assert of_the_task.last() == of_the_task.first() == OLD
    repo.add(NEW)
    add_foreign(repo, kind, {**row, "_id": 1.5} if "_id" in row else row)
    found = repo.filter_by()
    assert found.all() == [OLD, NEW]
    assert (found.first(), found.last()) == (OLD, NEW)
    assert [found.limit(number) for number in (0, 1, 2, 9)] == [[], [OLD], [OLD, NEW], [OLD, NEW]]
    assert len([one for one in caplog.records if one.levelname == "WARNING"]) == 1
    assert "\n" not in caplog.text.removesuffix("\n")


@pytest.mark.parametrize(("kind", "row"), CASES, ids=NAMES)
def test_foreign_row_does_not_end_a_reading_of_history(make_repo, kind: str, row) -> None:
    """All records are given; what is no record is counted, or has no task event."""
    repo = make_repo(kind)
    repo.add(OLD)
    add_foreign(repo, kind, row)
    repo.add(NEW)
    skipped: list[None] = []
    reader = HistoryReader(repo, RunLookup(repo), on_skipped=lambda: skipped.append(None))
    messages = [one.event.message for one in reader if one.event.created in {10**9, 3 * 10**9}]
    assert messages == ["old", "new"]
    assert len(skipped) <= 1


@pytest.mark.parametrize("kind", ["csv", "json", "sqlite", "postgresql", "mongodb"])
def test_error_of_a_new_record_is_raised(make_repo, kind: str) -> None:
    """Only what is read is skipped: a record that is no record is refused as before."""
    repo = make_repo(kind)
    with pytest.raises(ValidationError):
        repo.add({"task_name": "etl", "action": "run", "created": "nonsense"})
    assert repo.filter_by().all() == []


@pytest.mark.parametrize("created", [float("nan"), float("inf"), 1e300, -1e300, 253_402_300_800.0])
def test_time_that_is_no_date_is_no_record(created: float) -> None:
    """Rocketry would fail at it, since it makes a date of it."""
    with pytest.raises(ValueError, match="no date"):
        stored_record({**FULL.dict(), "created": created})


def test_first_skipped_row_is_logged_in_one_line(caplog) -> None:
    """Each is counted; control characters and long texts are not printed."""
    skipped, counted = SkippedRows("the table x"), []
    for why in ("a\nb\x1b[31m" + "y" * 1000, "next"):
        skipped.skip(why, lambda: counted.append(None))
    assert len(counted) == 2
    (line,) = [one.getMessage() for one in caplog.records]
    assert line.startswith("rows of the table x that cannot be read are left out: a b [31myyy")
    assert len(line) < 400


def test_skipped_rows_of_a_sql_table_cross_pages(make_repo, monkeypatch) -> None:
    """A page of nothing but foreign rows does not end a reading."""
    monkeypatch.setattr("rocketry_otel._repositories.sql_repo._PAGE", 2)
    repo = make_repo("sqlite")
    repo.add(OLD)
    for _ in range(5):
        add_foreign(repo, "sqlite", {"created": "'nonsense'"})
    repo.add(NEW)
    found = repo.filter_by()
    assert (found.all(), found.limit(2), found.limit(9)) == ([OLD, NEW], [OLD, NEW], [OLD, NEW])
    repo.filter_by(message="new").delete()
    assert repo.filter_by(task_name="etl", action="run").last() == OLD


def test_row_that_goes_while_it_is_read_alone_is_no_foreign_row(make_repo, caplog) -> None:
    """The driver cannot read another row; each is read alone then, and one has been removed."""
    repo = make_repo("sqlite")
    repo.add(OLD)
    add_foreign(repo, "sqlite", {"run_id": "CAST(X'ff' AS TEXT)"})
    repo.add(NEW)
    selects = []

    @sa.event.listens_for(repo.engine, "before_cursor_execute")
    def _(connection, cursor, statement, *_):
        selects.append(statement)
        if len(selects) == 3:
            cursor.execute("DELETE FROM rocketry_task_events WHERE created = 1.0")

    assert repo.filter_by().all() == [NEW]
    assert len(caplog.records) == 1


def test_database_that_is_away_is_no_foreign_row(make_repo, caplog) -> None:
    """Its error is raised."""
    repo = make_repo("sqlite")
    repo.add(OLD)
    with repo.engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE rocketry_task_events"))
    with pytest.raises(sa.exc.OperationalError, match="no such table"):
        repo.filter_by().last()
    assert not caplog.records


def test_client_of_mongodb_reads_any_text_and_time() -> None:
    """Text that is not UTF-8 is replaced, and a time after the year 9999 is a number."""
    client = ForkSafeMongoSession("mongodb://localhost:1/?connect=false").client
    codec_options = client["x"]["y"].codec_options
    text = bson.encode({"a": "12"}).replace(b"12", b"\xff2")
    assert bson.decode(text, codec_options) == {"a": "\ufffd2"}
    late = bson.encode({"a": bson.DatetimeMS(2**60)})
    assert bson.decode(late, codec_options) == {"a": bson.DatetimeMS(2**60)}
    client.close()

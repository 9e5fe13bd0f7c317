"""The records of a CSV file of Red Bird's: what is no record, and what others do to the file."""

from __future__ import annotations

import logging

import pytest
from redbird.repos import CSVFileRepo
from rocketry.log import MinimalRecord

from rocketry_otel import TaskEventRecord
from rocketry_otel._errors import RepositoryError
from rocketry_otel._history.streams.base import Window
from rocketry_otel._history.streams.stream_of import stream_of
from tests.repositories.records import record
from tests.support.repositories import Make
from tests.support.stored import records


@pytest.fixture
def repo(tmp_path):
    """A repository of the smallest records, with one of them."""
    repo = CSVFileRepo(filename=tmp_path / "x.csv", model=MinimalRecord)
    repo.add(MinimalRecord(task_name="first", action="run", created=1.0))
    return repo


def append(repo, data: bytes) -> None:
    """Append bytes to the file that no repository would."""
    with repo.filename.open("ab") as file:
        file.write(data)


def names(repo) -> list[str]:
    """Return the names of the tasks that are read."""
    return [fields["task_name"] for fields in records(repo)]


@pytest.mark.parametrize(
    "bad",
    [
        b"short,run\r\n",
        b"long,run,1.0,more\r\n",
        b"time,run,soon\r\n",
        b"\xff\xfe\x00,run,\r\n",
        b"a\rb,run,1.0\r\n",
    ],
)
def test_unreadable_row_is_skipped(repo, bad: bytes, caplog) -> None:
    """The rows behind it are read, and one warning is logged for all such rows."""
    append(repo, bad * 3)
    repo.add(MinimalRecord(task_name="last", action="run", created=2.0))
    assert names(repo) == names(repo) == ["first", "last"]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith(
        f"records of CSVFileRepo {repo.filename} that cannot be read are left out: "
    )


def test_odd_text_is_readable(repo, caplog) -> None:
    """Neither a long traceback nor text that is not UTF-8 makes a record unreadable."""
    append(repo, b'"%b\nb",run,2.0\r\n\xff\0,run,3.0\r\n' % (b"a" * 200_000))
    assert names(repo) == ["first", "a" * 200_000 + "\nb", "\\xff\\x00"]
    assert not caplog.records


@pytest.mark.parametrize("rest", [b"cut", b"cut,run,2.0", b'"cut\r\n', b'"cut",run,"2.0\n'])
def test_incomplete_row_is_not_read(repo, rest: bytes, caplog) -> None:
    """It may be being written: the next reading has it."""
    append(repo, rest)
    assert names(repo) == ["first"]
    assert not caplog.records


def test_reading_ends_though_the_file_grows(repo) -> None:
    """A file may grow as fast as it is read."""
    reading = records(repo)
    assert next(reading)["task_name"] == "first"
    repo.add(MinimalRecord(task_name="later", action="run", created=2.0))
    assert list(reading) == []
    assert names(repo) == ["first", "later"]


def test_csv_options_are_obeyed(tmp_path) -> None:
    """Options of Python's csv module hold, also those about quotes."""
    for number, options in enumerate(({"delimiter": ";"}, {"quotechar": "'", "delimiter": "|"})):
        repo = CSVFileRepo(
            filename=tmp_path / f"{number}.csv", model=TaskEventRecord, kwds_csv=options
        )
        for text in ('a "quote', "it's;|\nlines", "end"):
            repo.add(record(message=text))
        assert [fields["message"] for fields in records(repo)] == [
            'a "quote', "it's;|\nlines", "end",
        ]  # fmt: skip


def test_missing_file_is_empty(tmp_path) -> None:
    """Reading does not make it."""
    repo = CSVFileRepo(filename=tmp_path / "x.csv", model=MinimalRecord)
    assert names(repo) == []
    assert not repo.filename.exists()


def test_removing_is_refused(repo) -> None:
    """Red Bird would overwrite the file to which another process appends."""
    with pytest.raises(RepositoryError, match=r"CSVFileRepo .*x\.csv .* open the repository by"):
        stream_of(repo).remove(Window(), lambda _: True)
    assert names(repo) == ["first"]


def test_own_file_may_be_rewritten_during_a_reading(make_repo: Make) -> None:
    """The reader gets the records from the begin of its reading."""
    repo = make_repo("csv")
    for number in range(2_000):
        repo.add(record(created=float(number), message="m" * 100))
    reading = records(repo)
    assert next(reading)["created"] == 0
    repo.filter_by(created=3.0).delete()
    assert [fields["created"] for fields in reading] == list(range(1, 2_000))
    assert len(list(records(repo))) == 1_999

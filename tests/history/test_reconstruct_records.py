"""Reading of a repository's history, whatever its kind."""

from __future__ import annotations

import gc
import math
import threading
import tracemalloc
from typing import Any

import pytest
import sqlalchemy as sa
import sqlalchemy.orm
from redbird.base import BaseRepo
from rocketry.log import (
    LogRecord,
    MinimalRecord,
    MinimalRunRecord,
    RunRecord,
    TaskLogRecord,
    TaskRunRecord,
)

from rocketry_otel import TaskEventRecord
from rocketry_otel._model.event import nanoseconds
from tests.repositories.records import record
from tests.support.repositories import KINDS, PLAIN, Make
from tests.support.stored import records

# They were added in another order than that of their times, and one time is there twice.
TIMES = [5.0, 4.25, 4.25, 3.0, 1_700_000_000.123456, 9.0]

# There no order is kept, and it is that of the times.
BY_TIME = {"plain-json", "plain-mongodb", "plain-sqlite-text"}
MODELS = [MinimalRecord, MinimalRunRecord, LogRecord, RunRecord, TaskLogRecord, TaskRunRecord, dict]


def fill(repo: BaseRepo, times: list[float], first: int = 0) -> None:
    """Add records with these times and their numbers, and names in another order."""
    for number, created in enumerate(times, first):
        name = f"{9_999_999 - number}"
        one = record(created=created, run_id=str(number), message=name)
        repo.add(repo.model(**one.dict()))


def numbers(repo: BaseRepo, *bounds: int) -> list[int]:
    """Return the numbers of the records that are read."""
    return [int(fields["run_id"]) for fields in records(repo, *bounds)]


def in_order(kind: str, *wanted: int) -> list[int]:
    """Return the numbers in the order in which a repository of a kind gives them."""
    by_time = sorted(wanted, key=lambda number: (TIMES[number], -number))
    return by_time if kind in BY_TIME else list(wanted)


@pytest.mark.parametrize("kind", [*KINDS, *PLAIN])
def test_records_have_the_order_of_adding(make_repo: Make, kind: str) -> None:
    """A repository that does not know it has the order of the times."""
    repo = make_repo(kind)
    assert list(records(repo)) == []
    fill(repo, TIMES)
    assert numbers(repo) == in_order(kind, *range(6))
    for fields in records(repo):
        fields.pop("id", None)
        assert set(fields) == set(TaskEventRecord.__fields__)
        assert float(fields["created"]) == TIMES[int(fields["run_id"])]


@pytest.mark.parametrize("kind", [*KINDS, *PLAIN])
def test_bounds_are_exact(make_repo: Make, kind: str) -> None:
    """They are exact to the nanosecond of a stored time, and included."""
    repo = make_repo(kind)
    fill(repo, TIMES)
    now = nanoseconds(TIMES[4])
    assert numbers(repo, now) == [4]
    assert numbers(repo, now + 1) == []
    assert numbers(repo, 4_250_000_000, now) == in_order(kind, 0, 1, 2, 4, 5)
    assert numbers(repo, 4_250_000_001, now - 1) == in_order(kind, 0, 5)
    assert numbers(repo, 0, 4_250_000_000) == in_order(kind, 1, 2, 3)
    assert numbers(repo, 0, 2**63 - 1) == in_order(kind, *range(6))
    assert numbers(repo, 4_000_000_000, 3_999_999_999) == []


@pytest.mark.parametrize("kind", [*KINDS, *PLAIN])
def test_neighbouring_times_are_distinguished(make_repo: Make, kind: str) -> None:
    """No record at a bound is missed, and none beyond it is given."""
    repo = make_repo(kind)
    now = 1_700_000_000.123456
    times = [now]
    for _ in range(3):
        times.append(math.nextafter(times[-1], math.inf))
    fill(repo, times)
    for number, created in enumerate(times):
        assert numbers(repo, nanoseconds(created)) == list(range(number, 4))
        assert numbers(repo, 1, nanoseconds(created)) == list(range(number + 1))


@pytest.mark.parametrize("kind", [*KINDS, *PLAIN])
def test_pages_have_no_gaps(make_repo: Make, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No record is given twice or left out at the end of a page, with any times."""
    repo = make_repo(kind)
    monkeypatch.setattr("rocketry_otel._history.streams.sql_stream._PAGE", 7)
    monkeypatch.setattr("rocketry_otel._history.streams.mongo_stream._PAGE", 7)
    times = [float(number * 37 % 11) for number in range(60)]
    fill(repo, times)
    found = numbers(repo)
    assert sorted(found) == list(range(60))
    if kind not in BY_TIME:
        assert found == list(range(60))
    assert sorted(numbers(repo, 4_000_000_000, 6_000_000_000)) == [
        number for number in range(60) if 4 <= times[number] <= 6
    ]


@pytest.mark.parametrize("kind", [*KINDS, *PLAIN])
def test_reader_withstands_changes_meanwhile(
    make_repo: Make, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A paused reader comes to an end, blocks nobody, and misses nothing that stays."""
    repo = make_repo(kind)
    monkeypatch.setattr("rocketry_otel._history.streams.sql_stream._PAGE", 5)
    monkeypatch.setattr("rocketry_otel._history.streams.mongo_stream._PAGE", 5)
    fill(repo, [float(number) for number in range(1, 41)])
    found = []
    for fields in records(repo):
        found.append(int(fields["run_id"]))
        fill(repo, [100.0 + len(found)], first=1_000 + len(found))
        if len(found) == 12 and kind != "plain-csv":
            # Those that were read, and some that were not.
            for name in range(3, 20):
                repo.filter_by(run_id=str(name)).delete()
    assert len(found) == len(set(found)) < 60
    assert set(range(12)) | set(range(20, 40)) <= set(found)
    assert found == sorted(found)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "sqlite", "json", "plain-csv", "plain-sqlite"])
def test_memory_does_not_grow_with_the_history(make_repo: Make, kind: str) -> None:
    """Only a few records are in memory at once."""
    repo = make_repo(kind)
    fill(repo, [1.0])
    if "sqlite" in kind:
        rows = [record(created=1.0, message="m" * 1_000).dict() for _ in range(10_000)]
        with repo.session.get_bind().begin() as connection:
            connection.execute(sa.insert(repo.model_orm.__table__), rows)
    elif "csv" in kind:
        lines = repo.filename.read_bytes().splitlines(keepends=True)
        repo.filename.write_bytes(lines[0] + lines[1].replace(b"9999999", b"m" * 1_000) * 10_000)
    else:
        (one,) = repo.path.iterdir()
        text = one.read_text().replace("9999999", "m" * 1_000)
        for number in range(2_000):
            (repo.path / f"{number}.json").write_text(text)
    all(records(repo))
    # Whatever other threads of this process do meanwhile is measured with it: once they rest.
    peak = min(peak_of_reading(repo) for _ in range(3))
    # All of them are 2 MB at least, and ten in SQLite and CSV.
    assert peak < (4_000_000 if "sqlite" in kind else 1_000_000)


def peak_of_reading(repo: Any) -> int:
    """Return how many bytes a reading of the whole history takes at most."""
    gc.collect()
    tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        assert sum(1 for _ in records(repo)) >= 2_000
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def values_of(model: Any) -> dict[str, Any]:
    """Return the fields of a record of any model of Rocketry's."""
    fields = model.__fields__ if model is not dict else TaskEventRecord.__fields__
    values = {
        name: {str: "x", int: 5, float: 2.5}.get(field.type_) for name, field in fields.items()
    }
    return {**values, "task_name": "etl", "action": "run", "created": 2.5}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", PLAIN)
def test_models_of_rocketry_are_read(make_repo: Make, kind: str, model: Any) -> None:
    """All fields of a task record are read."""
    repo = make_repo(kind, model, key="task_name")
    values = values_of(model)
    repo.add(model(**values))
    (fields,) = records(repo, 2_500_000_000)
    assert {name: str(fields[name]) for name in values if values[name] is not None} == {
        name: str(value) for name, value in values.items() if value is not None
    }
    assert (fields["task_name"], fields["action"]) == ("etl", "run")
    assert nanoseconds(fields["created"]) == 2_500_000_000


@pytest.mark.parametrize("kind", ["plain-json", "plain-mongodb", "plain-sqlite-text"])
def test_records_with_their_time_as_id(make_repo: Make, kind: str) -> None:
    """The ids then have the order."""
    repo = make_repo(kind, MinimalRunRecord, key="created")
    for created in (3.0, 1.0, 2.0):
        repo.add(repo.model(task_name="etl", action="run", created=created, run_id="5"))
    assert [fields["created"] for fields in records(repo)] == [1.0, 2.0, 3.0]
    assert [fields["created"] for fields in records(repo, 2_000_000_000)] == [2.0, 3.0]


@pytest.mark.parametrize("kind", ["sqlite", "csv", "plain-sqlite", "plain-memory", "json"])
def test_reading_thread_does_not_disturb_the_adding_one(make_repo: Make, kind: str) -> None:
    """Both use the same repository object."""
    repo = make_repo(kind)
    fill(repo, [1.0] * 50)
    counters: list[int] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            counters.append(len(numbers(repo)))

    reader = threading.Thread(target=read)
    reader.start()
    fill(repo, [2.0] * 150, first=50)
    done.set()
    reader.join()
    assert counters == sorted(counters)
    assert counters[0] >= 50
    assert numbers(repo) == list(range(200))

"""Measures the cost of repositories: Red Bird's own and ours handle the same record.

Each kind adds a record, and reads ten by ``.all()`` and one by ``.last()``. The repositories take
turns, so other load of the machine slows all of them. The result is ratios of the thread's CPU
time, because ratios differ less than times between machines. For memory, it is bytes a record.

PostgreSQL is measured if ``BENCHMARK_POSTGRESQL`` has the URL of an empty database.
"""

from __future__ import annotations

import os
import sys
import time
import tracemalloc
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
import sqlalchemy.orm  # Red Bird uses it without importing it
from figures import Figure, Size, run
from redbird.repos import CSVFileRepo, MemoryRepo, SQLRepo

from rocketry_otel import TaskEventRecord, open_repository

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redbird import BaseRepo

ROUNDS = 5
RECORDS = 60
WANTED = {"SQLite, add": "0.3", "PostgreSQL, add": "0.5", "CSV, add": "0.9"}


def record(number: int) -> TaskEventRecord:
    """Return a record; its time differs from all others, since Red Bird's table needs a key."""
    return TaskEventRecord(
        task_name=f"task-{number % 20}",
        action="run",
        created=1e9 + number,
        run_id=f"{number:032x}",
        start=1e9 + number,
        message="Task 'etl' status: 'run'",
        trace_id=f"{number:032x}",
        span_id=f"{number:016x}",
    )


def sql(url: str, ours: str) -> tuple[BaseRepo, BaseRepo]:
    """Return Red Bird's repository in a database, with the table that it makes, and ours."""
    own = open_repository(ours)
    theirs = SQLRepo(
        engine=sa.create_engine(own.engine.url if "postgresql" in url else url),
        table="plain",
        model=TaskEventRecord,
        id_field="run_id",
        if_missing="create",
    )
    return theirs, own


def repositories(directory: Path) -> dict[str, tuple[BaseRepo, BaseRepo]]:
    """Return Red Bird's repository and ours, by kind."""
    found = {
        "SQLite": sql(f"sqlite:///{directory}/plain.db", f"sqlite:///{directory}/ours.db"),
        "CSV": (
            CSVFileRepo(filename=directory / "plain.csv", model=TaskEventRecord),
            open_repository(f"csv://{directory}/ours.csv"),
        ),
    }
    postgresql = os.environ.get("BENCHMARK_POSTGRESQL")
    if postgresql:
        found["PostgreSQL"] = sql(postgresql, postgresql)
    return found


def microseconds(work: Callable[[Any], object], arguments: list[Any]) -> float:
    """Return the thread's CPU time of a call."""
    began = time.thread_time()
    for one in arguments:
        work(one)
    return (time.thread_time() - began) / len(arguments) * 1e6


def measure(size: Size) -> Iterator[Figure]:
    """Measure each question to each kind of repository."""
    rounds, records = size.of((1, 2), (ROUNDS, RECORDS))
    asks: dict[str, Callable[[BaseRepo], Callable[[Any], object]]] = {
        "add": lambda repo: repo.insert,
        ".all() of ten": lambda repo: lambda _: repo.filter_by(task_name="few").all(),
        ".last()": lambda repo: lambda _: repo.filter_by(task_name="few", action="run").last(),
    }
    with TemporaryDirectory() as directory:
        for kind, pair in repositories(Path(directory)).items():
            for repo in pair:
                for number in range(10):
                    repo.insert(record(-1 - number).copy(update={"task_name": "few"}))
            for name, ask in asks.items():
                times: list[tuple[float, ...]] = []
                for round_ in range(rounds):
                    first = round_ * records
                    new = [record(number) for number in range(first, first + records)]
                    # Reading from CSV grows with the file.
                    arguments = new if name == "add" else new[: max(records // 20, 1)]
                    times.append(tuple(microseconds(ask(repo), arguments) for repo in pair))
                plain, ours = ([pair[place] for pair in times] for place in (0, 1))
                what = f"{kind}, {name}"
                yield Figure(what, "µs", plain, ours, WANTED.get(what, "1.0"))
    number = size.of(100, 10_000)
    plain_repo = MemoryRepo(model=TaskEventRecord)
    memories = [memory(repo, number) for repo in (plain_repo, open_repository("memory://"))]
    yield Figure("memory://, a record", "bytes", memories[:1], memories[1:])


def memory(repo: BaseRepo, records: int) -> float:
    """Return the bytes that a record takes in a repository, with the texts of its own."""
    repo.insert(record(0))
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for number in range(1, records + 1):
        repo.insert(record(number))
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return (after - before) / records


if __name__ == "__main__":
    sys.exit(run(__doc__, measure))

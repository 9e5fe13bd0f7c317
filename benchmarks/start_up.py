"""Measures the time from the start of a scheduler to the first body of a task.

Rocketry asks the repository for six records of each task at its start. The application is compared
with the same one on Red Bird's own repository in the same database, in the table that it makes.
PostgreSQL is measured if ``BENCHMARK_POSTGRESQL`` has the URL of an empty database.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
import sqlalchemy.orm  # Red Bird uses it without importing it
from figures import Figure, Size, child, run
from redbird.repos import SQLRepo
from rocketry import Rocketry

import rocketry_otel  # noqa: F401  # Rocketry and Red Bird see the right pydantic
from rocketry_otel import TaskEventRecord, instrument, open_repository

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUNDS = 3
NOWHERE = {f"OTEL_{signal}_EXPORTER": "none" for signal in ("TRACES", "LOGS", "METRICS")}
ROWS_AT_ONCE = 10_000


def repository(kind: str, url: str) -> Any:
    """Return Red Bird's repository, or ours."""
    if kind == "ours":
        return open_repository(url)
    engine = sa.create_engine(url)
    id_field = "created"
    if engine.dialect.name == "postgresql":
        # There Red Bird would make a column of integers for a time that is the key.
        id_field = "id"
        table().create(engine, checkfirst=True)
    return SQLRepo(
        engine=engine, table="plain", model=TaskEventRecord, id_field=id_field, if_missing="create"
    )


def table() -> sa.Table:
    """Return a table as Red Bird makes it, with a key that counts."""
    types = {str: sa.String, float: sa.Float(53), int: sa.Integer}
    return sa.Table(
        "plain",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        *(
            sa.Column(name, types[field.type_])
            for name, field in TaskEventRecord.__fields__.items()
        ),
    )


def engine_of(repo: Any) -> sa.Engine:
    """Return the engine of a repository; Red Bird's does not keep it."""
    found: sa.Engine = repo.engine or repo.session.get_bind().engine
    return found


def fill(kind: str, url: str, tasks: int, rows: int) -> None:
    """Add a run of a day ago, again and again, of each task in turn."""
    repo = repository(kind, url)
    began = time.time() - 86_400 - rows / 1e3
    with engine_of(repo).begin() as connection:
        for first in range(0, rows, ROWS_AT_ONCE):
            connection.execute(
                repo.model_orm.__table__.insert(),
                [
                    {
                        "task_name": f"task-{number // 2 % tasks}",
                        "action": ("run", "success")[number % 2],
                        "created": began + number / 1e3,
                        "run_id": f"{number // 2:032x}",
                        "message": "Task 'etl' status: 'run'",
                    }
                    for number in range(first, min(first + ROWS_AT_ONCE, rows))
                ],
            )
    engine_of(repo).dispose()


def work(kind: str, url: str, tasks: str) -> float:
    """Return the time to the first body, in milliseconds."""
    bodies: list[float] = []
    repo = repository(kind, url)
    plain = {"logger_repo": repo} if kind == "plain" else {}
    app = Rocketry(config={"task_execution": "main"}, **plain)
    if kind == "ours":
        instrument(app, repo=repo)

    def body() -> None:
        bodies.append(time.perf_counter())
        app.session.shut_down()

    for number in range(int(tasks)):
        app.task("every 1 hour", name=f"task-{number}", func=body)
    began = time.perf_counter()
    app.run()
    return (bodies[0] - began) * 1e3


def databases(folder: str) -> dict[str, dict[str, str]]:
    """Return the URL of each kind, by database."""
    found = {"SQLite": {kind: f"sqlite:///{folder}/{kind}.db" for kind in ("plain", "ours")}}
    postgresql = os.environ.get("BENCHMARK_POSTGRESQL")
    if postgresql:
        found["PostgreSQL"] = dict.fromkeys(("plain", "ours"), postgresql)
    return found


def measure(size: Size) -> Iterator[Figure]:
    cases = [(100, 0), (1_000, 0), (100, 100_000), (1_000, 100_000)]
    for tasks, rows in size.of([(3, 10)], cases, [*cases, (100, 1_000_000)]):
        with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            for database, urls in databases(folder).items():
                times: dict[str, list[float]] = {"plain": [], "ours": []}
                for _ in range(size.of(1, ROUNDS)):
                    for kind, url in urls.items():
                        # Each start leaves a run of each task, which is not due again.
                        empty(kind, url)
                        fill(kind, url, tasks, rows)
                        times[kind].append(child(__file__, kind, url, tasks, **NOWHERE))
                name = f"{database}, {tasks:,} tasks, {rows:,} records"
                yield Figure(name, "ms", times["plain"], times["ours"], "0.5")


def empty(kind: str, url: str) -> None:
    """Remove all records and the state of their delivery."""
    repo = repository(kind, url)
    with engine_of(repo).begin() as connection:
        connection.execute(repo.model_orm.__table__.delete())
    engine_of(repo).dispose()
    for state in Path(engine_of(repo).url.database or "").parent.glob("*.delivery/*"):
        state.unlink()


if __name__ == "__main__":
    sys.exit(run(__doc__, measure, work))

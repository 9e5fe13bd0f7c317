"""Measures queries that users and Rocketry make, by the number of records.

Red Bird's own repository has its records in the table that it makes; ours in the same database, in
the table that ``open_repository`` makes. PostgreSQL is measured if ``BENCHMARK_POSTGRESQL`` has the
URL of an empty database.
"""

from __future__ import annotations

import statistics
import sys
import time
from functools import partial
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from figures import Figure, Size, run
from start_up import databases, engine_of, fill, repository

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TASKS = 100
ROUNDS = 5
SECONDS_A_ROUND = 0.2


def questions(repo: Any) -> dict[str, Callable[[], object]]:
    """Return the queries, by name."""
    few = partial(repo.filter_by, task_name="few")
    return {
        "all() of ten": lambda: few().all(),
        "last() of a task": lambda: repo.filter_by(task_name="task-7", action="success").last(),
        "last() that finds nothing": lambda: repo.filter_by(task_name="x", action="crash").last(),
        "count() of a task": lambda: repo.filter_by(task_name="task-7").count(),
    }


def milliseconds(ask: Callable[[], object]) -> float:
    """Return the CPU time of the thread for one question, in milliseconds."""
    times: list[float] = []
    until = time.perf_counter() + SECONDS_A_ROUND
    while not times or time.perf_counter() < until:
        began = time.thread_time()
        ask()
        times.append(time.thread_time() - began)
    return statistics.median(times) * 1e3


def measure(size: Size) -> Iterator[Figure]:
    for rows in size.of([200], [1_000, 100_000], [1_000, 100_000, 1_000_000]):
        with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            for database, urls in databases(folder).items():
                repos = []
                for kind, url in urls.items():
                    fill(kind, url, TASKS, rows)
                    repo = repository(kind, url)
                    add_few(repo)
                    repos.append(repo)
                plain, ours = (questions(repo) for repo in repos)
                for name, ask in plain.items():
                    pairs = [
                        (milliseconds(ask), milliseconds(ours[name]))
                        for _ in range(size.of(1, ROUNDS))
                    ]
                    base, its = ([pair[place] for pair in pairs] for place in (0, 1))
                    yield Figure(f"{database}, {rows:,} records, {name}", "ms", base, its, "1.0")
                for repo in repos:
                    engine_of(repo).dispose()


def add_few(repo: Any) -> None:
    """Add ten records of a task of their own."""
    now = time.time()
    with engine_of(repo).begin() as connection:
        connection.execute(
            repo.model_orm.__table__.insert(),
            [
                {
                    "task_name": "few",
                    "action": "run",
                    "created": now + number,
                    "run_id": f"{number}",
                }
                for number in range(10)
            ],
        )


if __name__ == "__main__":
    sys.exit(run(__doc__, measure))

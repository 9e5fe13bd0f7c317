"""The command that sums up runs by task."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import click

from rocketry_otel._settings import Settings

from .options import json_option, opened, repo_option, since_option, task_option, url_of
from .run_rows import History, RunRow, iso, local
from .screen import Column, Screen, duration

_FOUND_NOTHING = 1


@click.command("stats")
@repo_option
@task_option
@since_option
@json_option
def command(*, repo: str | None, task: str, since: int | None, as_json: bool) -> int:
    """Show runs, failures, durations and the last success of each task.

    Durations are those of the runs that have ended: the median, the 95th percentile and the
    longest. With --json, each line is an object of JSON, with seconds.
    """
    settings = Settings()
    screen = Screen()
    with opened(url_of(repo, settings)) as repository:
        history = History(repository, settings, since)
        found: defaultdict[str, _Task] = defaultdict(_Task)
        for row in history.ended(task):
            found[row.task].add(row)
        for row in history.running(task):
            found[row.task].running += 1
    problem = history.problem_with(task)
    if problem is not None:
        screen.note(problem)
        return _FOUND_NOTHING
    tasks = sorted(found.items())
    if as_json:
        screen.json_lines({"task": name, **one.as_json()} for name, one in tasks)
    elif tasks:
        _write(screen, tasks)
    else:
        screen.note("no runs")
    if history.skipped:
        screen.note(f"{history.skipped} records cannot be read, and are left out")
    return 0


@dataclass
class _Task:
    """The runs of a task, summed up."""

    failures: int = 0
    running: int = 0
    last_success: int | None = None
    seconds: list[float] = field(default_factory=list)

    def add(self, row: RunRow) -> None:
        """Add a run that has ended."""
        self.failures += row.is_failure
        self.seconds.append(row.seconds or 0.0)
        if row.outcome == "success" and row.ended is not None:
            self.last_success = max(row.ended, self.last_success or 0)

    def quantile(self, part: float) -> float | None:
        """Return the duration that this part of the runs did not exceed."""
        if not self.seconds:
            return None
        ordered = sorted(self.seconds)
        return ordered[max(-(-len(ordered) * round(part * 100) // 100) - 1, 0)]

    def as_json(self) -> dict[str, Any]:
        """Return it as an object of JSON."""
        return {
            "runs": len(self.seconds),
            "failures": self.failures,
            "running": self.running,
            "median": self.quantile(0.5),
            "p95": self.quantile(0.95),
            "longest": self.quantile(1),
            "last_success": None if self.last_success is None else iso(self.last_success),
        }


def _write(screen: Screen, tasks: list[tuple[str, _Task]]) -> None:
    columns = [
        Column("task", 8),
        *(Column(name, right=True) for name in ("runs", "failed", "running")),
        *(Column(name, right=True) for name in ("median", "p95", "longest")),
        Column("last success"),
    ]
    rows = [
        [
            name,
            f"{len(one.seconds):,}",
            f"{one.failures:,}",
            f"{one.running:,}",
            *(duration(one.quantile(part)) for part in (0.5, 0.95, 1)),
            "-" if one.last_success is None else f"{local(one.last_success):%Y-%m-%d %H:%M:%S}",
        ]
        for name, one in tasks
    ]
    screen.table(columns, rows)

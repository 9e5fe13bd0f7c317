"""The command that lists runs."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

import click

from rocketry_otel._settings import Settings

from .options import json_option, opened, repo_option, since_option, task_option, url_of
from .run_rows import RUNNING, History, RunRow, local
from .screen import Column, Screen, duration

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_FOUND_NOTHING = 1
# Seconds between two looks for new runs.
_PAUSE = 0.5
_SHORT_ID = 12
_MOST_BARS = 60


@click.command("runs")
@repo_option
@task_option
@click.option("--failed", is_flag=True, help="Only runs that failed, were terminated or crashed.")
@click.option(
    "--action",
    type=click.Choice(["success", "fail", "terminate", "inaction", "crash", RUNNING]),
    help="Only runs with this outcome.",
)
@since_option
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=20,
    show_default=True,
    metavar="N",
    help="Only the newest N of them.",
)
@click.option("--follow", is_flag=True, help="Go on, and show each further run when it ends.")
@json_option
def command(
    *,
    repo: str | None,
    task: str,
    failed: bool,
    action: str | None,
    since: int | None,
    limit: int,
    follow: bool,
    as_json: bool,
) -> int:
    """List the runs in a repository, a line each, the newest last.

    A run without an ending is "running". On a terminal, bars show how many runs there were over
    time. ROCKETRY_OTEL_TRACE_URL adds a link to each run.

    With --json, each line is an object of JSON.
    """
    settings = Settings()
    screen = Screen()

    def is_wanted(row: RunRow) -> bool:
        return (row.is_failure or not failed) and action in {None, row.outcome}

    with opened(url_of(repo, settings)) as repository:
        history = History(repository, settings, since)
        newest: deque[RunRow] = deque(maxlen=limit)
        newest.extend(filter(is_wanted, history.ended(task)))
        newest.extend(row for row in history.running(task) if is_wanted(row) and not follow)
        rows = sorted(newest, key=lambda row: row.began)
        problem = history.problem_with(task)
        if problem is not None and not follow:
            screen.note(problem)
            return _FOUND_NOTHING
        write = _writer(screen, settings.trace_url, as_json=as_json)
        if rows or follow:
            write(rows)
        else:
            screen.note("no runs")
        if history.skipped:
            screen.note(f"{history.skipped} records cannot be read, and are left out")
        if screen.is_terminal and not as_json and len(rows) > 1:
            _write_bars(screen, rows)
        while follow:
            time.sleep(_PAUSE)
            more = [*filter(is_wanted, history.ended(task))]
            if more:
                write(more)
    return 0


def _writer(
    screen: Screen, trace_url: str | None, *, as_json: bool
) -> Callable[[Sequence[RunRow]], None]:
    """Return a function that writes runs."""
    if as_json:
        return lambda rows: screen.json_lines(row.as_json(trace_url) for row in rows)
    columns = [
        Column("began"),
        Column("task", 8),
        Column("outcome"),
        Column("took", right=True),
        Column("trace id"),
        *([Column("link")] if trace_url and screen.is_wide else []),
        Column("error", 5),
    ]

    def cells(row: RunRow) -> list[str]:
        began = local(row.began)
        link = (trace_url or "").replace("{trace_id}", row.trace_id)
        return [
            f"{began:%Y-%m-%d %H:%M:%S}" if screen.is_wide else f"{began:%m-%d %H:%M:%S}",
            row.task,
            row.outcome,
            duration(row.seconds),
            row.trace_id if screen.is_wide else row.trace_id[:_SHORT_ID],
            *([link] if link and screen.is_wide else []),
            row.error or "",
        ]

    return lambda rows: screen.table(columns, [cells(row) for row in rows])


def _write_bars(screen: Screen, rows: Sequence[RunRow]) -> None:
    """Write how many runs began, and how many of them failed, in equal parts of the time."""
    first, last = rows[0].began, rows[-1].began
    number = min(_MOST_BARS, screen.width - 20)
    part = (last - first) // number + 1
    counts, failures = [0] * number, [0] * number
    for row in rows:
        counts[(row.began - first) // part] += 1
        failures[(row.began - first) // part] += row.is_failure
    most = max(counts)
    screen.line()
    for name, found, style in (("runs", counts, "green"), ("failed", failures, "red")):
        screen.line(f"{name:>7} {screen.bars(found, most)}", style)
    times = f"{local(first):%m-%d %H:%M:%S}", f"{local(last):%m-%d %H:%M:%S}"
    screen.line(f"{'':>7} {times[0]}{times[1]:>{max(number - len(times[0]), len(times[1]) + 1)}}")

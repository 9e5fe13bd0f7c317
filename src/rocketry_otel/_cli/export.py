"""The command that writes runs for other programs."""

from __future__ import annotations

import csv
import sys
from typing import TYPE_CHECKING

import click

from rocketry_otel._model.text import one_line
from rocketry_otel._settings import Settings

from .options import opened, repo_option, since_option, task_option, url_of
from .run_rows import History, RunRow
from .screen import Screen

if TYPE_CHECKING:
    from collections.abc import Iterator

_FOUND_NOTHING = 1
_COLUMNS = ("task", "outcome", "began", "ended", "seconds", "run_id", "trace_id", "error")
# A spreadsheet takes a cell for a formula if it begins with one of these.
_FORMULA = ("=", "+", "-", "@", "\t")


@click.command("export")
@repo_option
@click.option(
    "--format",
    "form",
    type=click.Choice(["jsonl", "csv"]),
    default="jsonl",
    show_default=True,
    help="JSON lines, or CSV with a heading.",
)
@task_option
@since_option
def command(*, repo: str | None, form: str, task: str, since: int | None) -> int:
    """Write the runs in a repository to the standard output, each as it ended.

    Runs without an ending come last. Memory does not grow with their number. In CSV, a text that
    a spreadsheet would take for a formula gets an apostrophe before it.
    """
    settings = Settings()
    screen = Screen()
    with opened(url_of(repo, settings)) as repository:
        history = History(repository, settings, since)
        rows = _rows(history, task)
        if form == "jsonl":
            screen.json_lines(row.as_json(settings.trace_url) for row in rows)
        else:
            writer = csv.writer(sys.stdout, lineterminator="\n")
            writer.writerow(_COLUMNS)
            for row in rows:
                fields = row.as_json(None)
                writer.writerow(_cell(fields[name]) for name in _COLUMNS)
            sys.stdout.flush()
    if history.skipped:
        screen.note(f"{history.skipped} records cannot be read, and are left out")
    problem = history.problem_with(task)
    if problem is not None:
        screen.note(problem)
        return _FOUND_NOTHING
    return 0


def _rows(history: History, task: str) -> Iterator[RunRow]:
    yield from history.ended(task)
    yield from history.running(task)


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = one_line(value)
    return f"'{text}" if text.startswith(_FORMULA) else text

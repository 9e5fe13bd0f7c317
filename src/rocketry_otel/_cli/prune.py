"""The command that removes old records."""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import TYPE_CHECKING

import click
from redbird.repos import CSVFileRepo

from rocketry_otel._delivery.state import State
from rocketry_otel._delivery.state_path import repository_path, state_folder
from rocketry_otel._delivery.stored_state import StoredState
from rocketry_otel._errors import RepositoryError
from rocketry_otel._export.responses import shown
from rocketry_otel._history.open_history import open_to_remove
from rocketry_otel._history.retention import count_old, prune
from rocketry_otel._model.durations import EXAMPLES, NANOSECONDS
from rocketry_otel._model.retention import Retention
from rocketry_otel._repositories.csv_repo import TaskEventCSVRepo
from rocketry_otel._settings import Settings

from .options import opened, repo_option, url_of
from .run_rows import iso
from .screen import Screen

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from redbird.base import BaseRepo

_NOT_DONE = 1


def _as_retention(ctx: click.Context, param: click.Parameter, value: str) -> Retention:
    """Return an age or a number of records as a retention."""
    try:
        return Retention.parse(value)
    except ValueError:
        raise click.BadParameter(
            f"{value!r} is neither an age such as {EXAMPLES} nor a number of records, 1 or more",
            ctx,
            param,
        ) from None


@click.command("prune")
@repo_option
@click.option(
    "--keep",
    callback=_as_retention,
    required=True,
    metavar="AGE_OR_COUNT",
    help=f"What is kept: records up to an age ({EXAMPLES}), or so many of the newest.",
)
@click.option("--yes", is_flag=True, help="Remove them without a question.")
def command(*, repo: str | None, keep: Retention, yes: bool) -> int:
    """Remove old records from a repository.

    The number of records is shown first, and nothing is removed without a yes. At any age these
    stay: records that have not been delivered, the newest record of each action of each task, and
    the beginnings of runs that go on. An application may go on writing meanwhile.
    Red Bird may have made the repository, unless it is a CSV file.
    """
    settings = Settings()
    screen = Screen()
    url = url_of(repo, settings)
    with opened(url) as existing:
        _check_kind(existing)
        state = StoredState(state_folder(existing, settings.state_dir))
        bound, why = _bound(state, settings.catch_up)
        if why is not None:
            screen.note(why)
        now = time.time_ns()
        number = count_old(existing, keep, acknowledged=bound, now=now)
        like = repository_path(existing)
    if not number:
        screen.line("No record is old enough to be removed.")
        return 0
    screen.line(f"{number:,} records are to be removed.")
    if not (yes or click.confirm("Remove them?", default=False)):
        screen.note("nothing was removed")
        return _NOT_DONE
    with _lease(state, like) as is_ours:
        if not is_ours:
            screen.note("another process reads the repository at present: try again later")
            return _NOT_DONE
        try:
            with open_to_remove(url) as repository:
                removed = prune(repository, keep, acknowledged=bound, now=now).removed
        except RepositoryError:
            raise
        except Exception as error:
            raise RepositoryError(f"the records cannot be removed: {shown(error)}") from error
    screen.line(f"{removed:,} records were removed.")
    return 0


def _check_kind(repo: BaseRepo) -> None:
    """Check that records can be removed from a repository while an application adds some.

    Raises:
        RepositoryError: It is a CSV file of Red Bird's.
    """
    if isinstance(repo, CSVFileRepo) and not isinstance(repo, TaskEventCSVRepo):
        raise RepositoryError(
            "records cannot be removed from a CSV file that Red Bird has made: it adds rows "
            "without a lock, and a row that it adds meanwhile would be lost. Stop the application "
            "and move the file away: it begins a new one"
        )


def _bound(state: StoredState, catch_up: int) -> tuple[int, str | None]:
    """Return the time from which on records stay, and a sentence if that needs one.

    Args:
        state: The delivery state.
        catch_up: How far back records are sent again if the state is lost, in seconds.
    """
    now = time.time_ns()
    channels = state.channels()
    known = [one.since for one in channels if one.since is not None]
    if not channels or state.unknown_until() is not None:
        oldest = now - catch_up * NANOSECONDS
        return min([oldest, *known]), (
            f"records since {iso(max(oldest, 0))} stay, because their delivery is not known "
            "(ROCKETRY_OTEL_CATCH_UP)"
        )
    waiting = sum(one.waiting for one in channels)
    oldest = min([now, *known])
    why = f"records since {iso(oldest)} stay, because {waiting:,} items wait" if waiting else None
    return oldest, why


def _lease(state: StoredState, like: Path | None) -> AbstractContextManager[bool]:
    """Try to be the only process that reads the repository for delivery."""
    if state.folder is None or not state.exists:
        return nullcontext(enter_result=True)
    return State(state.folder, like).lease()

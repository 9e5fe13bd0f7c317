"""Arguments that several commands have, and the repository that they name."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import click

from rocketry_otel._errors import RepositoryError, SettingsError
from rocketry_otel._history.open_history import open_history
from rocketry_otel._model.durations import EXAMPLES, NANOSECONDS
from rocketry_otel._repositories.urls import without_secrets

from .times import time_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redbird.base import BaseRepo

    from rocketry_otel._settings import Settings


def _as_time(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Return an age or a time as nanoseconds since the epoch."""
    if value is None:
        return None
    try:
        since_epoch = time_of(value) - datetime.fromtimestamp(0, timezone.utc)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None
    return max(int(since_epoch.total_seconds() * NANOSECONDS), 0)


def repo_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option for the repository."""
    return click.option(
        "--repo", metavar="URL", help="The repository. Default: ROCKETRY_OTEL_REPO."
    )(function)


def since_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option for the time from which on runs are taken."""
    return click.option(
        "--since",
        callback=_as_time,
        metavar="TIME",
        help=f"Only runs since then: an age ({EXAMPLES}) or an ISO 8601 time, local unless it "
        "has a zone.",
    )(function)


def task_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option for names of tasks."""
    return click.option(
        "--task",
        metavar="PATTERN",
        default="*",
        help="Only tasks with such names, for instance 'etl-*'.",
    )(function)


def json_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option for JSON."""
    return click.option("--json", "as_json", is_flag=True, help="Write JSON.")(function)


def url_of(repo: str | None, settings: Settings) -> str:
    """Return the URL of the repository: the option, or the setting.

    Raises:
        SettingsError: There is none.
    """
    url = repo or settings.repo
    if url is None:
        raise SettingsError("no repository is given: use --repo URL or ROCKETRY_OTEL_REPO")
    return url


@contextmanager
def opened(url: str) -> Iterator[BaseRepo]:
    """Open a repository to read it.

    Raises:
        RepositoryError: It cannot be opened or read; no message has a secret of the URL.
    """
    try:
        with open_history(url) as repo:
            yield repo
    except RepositoryError as error:
        raise type(error)(without_secrets(str(error), url)) from None

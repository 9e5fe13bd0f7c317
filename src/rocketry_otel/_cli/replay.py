"""The command that replays history."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any, TextIO

from rocketry_otel._errors import RepositoryError, SettingsError
from rocketry_otel._history.open_history import open_history
from rocketry_otel._model.durations import EXAMPLES, seconds_of
from rocketry_otel._replay.refused import replay_refused
from rocketry_otel._replay.replay import replay
from rocketry_otel._replay.summary import bar, summary
from rocketry_otel._repositories.urls import mask_url, without_secrets
from rocketry_otel._runtime.terminal_line import TerminalLine
from rocketry_otel._settings import Settings

from .times import time_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from redbird import BaseRepo

    from rocketry_otel._replay.result import Replay

_NOT_ALL = 1
_INTERRUPTED = 130  # what a shell calls SIGINT: 128 + 2


def add_replay(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "replay",
        help="send the history of a repository to the collector",
        description="Send the records of a repository, with the ids that they had, to the "
        "destination of the OTEL_* variables. The records may be of any model that Rocketry "
        "wrote. Metrics are not sent. The exit status is 0 if everything was accepted, else 1.",
    )
    parser.add_argument(
        "--repo", metavar="URL", help="the repository (default: ROCKETRY_OTEL_REPO)"
    )
    parser.add_argument(
        "--since",
        type=_time,
        metavar="TIME",
        help=f"only records logged since then: an age ({EXAMPLES}) or an ISO 8601 time, local "
        "unless it has a zone",
    )
    parser.add_argument(
        "--until", type=_time, metavar="TIME", help="only records logged until then"
    )
    parser.add_argument(
        "--task",
        default="*",
        metavar="PATTERN",
        help="only tasks with such names, for instance 'etl-*'",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="send nothing; show how much would be sent"
    )
    parser.add_argument(
        "--refused",
        action="store_true",
        help="only dead letters: records that a collector has refused before",
    )
    parser.add_argument(
        "--patience",
        type=_patience,
        default=60.0,
        metavar="AGE",
        help="how long replay waits without any progress before it gives up (default: 60s)",
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.refused and (arguments.since or arguments.until or arguments.task != "*"):
        raise SettingsError(
            "--refused sends all dead letters, and so allows no --since, --until or --task"
        )
    settings = Settings()
    url = arguments.repo or settings.repo
    if url is None:
        raise SettingsError("no repository is given: use --repo URL or ROCKETRY_OTEL_REPO")
    line = TerminalLine(sys.stderr)
    last: Replay | None = None

    def show(so_far: Replay) -> None:
        nonlocal last
        last = so_far
        line.draw(bar(so_far))

    status = _INTERRUPTED
    try:
        with open_history(url) as repo:
            result = _replay(arguments, repo, settings, show)
        status = 0 if result.complete else _NOT_ALL
    except RepositoryError as error:
        # The message of a driver may have secrets of the URL.
        raise type(error)(without_secrets(str(error), url)) from None
    except KeyboardInterrupt:
        if last is None:
            raise
    finally:
        line.erase()
        is_dry = arguments.dry_run
        _write([] if last is None else summary(last, mask_url(url), is_dry=is_dry))
    return status


def _replay(
    arguments: argparse.Namespace,
    repo: BaseRepo,
    settings: Settings,
    progress: Callable[[Replay], None],
) -> Replay:
    how: dict[str, Any] = {
        "dry_run": arguments.dry_run,
        "patience": arguments.patience,
        "settings": settings,
        "progress": progress,
    }
    if arguments.refused:
        return replay_refused(repo, **how)
    return replay(repo, since=arguments.since, until=arguments.until, task=arguments.task, **how)


def _write(lines: list[str]) -> None:
    # `None` if it was closed when the program began.
    stream: TextIO | None = sys.stdout
    if stream is not None:
        stream.writelines(f"{line}\n" for line in lines)
        # Now, and not at the exit, because the reader may have gone.
        stream.flush()


def _time(text: str) -> datetime:
    try:
        return time_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _patience(text: str) -> float:
    try:
        return float(seconds_of(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None

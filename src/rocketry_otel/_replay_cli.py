"""The command that replays history."""

from __future__ import annotations

import argparse
import os
import sys
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, TextIO

from ._durations import EXAMPLES, seconds_of
from ._errors import SettingsError
from ._replay import replay
from ._replay_refused import replay_refused
from ._repositories import mask_url
from ._repositories._reading import open_history
from ._settings import Settings

if TYPE_CHECKING:
    from ._replay_summary import Replay

_NOT_ALL = 1
_BAR_WIDTH = 24


def add_replay(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the others."""
    parser = commands.add_parser(
        "replay",
        help="send the history of a repository to the collector",
        description="Send the records that a repository keeps to where the OTEL_* variables "
        "say, with the ids that they had. It may be of any model that Rocketry wrote. "
        "Metrics are not sent. The exit status is 0 if all was accepted, else 1.",
    )
    parser.add_argument(
        "--repo", metavar="URL", help="the repository (default: ROCKETRY_OTEL_REPO)"
    )
    parser.add_argument(
        "--since",
        type=_time,
        metavar="TIME",
        help=f"only what was logged since: an age ({EXAMPLES}) or an ISO 8601 time, local "
        "unless it has a zone",
    )
    parser.add_argument("--until", type=_time, metavar="TIME", help="only what was logged until")
    parser.add_argument(
        "--task", default="*", metavar="PATTERN", help="only tasks of such names, such as 'etl-*'"
    )
    parser.add_argument("--dry-run", action="store_true", help="send nothing; tell what would be")
    parser.add_argument(
        "--refused", action="store_true", help="only what was refused and set aside before"
    )
    parser.add_argument(
        "--patience",
        type=_patience,
        default=60.0,
        metavar="AGE",
        help="for how long nothing may get through before it gives up (default: 60s)",
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    settings = Settings()
    url = arguments.repo or settings.repo
    if url is None:
        raise SettingsError("say which repository: --repo URL, or ROCKETRY_OTEL_REPO")
    repo = open_history(url)
    bar = _Bar(sys.stderr)
    try:
        if arguments.refused:
            result = replay_refused(
                repo, patience=arguments.patience, settings=settings, progress=bar.show
            )
        else:
            result = replay(
                repo,
                since=arguments.since,
                until=arguments.until,
                task=arguments.task,
                dry_run=arguments.dry_run,
                patience=arguments.patience,
                settings=settings,
                progress=bar.show,
            )
    finally:
        bar.clear()
    for line in _summary(result, mask_url(url), is_dry=arguments.dry_run):
        sys.stdout.write(f"{line}\n")
    return 0 if result.complete else _NOT_ALL


class _Bar:
    """A bar on a terminal that shows how far it is; nothing elsewhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty() and os.environ.get("TERM") != "dumb"
        self._is_shown = False

    def show(self, so_far: Replay) -> None:
        """Draw it anew."""
        if not self._is_terminal:
            return
        full = round(so_far.fraction * _BAR_WIDTH)
        bar = "#" * full + "." * (_BAR_WIDTH - full)
        rate = so_far.records / so_far.seconds if so_far.seconds > 0 else 0.0
        delivered = so_far.spans + so_far.log_records
        self._stream.write(
            f"\r\x1b[K[{bar}] {so_far.fraction:4.0%}  {so_far.records:,} records, "
            f"{rate:,.0f}/s, {delivered:,} items accepted"
        )
        self._stream.flush()
        self._is_shown = True

    def clear(self) -> None:
        """Take it away."""
        if self._is_shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


def _summary(result: Replay, url: str, *, is_dry: bool) -> list[str]:
    what = f"{result.records:,} records with the ends of {result.runs:,} runs"
    if is_dry:
        lines = [f"{url}: {what} would be sent; nothing was."]
    else:
        rate = result.records / max(result.seconds, 0.001)
        lines = [
            f"{url}: {what}, in {result.seconds:.1f} s ({rate:,.0f} records/s).",
            f"Accepted: {result.spans:,} spans and {result.log_records:,} log records.",
        ]
    for reason, count in sorted(result.refused.items()):
        lines.append(f"Refused: {count:,}, since: {reason}")
    if result.waiting:
        lines.append(f"Not accepted when it gave up: {result.waiting:,} items.")
    if not result.complete and not result.refused:
        lines.append("It was not read to its end: once more when the collector is back.")
    lines += [f"Note: {note}." for note in result.notes]
    return lines


def _time(text: str) -> datetime:
    try:
        return datetime.now(timezone.utc) - timedelta(seconds=seconds_of(text))
    except (ValueError, OverflowError):
        pass
    try:
        # Before Python 3.11 it does not know the Z of UTC.
        return datetime.fromisoformat(text.strip().replace("Z", "+00:00")).astimezone()
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither an age such as {EXAMPLES} nor a time such as 2026-11-24T03:00"
        ) from None


def _patience(text: str) -> float:
    try:
        return float(seconds_of(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None

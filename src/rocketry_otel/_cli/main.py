"""The command line."""

from __future__ import annotations

import argparse
import math
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from rocketry_otel._errors import RocketryOTelError

from .replay import add_replay

if TYPE_CHECKING:
    from collections.abc import Sequence

# The commands that need the extra "cli", and what they are for.
EXTRA = {
    "check": "see whether everything is set up: settings, versions, repository, destinations",
    "runs": "list the runs in a repository",
    "show": "show one run whole",
    "stats": "show runs, failures and durations by task",
    "status": "show what waits for delivery, and what was refused",
    "export": "write the runs in a repository as JSON lines or CSV",
    "prune": "remove old records from a repository",
    "stack": "set up a collector, Jaeger, Loki, Prometheus and Grafana in containers",
}
_COMPLETION = "_ROCKETRY_OTEL_COMPLETE"

_MISUSE = 2
_BROKEN_PIPE = 1
_INTERRUPTED = 130  # what a shell calls SIGINT: 128 + 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: The arguments, without the program's name; by default those of the process.

    Returns:
        The exit status: 0; 1 if a part of a replay was not accepted, a check has found a problem
        or a search has found nothing; 2 if an argument, a setting or the repository is wrong, or
        a package is missing; 130 after an interrupt, and 143 if SIGTERM has ended the demo.

    Raises:
        SystemExit: If the arguments are not understood, or after help and version.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    try:
        status = _run(given)
        if sys.stdout is not None:
            # Else Python does it at its exit, and complains in its own words.
            sys.stdout.flush()
        return status  # noqa: TRY300  # an error of the flush is handled here too
    except RocketryOTelError as error:
        sys.stderr.write(f"rocketry-otel: {error}\n")
        return _MISUSE
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:  # the reader has gone, as `head` does
        _discard_output()
        return _BROKEN_PIPE
    except OSError as error:  # above all, the disk is full that the output goes to
        _discard_output()
        sys.stderr.write(f"rocketry-otel: {error}\n")
        return _MISUSE


def _discard_output() -> None:
    """Let Python flush the rest of the output to nowhere: it would complain once more."""
    if sys.stdout is None:  # as under pythonw, or after `>&-` in a shell
        return
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _run(given: list[str]) -> int:
    if (given[:1] and given[0] in EXTRA) or _COMPLETION in os.environ:
        return _run_extra(given)
    arguments = parser().parse_args(given)
    return arguments.run(arguments)  # type: ignore[no-any-return]  # each command sets it


def _run_extra(given: list[str]) -> int:
    try:
        # Imported here, because other commands work without its packages.
        from .extra import run_extra  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"click", "rich"}:
            raise
        sys.stderr.write(
            f"rocketry-otel: this command needs {error.name}, which is missing: "
            "pip install 'rocketry-otel[cli]'\n"
        )
        return _MISUSE
    return run_extra(given, _COMPLETION)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the commands that need no extra; its help lists all commands."""
    parser = argparse.ArgumentParser(
        prog="rocketry-otel", description="OpenTelemetry for Rocketry, the task scheduler."
    )
    parser.add_argument(
        "--version", action="version", version=f"rocketry-otel {version('rocketry-otel')}"
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_demo(commands)
    add_replay(commands)
    for name, words in EXTRA.items():
        commands.add_parser(name, help=words, add_help=False)
    return parser


def _add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    words = "run a small application and show where its telemetry goes"
    demo = commands.add_parser(
        "demo",
        help=words,
        description=f"{words.capitalize()}. The OTEL_* variables choose the destination; by "
        "default, a collector at http://localhost:4318. It works without a collector, too.",
    )
    demo.add_argument(
        "--seconds",
        type=_seconds,
        default=10.0,
        metavar="N",
        help="how long tasks are started, in seconds (default: 10)",
    )
    demo.add_argument(
        "--repo",
        metavar="URL",
        help="the repository, such as sqlite:///tasks.db, csv://tasks.csv or memory:// "
        "(default: ROCKETRY_OTEL_REPO, else SQLite in a temporary directory)",
    )
    demo.add_argument(
        "--keep", action="store_true", help="leave the temporary directory where it is"
    )
    demo.set_defaults(run=_run_demo)


def _run_demo(arguments: argparse.Namespace) -> int:
    try:
        # Imported here, because only this command needs Rocketry.
        from rocketry_otel._demo.run import run_demo  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "rocketry":
            raise
        sys.stderr.write(
            "rocketry-otel: the demo needs Rocketry, which is missing: "
            "pip install 'rocketry-otel[rocketry]'\n"
        )
        return _MISUSE
    return run_demo(seconds=arguments.seconds, repo=arguments.repo, keep=arguments.keep)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds

"""Runs a Python program in a separate process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import dedent


@dataclass(frozen=True)
class Finished:
    """The result of a process.

    Attributes:
        returncode: Negative where a signal ended it.
        stdout: Its output.
        stderr: Its output of errors.
        duration: Seconds from its start to its end, the interpreter's own start included.
    """

    returncode: int
    stdout: str
    stderr: str
    duration: float


def run_python(
    script: str,
    *arguments: str,
    env: Mapping[str, str] | None = None,
    timeout: float = 60,
    cwd: Path | None = None,
    options: Sequence[str] = (),
) -> Finished:
    """Run the text of a script, dedented, with this interpreter.

    Args:
        script: The program. It is a file, not ``-c``, so that it has source lines in its
            tracebacks and can be imported by a child that it spawns.
        arguments: Its ``sys.argv[1:]``.
        env: Variables added to this process's, less any ``OTEL_*`` and ``ROCKETRY_OTEL_*``.
        timeout: Seconds after which it is killed and ``subprocess.TimeoutExpired`` raised.
        cwd: Where it runs; the script lies elsewhere.
        options: Options of the interpreter, such as ``-W error``.
    """
    with TemporaryDirectory() as directory:
        file = Path(directory) / "script.py"
        file.write_text(dedent(script), encoding="utf-8")
        return run_command([sys.executable, *options, str(file), *arguments], env, timeout, cwd)


def run_command(
    command: Sequence[str],
    env: Mapping[str, str] | None = None,
    timeout: float = 60,
    cwd: Path | None = None,
) -> Finished:
    """Run a command in the same surroundings as ``run_python`` does a script."""
    start = time.monotonic()
    done = subprocess.run(
        command,
        env=clean_environment(env),
        timeout=timeout,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr, time.monotonic() - start)


def clean_environment(added: Mapping[str, str] | None = None) -> dict[str, str]:
    """Give this process's environment with no setting of telemetry but those added.

    Nor with the variables that make requests prefer other certificates to those it is given.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OTEL_", "ROCKETRY_OTEL_"))
        and name not in {"REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"}
    }
    return {**kept, **(added or {})}

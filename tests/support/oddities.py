"""A machine that is not as it should be: its clock, its disk, its memory."""

from __future__ import annotations

import os
import resource
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_true_time_ns = time.time_ns
_clock_is_off_by = 0


def be_odd() -> None:
    """Make this process's clock one that can be set, and its disk slow if that is wanted."""
    # For code that reads them from their modules, as all of ours does.
    time.time_ns = lambda: _true_time_ns() + _clock_is_off_by
    time.time = lambda: time.time_ns() / 1e9
    seconds = float(os.environ.get("CONSERVATION_SLOW_DISK", "0"))
    if seconds:
        _slow_down(seconds)


def _slow_down(seconds: float) -> None:
    connect = sqlite3.connect

    class SlowConnection(sqlite3.Connection):
        def execute(self, statement: str, *arguments: Any) -> sqlite3.Cursor:
            """Execute a statement; the end of a transaction is over when the disk has it."""
            cursor = super().execute(statement, *arguments)
            if statement == "COMMIT":
                time.sleep(seconds)
            return cursor

    def connect_slowly(path: Any, *arguments: Any, **options: Any) -> sqlite3.Connection:
        if Path(path).name == "delivery.db":
            options["factory"] = SlowConnection
        return connect(path, *arguments, **options)

    sqlite3.connect = connect_slowly


def most_memory() -> float:
    """Return how much memory this process has taken at most, in megabytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def set_clock(seconds: float) -> None:
    """Let the clock be off by so much from now on."""
    global _clock_is_off_by  # noqa: PLW0603  # there is but one clock
    _clock_is_off_by = int(seconds * 1e9)


def limit_files(size: int) -> None:
    """Let no file grow beyond a size."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))


def causes_of(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, its cause, and the cause of that."""
    while error is not None:
        yield error
        error = error.__cause__

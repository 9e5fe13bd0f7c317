"""A repository of runs with every ending, at fixed times."""

from __future__ import annotations

import gc
import os
import pty
import re
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from rocketry_otel import TaskEventRecord, open_repository
from tests.support.processes import clean_environment

# 2023-11-14 22:13:20 in UTC.
START = 1_700_000_000
LONG_NAME = "report-of-the-night-with-a-long-name"
TRACEBACK = (
    "Traceback (most recent call last):\n"
    '  File "etl.py", line 3, in load\n'
    "    raise ValueError('no rows')\n"
    "ValueError: no rows"
)
COMMAND = [sys.executable, "-W", "error", "-m", "rocketry_otel"]


def record(action: str, seconds: float, run_id: str | None, **fields: Any) -> TaskEventRecord:
    """Return a record so many seconds after the start."""
    fields = {"task_name": "etl", "message": f"{run_id} {action}", **fields}
    return TaskEventRecord(action=action, created=START + seconds, run_id=run_id, **fields)


def write_runs(url: str) -> None:
    """Write a success, a failure, a time-out, an inaction and a run that goes on."""
    repo = open_repository(url)
    for one in (
        record("run", 0, "run-1", attributes='{"host.name": "here"}'),
        record("success", 0.25, "run-1"),
        record("run", 60, "run-2"),
        record(
            *("fail", 63.5, "run-2"),
            exc_type="ValueError",
            exc_message="no rows\n\x1b[31mat all",
            exc_text=TRACEBACK,
            attributes='{"rows": 7}',
            events='[{"name": "half", "time": 1700000061000000000, "attributes": {"a": 1}}]',
        ),
        record("run", 120, "run-3", task_name=LONG_NAME),
        record("terminate", 7320, "run-3", task_name=LONG_NAME, message="gone (timeouted)"),
        record("run", 7400, "run-4", task_name=LONG_NAME),
        record("inaction", 7490, "run-4", task_name=LONG_NAME),
        record("run", 7500, "run-5"),
    ):
        repo.add(one)
    del repo
    gc.collect()


def on_terminal(
    arguments: Sequence[str], columns: int, typed: bytes = b"", **variables: str
) -> tuple[int, str]:
    """Run a command on a terminal of so many columns.

    Args:
        arguments: Its arguments.
        columns: How wide the terminal is.
        typed: What is typed at once.
        **variables: Further variables.

    Returns:
        Its status and what it wrote.
    """
    terminal, end = pty.openpty()
    os.write(terminal, typed)
    environment = {"TERM": "xterm", "COLUMNS": str(columns), "TZ": "UTC", "NO_COLOR": "1"}
    with subprocess.Popen(
        [*COMMAND, *arguments],
        env=clean_environment({**environment, "PYTHONIOENCODING": "utf-8", **variables}),
        stdin=end,
        stdout=end,
        stderr=end,
        start_new_session=True,
    ) as process:
        os.close(end)
        written = b""
        while True:
            try:
                more = os.read(terminal, 65_536)
            except OSError:  # the other end is closed
                break
            if not more:
                break
            written += more
        os.close(terminal)
        text = re.sub(r"\x1b\[[0-9;]*m", "", written.decode())
        return process.wait(60), text.replace("\r\n", "\n")

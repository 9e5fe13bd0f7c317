"""The application of ``conservation_app.py`` as a process, from its start to its end."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.support.processes import clean_environment

_MODULE = "tests.support.conservation_app"
_ROOT = Path(__file__).parents[2]
START_SECONDS = 60


class AppProcess:
    """The application, from its start to its end.

    Args:
        name: Its name in the journal.
        environment: The variables it has.
        directory: The directory for its standard error.
    """

    def __init__(self, name: str, environment: Mapping[str, str], directory: Path) -> None:
        self.name = name
        self._stderr = directory / f"{name}.stderr"
        self._rest = b""
        with self._stderr.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", _MODULE],
                env=clean_environment({**environment, "PYTHONPATH": str(_ROOT)}),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=directory,
                # Its children go with it, when all is over.
                start_new_session=True,
            )

    @property
    def stderr(self) -> str:
        """Its standard error so far."""
        return self._stderr.read_text(encoding="utf-8", errors="replace")

    def await_ready(self) -> None:
        """Wait until the scheduler runs."""
        assert "ready" in self._answer(START_SECONDS)

    def say(self, order: str, value: float = 0, timeout: float = 60) -> Any:
        """Give an order, and return the answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{order} {value}\n".encode())
        self.process.stdin.flush()
        return self._answer(timeout)[order]

    def await_records(self, number: int = 150) -> None:
        """Wait until it has committed so many more records."""
        assert self.say("await", number, 90) is True, self.stderr

    def pause(self) -> None:
        """Let no task begin any more."""
        assert self.say("pause") is True

    def is_over_within(self, seconds: float) -> bool:
        """Wait for its end, for so long."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    @property
    def has_children(self) -> bool:
        """Whether a child is left after its end."""
        return _is_there(self.process.pid)

    def await_failure(self) -> list[str]:
        """Wait until its scheduler gives up; return the types of the errors."""
        failed: list[str] = self._answer(60)["failed"]
        self.process.wait(30)
        assert self.process.returncode == 1
        return failed

    def kill(self) -> None:
        """Kill it, and nothing but it: its children go on."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def terminate(self, timeout: float = 60) -> int:
        """Ask it to end by SIGTERM, and return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout)
        return self.process.returncode

    def stop(self, timeout: float = 30) -> int:
        """Let it end by itself, and return its exit status."""
        self.say("stop")
        self.process.wait(timeout)
        return self.process.returncode

    def clear_away(self) -> None:
        """Kill it, with its children."""
        # The group is there as long as anyone is in it.
        with closing(self.process.stdout), closing(self.process.stdin):  # type: ignore[arg-type,type-var]
            if self.process.poll() is None or _is_there(self.process.pid):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def _answer(self, timeout: float) -> dict[str, Any]:
        assert self.process.stdout is not None
        deadline = time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                assert selector.select(max(deadline - time.monotonic(), 0)), (
                    f"{self.name} does not answer: {self.stderr}"
                )
                more = os.read(self.process.stdout.fileno(), 65536)
                assert more, f"{self.name} has ended: {self.stderr}"
                self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _is_there(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True

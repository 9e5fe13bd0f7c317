"""A program in a process of its own, whose lines are awaited and which gets signals."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from textwrap import dedent

from typing_extensions import Self

from tests.support.processes import clean_environment

LONGEST_WAIT = 60.0


class Program:
    """A program that runs until it ends or the ``with`` block does.

    Args:
        command: Its command line.
        directory: Its working directory.
        env: Its variables, beside those of this process that are no setting of telemetry.
    """

    def __init__(self, command: Sequence[str], directory: Path, env: Mapping[str, str]) -> None:
        self._rest = b""
        self.lines: list[str] = []
        # As in a shell: what runs the tests may ignore the signal.
        before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
        try:
            self.process = subprocess.Popen(
                command,
                cwd=directory,
                env=clean_environment({"PYTHONUNBUFFERED": "1", **env}),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        finally:
            signal.signal(signal.SIGTERM, before)

    @classmethod
    def of_script(cls, script: str, directory: Path, env: Mapping[str, str]) -> Self:
        """Start the text of a script, dedented, with this interpreter."""
        path = directory / "script.py"
        path.write_text(dedent(script), encoding="utf-8")
        return cls([sys.executable, str(path)], directory, env)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Kill what is left, children too."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def wait_for_line(self, beginning: str) -> str:
        """Return the rest of the next line that begins like this."""
        while (line := self._next_line()) is not None:
            if line.startswith(beginning):
                return line.removeprefix(beginning).strip()
        raise AssertionError(f"no line {beginning!r} in {self.lines}")

    def terminate(self) -> None:
        """Send it SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Read its lines to the end; return its status, negative after a signal."""
        while self._next_line() is not None:
            pass
        return self.process.wait(LONGEST_WAIT)

    def _next_line(self) -> str | None:
        """Wait for a line; ``None`` at the end."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + LONGEST_WAIT
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                assert selector.select(max(deadline - time.monotonic(), 0)), self.lines
                more = os.read(self.process.stdout.fileno(), 65536)
                if not more:
                    return None
                self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        self.lines.append(line.decode(errors="replace"))
        return self.lines[-1]

"""A database server as a process: it starts, is killed, starts again and stops."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

_START_SECONDS = 60


class ServerProcess:
    """A server whose data outlives its process.

    Args:
        command: The command of the server.
        directory: Its working directory, where its log is.
        is_ready: Whether it takes connections.
        user: The user to run as; ``None`` for the current one.
        stop_signal: The signal at which it ends soon, and in order.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        directory: Path,
        is_ready: Callable[[], bool],
        user: str | None = None,
        stop_signal: int = signal.SIGTERM,
    ) -> None:
        self._command = command
        self._directory = directory
        self._is_ready = is_ready
        self._user = user
        self._stop_signal = stop_signal
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        log = self._directory / "log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                user=self._user,
                cwd=self._directory,
                start_new_session=True,
            )
        self._process = process
        deadline = time.monotonic() + _START_SECONDS
        while not self._is_ready():
            assert process.poll() is None, log.read_text(encoding="utf-8", errors="replace")
            assert time.monotonic() < deadline, f"{self._command[0]} did not start"
            # A server gives no event to await: PostgreSQL's own `pg_ctl --wait` looks again, too.
            time.sleep(0.05)

    def kill(self) -> None:
        """Kill it with all its children, and wait until the last of them is gone."""
        assert self._process is not None
        group = self._process.pid
        os.killpg(group, signal.SIGKILL)
        self._process.wait()
        deadline = time.monotonic() + _START_SECONDS
        while _is_there(group):
            assert time.monotonic() < deadline, f"{self._command[0]} does not die"
            time.sleep(0.01)

    def stop(self) -> None:
        """Let it end in order, if it runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(self._stop_signal)
            self._process.wait(_START_SECONDS)


def unprivileged(name: str, directory: Path) -> str | None:
    """Return the user to run as, who gets the directory: these servers refuse to run as root."""
    if os.getuid() != 0:
        return None
    user = pwd.getpwnam(name)
    os.chown(directory, user.pw_uid, user.pw_gid)
    return user.pw_name


def _is_there(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True

"""The application, at work while a test does something to the stack."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rocketry_otel import open_repository
from tests.support.processes import clean_environment

from .conftest import APP, Ran
from .servers import Collector, eventually


class Running:
    """An application that is at work."""

    def __init__(self, process: subprocess.Popen[str], directory: Path) -> None:
        self._process = process
        self._errors = _errors_in(directory)
        self._stop_file = _stop_file_in(directory)

    @property
    def stderr(self) -> str:
        """What it has written there so far."""
        return self._errors.read_text(encoding="utf-8")

    def stop(self) -> None:
        """Let it end now, before its time is over."""
        self._stop_file.touch()

    def finished(self, service: str) -> Ran:
        """Wait until it has ended."""
        out, _ = self._process.communicate(timeout=120)
        assert self._process.returncode == 0, self.stderr
        printed = json.loads(out)
        return Ran(service, printed["records"], printed["flushed"], self.stderr)


@contextmanager
def application(
    directory: Path, collector: Collector, seconds: float, **env: str
) -> Iterator[Running]:
    """Run the application, without waiting for it."""
    with _errors_in(directory).open("w", encoding="utf-8") as stderr:
        process = subprocess.Popen(
            [sys.executable, str(APP), str(seconds), f"sqlite:///{directory}/tasks.db"],
            env=clean_environment(
                {
                    "OTEL_SERVICE_NAME": "outage",
                    "OTEL_EXPORTER_OTLP_ENDPOINT": collector.http_endpoint,
                    "STOP_FILE": str(_stop_file_in(directory)),
                    "OTEL_BSP_SCHEDULE_DELAY": "200",
                    "OTEL_BLRP_SCHEDULE_DELAY": "200",
                    **env,
                }
            ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            cwd=APP.parents[2],
        )
    try:
        yield Running(process, directory)
    finally:
        process.kill()
        process.communicate()


def _errors_in(directory: Path) -> Path:
    return directory / "stderr.txt"


def _stop_file_in(directory: Path) -> Path:
    return directory / "stop"


def records(directory: Path) -> int:
    """Return how many records the application has stored so far."""
    return len(open_repository(f"sqlite:///{directory}/tasks.db").filter_by().all())


def goes_on(directory: Path) -> None:
    """Wait until the application has stored twenty records more."""
    so_far = records(directory)
    eventually(lambda: records(directory) >= so_far + 20)

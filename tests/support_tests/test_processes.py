from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from tests.support.processes import run_python


def test_gives_all_that_a_process_leaves() -> None:
    """The code, both outputs and the time of a process are those that it really had."""
    start = time.monotonic()
    finished = run_python(
        """
        import sys, time

        print("out", *sys.argv[1:])
        print("err", file=sys.stderr)
        time.sleep(0.2)
        sys.exit(3)
        """,
        "one",
    )

    assert finished.returncode == 3
    assert finished.stdout == "out one\n"
    assert finished.stderr == "err\n"
    assert 0.2 <= finished.duration <= time.monotonic() - start


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process sees this one's variables and the added ones, but no setting of telemetry."""
    monkeypatch.setenv("KEPT", "1")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "of the developer")
    monkeypatch.setenv("ROCKETRY_OTEL_REPOSITORY", "of the developer")

    finished = run_python(
        """
        import os

        names = "KEPT", "OTEL_SERVICE_NAME", "ROCKETRY_OTEL_REPOSITORY", "OTEL_TRACES_SAMPLER"
        print([os.environ.get(name) for name in names])
        """,
        env={"OTEL_TRACES_SAMPLER": "always_on"},
    )

    assert finished.stdout == "['1', None, None, 'always_on']\n"


def test_timeout() -> None:
    """A process that does not end in time is killed."""
    with pytest.raises(subprocess.TimeoutExpired):
        run_python("import threading; threading.Event().wait()", timeout=0.5)


def test_directory_and_options(tmp_path: Path) -> None:
    """A script runs in the given directory, with the given options of the interpreter."""
    finished = run_python(
        "import os, sys; print(os.getcwd(), sys.warnoptions)",
        cwd=tmp_path,
        options=["-W", "error"],
    )

    assert finished.stdout == f"{tmp_path} ['error']\n"

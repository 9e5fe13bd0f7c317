"""Work with every Python, two at a time: `make test-all` and `make test-pips`.

``matrix.py tests 3.10=/path/to/python ...`` runs the tests: all of them with the newest Python,
beside pydantic 2 and FastAPI, and with the oldest dependencies; those that are not marked slow with
the others. With
``--tested=3.11`` it leaves out Python 3.11 with the usual dependencies: `make test` has run all of
its tests.

``matrix.py pips 3.10=/path/to/python ...`` builds environments with the oldest pip and with the
newest, and removes them. The oldest pip is the one that the first release of each Python brings.
"""
# ruff: noqa: INP001, T201  # a program, not a package

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

AT_A_TIME = 2
VERSIONS = ("3.10", "3.11", "3.12", "3.13")
NEWEST_PIP = "--upgrade pip"
OLDEST_PIP = {
    "3.10": "pip==21.2.3",
    "3.11": "pip==22.3",
    "3.12": "pip==23.2.1",
    "3.13": "pip==24.2",
}
# The oldest dependencies have no files for 3.13.
PIP_TRIALS = [
    *((version, pip, "dev") for version, pip in OLDEST_PIP.items()),
    ("3.10", NEWEST_PIP, "dev"),
    ("3.13", NEWEST_PIP, "dev"),
    ("3.11", OLDEST_PIP["3.11"], "demo"),
    ("3.12", NEWEST_PIP, "demo"),
    ("3.10", OLDEST_PIP["3.10"], "oldest"),
    ("3.12", NEWEST_PIP, "oldest"),
    ("3.10", NEWEST_PIP, "pydantic2"),
]
ALL, QUICK = "", "not slow and not conservation"
# The long ones first, so that the two turns end together.
TEST_TRIALS = [
    ("3.13", "pydantic2", ALL),
    ("3.10", "oldest", ALL),
    ("3.12", "dev", QUICK),
    ("3.10", "dev", QUICK),
    ("3.11", "dev", QUICK),
]


@dataclass(frozen=True)
class Trial:
    """One call of make.

    Attributes:
        version: The Python that it is for.
        name: What it is called.
        arguments: The target and the variables.
        remove: A folder that is removed in the end.
    """

    version: str
    name: str
    arguments: list[str]
    remove: Path | None = None

    async def run(self, turns: asyncio.Semaphore) -> bool:
        """Run it; return whether that went well."""
        async with turns:
            began = time.monotonic()
            succeeded, output = await self._make()
            seconds = time.monotonic() - began
        if self.remove is not None:
            shutil.rmtree(self.remove, ignore_errors=True)
        if succeeded:
            last = output.strip().rpartition("\n")[2]
            print(f"{self.name}: {seconds:.0f} s. {last}", flush=True)
        else:
            print(f"{self.name}: FAILED after {seconds:.0f} s\n{output}", flush=True)
        return succeeded

    async def _make(self) -> tuple[bool, str]:
        process = await asyncio.create_subprocess_exec(
            *("make", "--no-print-directory", *self.arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGTERM)
                await process.wait()
        return process.returncode == 0, output.decode(errors="replace")


@dataclass
class Matrix:
    """All trials of one kind, and how they ended."""

    trials: list[Trial]
    passed: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    async def run(self) -> None:
        """Run each trial, a few at a time."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, signal.raise_signal, signal.SIGINT)
        turns = asyncio.Semaphore(AT_A_TIME)
        results = await asyncio.gather(*(trial.run(turns) for trial in self.trials))
        for trial, succeeded in zip(self.trials, results, strict=True):
            (self.passed if succeeded else self.failed).append(trial.name)


def pip_trials(pythons: dict[str, str], folder: Path) -> list[Trial]:
    """Return what builds the environments."""
    return [
        Trial(
            version,
            f"Python {version}, {pip}, {file}.txt",
            [
                f"{folder / str(number)}/ready",
                f"VENV={folder / str(number)}",
                f"REQUIREMENTS=requirements/{file}.txt",
                f"PYTHON={pythons.get(version)}",
                f"WITH_PIP={pip}",
            ],
            remove=folder / str(number),
        )
        for number, (version, pip, file) in enumerate(PIP_TRIALS)
    ]


def test_trials(pythons: dict[str, str], tested: str | None) -> list[Trial]:
    """Return what runs the tests."""
    return [
        Trial(
            version,
            f"Python {version}, {file}.txt, {'all tests' if mark == ALL else 'without slow tests'}",
            [
                "test-quick",
                f"VENV=.venv-{version}" if file == "dev" else f"VENV=.venv-{file}-{version}",
                f"REQUIREMENTS=requirements/{file}.txt",
                f"PYTHON={pythons.get(version)}",
                f"MARK={mark}",
            ],
        )
        for version, file, mark in TEST_TRIALS
        if (version, file) != (tested, "dev")
    ]


def main(kind: str, *arguments: str) -> str | None:
    """Do what is asked with Pythons given as 3.10=/path; return what is wrong, or nothing."""
    found = dict(argument.split("=", 1) for argument in arguments)
    tested = found.pop("--tested", None)
    pythons = {version: python for version, python in found.items() if python}
    missing = [version for version in VERSIONS if version not in pythons]
    # These belong to the make that called this program.
    for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL"):
        os.environ.pop(name, None)
    with tempfile.TemporaryDirectory(prefix="environments-") as folder:
        trials = (
            test_trials(pythons, tested) if kind == "tests" else pip_trials(pythons, Path(folder))
        )
        matrix = Matrix([trial for trial in trials if trial.version in pythons])
        asyncio.run(matrix.run())
    if tested:
        print("Tested before:", f"Python {tested}, dev.txt, all tests")
    print("Passed: ", "; ".join(matrix.passed) or "none")
    print("Failed: ", "; ".join(matrix.failed) or "none")
    print("Missing:", ", ".join(f"Python {version}" for version in missing) or "none")
    if missing and os.environ.get("REQUIRE_ALL_TESTS") == "1":
        return "A Python is missing"
    return None if matrix.passed and not matrix.failed else "Not all of it passed"


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

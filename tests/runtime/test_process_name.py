from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from rocketry_otel._runtime import process_name
from rocketry_otel._runtime.process_name import host_name, is_name, is_running, new_name


def test_host_has_its_name() -> None:
    """It is the one that other processes of the host have."""
    assert host_name() == socket.gethostname()


def test_names_differ_and_run() -> None:
    """Each has the id of the process."""
    first, second = new_name(), new_name()
    assert first != second
    assert first.split("-")[:2] == second.split("-")[:2]
    assert first.startswith(f"{os.getpid()}-")
    assert is_name(first)
    assert is_running(first)
    assert is_running(second)


def test_name_of_a_replaced_program_does_not_run() -> None:
    """A program that replaces itself keeps the id of its process."""
    assert not is_running(f"{new_name()[:-8]}00000000")


@pytest.mark.parametrize(
    "name", ["", "x-1-00000000", "-1-00000000", "0-1-00000000", "1-1-../../aa", "1" * 5000]
)
def test_odd_name_does_not_run(name: str) -> None:
    """It comes from a record, which may be somebody else's."""
    assert not is_name(name)
    assert not is_running(name)


def test_another_process_runs_until_it_ends() -> None:
    """A zombie has ended, too, once it is waited for."""
    script = "from rocketry_otel._runtime.process_name import new_name as n; print(n()); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        name = other.stdout.readline().strip()
        assert is_running(name)
        pid, started, rest = name.split("-")
        # The id alone may belong to another process by now.
        assert not is_running(f"{pid}-{int(started) + 1}-{rest}")
        other.communicate("\n", timeout=60)
    assert not is_running(name)


def test_without_proc_the_id_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other systems do not show when a process began."""
    monkeypatch.setattr(process_name, "_start_of", lambda _: None)
    assert new_name().split("-")[1] == "0"
    assert is_running(f"{os.getppid()}-0-00000000")
    monkeypatch.setattr(os, "kill", refuse(PermissionError))
    assert is_running(f"{os.getppid()}-0-00000000")
    monkeypatch.setattr(os, "kill", refuse(ProcessLookupError))
    assert not is_running(f"{os.getppid()}-0-00000000")


def refuse(error: type[Exception]) -> object:
    """Return a function that raises an error."""

    def kill(*_: object) -> None:
        raise error

    return kill


def test_unreadable_start_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """The format of the file is the kernel's."""
    monkeypatch.setattr(Path, "read_bytes", lambda *_: b"1 (python) S")
    assert process_name._start_of(1) is None

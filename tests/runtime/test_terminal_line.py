"""The line of a terminal that shows progress."""

from __future__ import annotations

import io

import pytest

from rocketry_otel._runtime.terminal_line import TerminalLine
from tests.support.terminal import Terminal


@pytest.fixture(autouse=True)
def _forty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")


def test_text_replaces_the_one_before() -> None:
    """Each text erases the one before, and is shorter than the terminal is wide."""
    terminal = Terminal()
    line = TerminalLine(terminal)
    line.draw("a")
    line.draw("b" * 50)
    assert line.is_on_terminal
    assert terminal.getvalue().split("\r\x1b[K") == ["", "a", "b" * 39]


def test_line_is_erased_once() -> None:
    """A line that is not drawn is not erased."""
    terminal = Terminal()
    line = TerminalLine(terminal)
    line.erase()
    line.draw("a")
    line.erase()
    line.erase()
    assert terminal.getvalue().split("\r\x1b[K") == ["", "a", ""]


def test_other_streams_get_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file, a terminal that cannot erase and a missing stream get no output."""
    monkeypatch.setenv("TERM", "dumb")
    dumb, file = Terminal(), io.StringIO()
    for stream in (dumb, file, None):
        line = TerminalLine(stream)
        line.draw("a")
        line.erase()
        assert not line.is_on_terminal
    assert dumb.getvalue() == file.getvalue() == ""

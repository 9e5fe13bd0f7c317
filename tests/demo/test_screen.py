"""Lines, colours and progress on a terminal and elsewhere."""

import io

import pytest

from rocketry_otel._demo.screen import Screen
from tests.support.terminal import Terminal


@pytest.fixture
def terminal(monkeypatch):
    """A terminal of 80 columns that has colours."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Terminal()


def test_screen_updates_one_line(terminal):
    """On a terminal progress is one line, cut to the width, which the next line replaces."""
    screen = Screen(terminal)
    screen.progress("a")
    screen.progress("b" * 100)
    screen.line("done")
    screen.clear()
    screen.progress("c")
    screen.clear()

    written = terminal.getvalue().split("\r\x1b[K")
    assert written == ["", "a", "b" * 79, "done\n", "c", ""]


def test_screen_that_is_a_file():
    """Elsewhere progress is a line every two seconds, and there are no colours."""
    now = [0.0]
    stream = io.StringIO()
    screen = Screen(stream, lambda: now[0])
    for now[0] in (0.0, 1.9, 2.0, 3.0, 4.5):
        screen.progress(f"{now[0]}")
    screen.clear()

    assert stream.getvalue() == "2.0\n4.5\n"
    assert screen.paint("text", "red") == "text"


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("NO_COLOR", "", "\x1b[31mtext\x1b[0m"),
        ("NO_COLOR", "1", "text"),
        ("TERM", "dumb", "text"),
    ],
)
def test_screen_colours(variable, value, expected, terminal, monkeypatch):
    """Colours need a terminal, and can be turned off."""
    monkeypatch.setenv(variable, value)

    assert Screen(terminal).paint("text", "red") == expected


@pytest.mark.parametrize(("columns", "width"), [("20", 60), ("100", 100), ("300", 120)])
def test_screen_width(columns, width, terminal, monkeypatch):
    """The width is the terminal's, within reason."""
    monkeypatch.setenv("COLUMNS", columns)

    assert Screen(terminal).width == width

"""Tables and durations."""

from __future__ import annotations

import io
import re
import sys

import pytest
from rich.cells import cell_len

from rocketry_otel._cli.screen import Column, Screen, duration, printable
from tests.support.terminal import Terminal


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0, "0ms"),
        (0.9994, "999ms"),
        (0.9996, "1.0s"),
        (59.94, "59.9s"),
        (59.96, "1m00s"),
        (3599.4, "59m59s"),
        (3599.6, "1h00m"),
        (172_799, "47h59m"),
        (172_800, "2d00h"),
    ],
)
def test_duration(seconds: float | None, text: str) -> None:
    """In the unit that fits."""
    assert duration(seconds) == text


def test_line_of_somebody_else() -> None:
    """Its indentation stays, and no control character."""
    assert printable("    x\x1b[31m\ty") == "    x [31m y"


def screen(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, columns: int) -> Screen:
    """Return a screen on a stream of so many columns."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys, "stdout", stream)
    return Screen()


def test_table_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns give way down to their least width; wide letters count twice."""
    terminal = Terminal()
    columns = [Column("name", 4), Column("n", right=True), Column("words", 6)]
    rows = [["日本語日本語", "1", "some words that are long"], ["b", "22", ""]]
    screen(monkeypatch, terminal, 24).table(columns, rows)
    lines = re.sub(r"\x1b\[\d*m", "", terminal.getvalue()).splitlines()
    assert lines[0].split() == ["name", "n", "words"]
    assert max(map(cell_len, lines)) <= 24
    assert lines[1].startswith("日本")
    assert lines[2].split() == ["b", "22"]


def test_table_that_cannot_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is wider than the terminal, and nothing is lost."""
    terminal = Terminal()
    screen(monkeypatch, terminal, 20).table([Column("a"), Column("b", 5)], [["x" * 30, "y" * 9]])
    assert "x" * 30 in terminal.getvalue()


def test_empty_table_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """The heading alone."""
    stream = io.StringIO()
    screen(monkeypatch, stream, 20).table([Column("a"), Column("b")], [])
    assert stream.getvalue() == "a  b\n"


def test_paragraph(monkeypatch: pytest.MonkeyPatch) -> None:
    """In lines on a terminal, and in one line elsewhere."""
    terminal, stream = Terminal(), io.StringIO()
    text = "one two three four five six"
    screen(monkeypatch, terminal, 22).paragraph(text, "- ")
    assert terminal.getvalue() == "- one two three four\n  five six\n"
    screen(monkeypatch, stream, 22).paragraph(text, "- ")
    assert stream.getvalue() == f"- {text}\n"


def test_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any run has a bar, and only none has none."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", stream)
    assert Screen().bars([0, 1, 50, 100], 100) == " ▁▄█"

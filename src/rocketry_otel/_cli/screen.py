"""Lines and tables on a terminal or in a pipe.

On a terminal a line is cut to its width, and has colours. In a pipe it is whole and plain.
"""

from __future__ import annotations

import json
import sys
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from rocketry_otel._model.text import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_GAP = 2
_BARS = " ▁▂▃▄▅▆▇█"
_PLAIN_BARS = " .:-=+*#@"
_STYLES = {
    "success": "green",
    "ok": "green",
    "accepted": "green",
    "fail": "red",
    "crash": "red",
    "problem": "red",
    "terminate": "yellow",
    "inaction": "dim",
    "running": "cyan",
}


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: Its heading.
        least: How narrow it may become on a terminal; ``None`` if it keeps its width.
        right: Whether its cells stand at the right.
    """

    title: str
    least: int | None = None
    right: bool = False


class Screen:
    """The output of a command."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
        self.is_terminal = self._console.is_terminal
        self.width = self._console.width if self.is_terminal else sys.maxsize

    @property
    def is_wide(self) -> bool:
        """Whether long values are shown whole."""
        return self.width >= _WIDE

    def line(self, text: str = "", style: str | None = None) -> None:
        """Write a line, as long as it is."""
        self._write(Text(text, style or ""))

    def heading(self, text: str) -> None:
        """Write a heading."""
        self.line(text, "bold")

    def text(self, text: str, indent: str = "") -> None:
        """Write a text of several lines."""
        for line in text.splitlines():
            self.line(f"{indent}{printable(line)}")

    def paragraph(self, text: str, mark: str) -> None:
        """Write a text behind a mark; on a terminal in lines of its width."""
        lines = [text]
        if self.is_terminal:
            width = max(self.width - len(mark), 20)
            lines = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
        for number, line in enumerate(lines):
            self.line(f"{' ' * len(mark) if number else mark}{line}")

    def pairs(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Write names and values, a line each."""
        rows = list(pairs)
        width = max((cell_len(name) for name, _ in rows), default=0)
        for name, value in rows:
            line = Text("  ").append(set_cell_size(name, width), "dim").append("  ")
            self._write(line.append(value, _STYLES.get(value, "")))

    def table(self, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
        """Write a table, a line for each row."""
        cells = [[one_line(cell) for cell in row] for row in rows]
        widths = self._widths(columns, cells)
        self._row([column.title for column in columns], columns, widths, heading=True)
        for row in cells:
            self._row(row, columns, widths)

    def json(self, value: Any) -> None:
        """Write a value as one line of JSON."""
        sys.stdout.write(f"{json.dumps(value, ensure_ascii=False)}\n")
        sys.stdout.flush()

    def json_lines(self, values: Iterable[Mapping[str, Any]]) -> None:
        """Write each value as a line of JSON."""
        for value in values:
            self.json(value)

    def note(self, text: str) -> None:
        """Write a line for the user that is no part of the result."""
        sys.stdout.flush()
        sys.stderr.write(f"rocketry-otel: {text}\n")

    def bars(self, numbers: Sequence[int], most: int) -> str:
        """Return a bar for each number; the highest is that of ``most``, which is above 0."""
        marks = _BARS if self._console.encoding.startswith("utf") else _PLAIN_BARS
        highest = len(marks) - 1
        return "".join(marks[-(-number * highest // most)] for number in numbers)

    def _widths(self, columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> list[int]:
        widths = [
            max([cell_len(column.title), *(cell_len(row[number]) for row in cells)])
            for number, column in enumerate(columns)
        ]
        excess = sum(widths) + _GAP * (len(widths) - 1) - self.width
        # The widest column that may give way does so.
        while excess > 0:
            room = [
                (width - column.least, number)
                for number, (width, column) in enumerate(zip(widths, columns, strict=True))
                if column.least is not None and width > column.least
            ]
            if not room:
                break
            widths[max(room)[1]] -= 1
            excess -= 1
        return widths

    def _row(
        self,
        row: Sequence[str],
        columns: Sequence[Column],
        widths: Sequence[int],
        *,
        heading: bool = False,
    ) -> None:
        line = Text()
        last = len(columns) - 1
        for number, (cell, column, width) in enumerate(zip(row, columns, widths, strict=True)):
            cut = self._cut(cell, width)
            space = " " * (width - cell_len(cut))
            style = "bold" if heading else _STYLES.get(cell, "")
            line.append(space if column.right else "").append(cut, style)
            if number != last:
                line.append(("" if column.right else space) + " " * _GAP)
        line.rstrip()
        self._write(line)

    def _cut(self, cell: str, width: int) -> str:
        if cell_len(cell) <= width:
            return cell
        mark = "…" if self._console.encoding.startswith("utf") else "..."
        return set_cell_size(cell, max(width - cell_len(mark), 0)) + mark

    def _write(self, line: Text) -> None:
        self._console.print(line, crop=False, overflow="ignore", no_wrap=True)
        sys.stdout.flush()


_WIDE = 120


def printable(text: str) -> str:
    """Return a line of somebody else's without control characters, its indentation kept."""
    rest = text.lstrip(" ")
    return " " * (len(text) - len(rest)) + one_line(rest, 10_000)


def duration(seconds: float | None) -> str:
    """Return a duration in a few characters, such as ``12ms``, ``3.4s`` or ``2h05m``."""
    if seconds is None:
        return "-"
    if seconds < 0.9995:  # noqa: PLR2004  # it would be rounded to 1000 ms
        return f"{seconds * 1000:.0f}ms"
    if seconds < 59.95:  # noqa: PLR2004  # the same
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:  # noqa: PLR2004  # in an hour
        return f"{minutes}m{rest:02}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours < 48 else f"{hours // 24}d{hours % 24:02}h"  # noqa: PLR2004

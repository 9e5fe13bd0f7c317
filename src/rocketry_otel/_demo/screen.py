"""Where the demo prints: lines, colours, and its progress."""

from __future__ import annotations

import os
import shutil
import time
from typing import TYPE_CHECKING, TextIO

from rocketry_otel._runtime.terminal_line import TerminalLine

if TYPE_CHECKING:
    from collections.abc import Callable

_COLOURS = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}
_NARROWEST, _WIDEST = 60, 120
# A line for each look at the clock would fill a log file.
_SECONDS_BETWEEN_LINES = 2.0


class Screen:
    """Lines of text on a stream; colours and a line that changes only on a terminal."""

    def __init__(self, stream: TextIO, now: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._now = now
        self._progress = TerminalLine(stream)
        self._has_colours = self._progress.is_on_terminal and not os.environ.get("NO_COLOR")
        self._next_line = now() + _SECONDS_BETWEEN_LINES
        columns = shutil.get_terminal_size((80, 24)).columns
        self.width = max(_NARROWEST, min(columns, _WIDEST))

    def line(self, text: str = "") -> None:
        """Write a line; it takes the place of the progress."""
        self._progress.erase()
        self._stream.write(f"{text}\n")
        # A child that is forked would write the rest of the buffer once more.
        self._stream.flush()

    def clear(self) -> None:
        """Erase the progress."""
        self._progress.erase()

    def progress(self, text: str) -> None:
        """Show the progress: in place on a terminal, elsewhere as a line every two seconds."""
        if self._progress.is_on_terminal:
            self._progress.draw(text)
        elif self._now() >= self._next_line:
            self._next_line = self._now() + _SECONDS_BETWEEN_LINES
            self.line(text)

    def paint(self, text: str, colour: str) -> str:
        """Return a text in ``bold``, ``dim`` or a colour, if the stream has colours."""
        return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m" if self._has_colours else text

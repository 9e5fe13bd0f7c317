"""Writing to a terminal, or to whatever stands in for one."""

from __future__ import annotations

import os
import shutil
import time
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable

_COLOURS = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}
_NARROWEST, _WIDEST = 60, 120
# A line for each look at the clock would fill a log file.
_SECONDS_BETWEEN_LINES = 2.0


class Screen:
    """Where the demo writes: plain lines, colours and a line that changes where there can be.

    Args:
        stream: The stream.
        now: Tells the time in seconds.
    """

    def __init__(self, stream: TextIO, now: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._now = now
        self._is_terminal = stream.isatty() and os.environ.get("TERM") != "dumb"
        self._has_colours = self._is_terminal and not os.environ.get("NO_COLOR")
        self._updating = False
        self._next_line = now() + _SECONDS_BETWEEN_LINES
        columns = shutil.get_terminal_size((80, 24)).columns
        self.width = max(_NARROWEST, min(columns, _WIDEST))

    def line(self, text: str = "") -> None:
        """Write a line."""
        self._write(f"{self._erasure()}{text}\n")

    def clear(self) -> None:
        """Take away what ``progress`` has shown in place."""
        self._write(self._erasure())

    def progress(self, text: str) -> None:
        """Show how far things are: in place on a terminal, elsewhere a line now and then."""
        if self._is_terminal:
            erasure = self._erasure()
            self._updating = True
            self._write(erasure + text[: self.width - 1])
        elif self._now() >= self._next_line:
            self._next_line = self._now() + _SECONDS_BETWEEN_LINES
            self._write(f"{text}\n")

    def paint(self, text: str, colour: str) -> str:
        """Return a text in ``bold``, ``dim`` or a colour, if there are any."""
        return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m" if self._has_colours else text

    def _erasure(self) -> str:
        erasure = "\r\x1b[K" if self._updating else ""
        self._updating = False
        return erasure

    def _write(self, text: str) -> None:
        self._stream.write(text)
        # Nothing may wait in the buffer when a child is forked: it would write it once more.
        self._stream.flush()

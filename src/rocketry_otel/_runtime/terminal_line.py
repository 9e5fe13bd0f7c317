"""One line of a terminal that shows progress.

In: texts. Out: a line on a terminal, where each text replaces the one before.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TextIO

_ERASE = "\r\x1b[K"


class TerminalLine:
    """A line that changes in place on a terminal; other streams get no text.

    Args:
        stream: The stream; ``None`` if the process has none.
    """

    def __init__(self, stream: TextIO | None) -> None:
        is_terminal = stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"
        self._terminal = stream if is_terminal else None
        self._is_drawn = False

    @property
    def is_on_terminal(self) -> bool:
        """Whether the stream is a terminal that can erase a line."""
        return self._terminal is not None

    def draw(self, text: str) -> None:
        """Replace the line by a text, cut to the width of the terminal."""
        # A text as wide as the terminal wraps, and the next text could not erase it.
        self._write(_ERASE + text[: shutil.get_terminal_size().columns - 1])
        self._is_drawn = True

    def erase(self) -> None:
        """Erase the line, if one is drawn."""
        if self._is_drawn:
            self._write(_ERASE)
            self._is_drawn = False

    def _write(self, text: str) -> None:
        if self._terminal is not None:
            self._terminal.write(text)
            # A forked child would write the rest of the buffer a second time.
            self._terminal.flush()

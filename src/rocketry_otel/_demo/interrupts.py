"""Signals that end the demo early, after it has cleaned up.

In: SIGINT (Ctrl-C), SIGTERM, or SIGHUP (the terminal is closed). Out: ``KeyboardInterrupt``, so
that ``finally`` removes the folder of the demo. While runs go on, the first signal is a note
instead: the demo ends its runs first.
"""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


class Interrupts:
    """The signals that have come.

    Attributes:
        number: The first signal, or ``None``.
    """

    def __init__(self) -> None:
        """Note nothing yet."""
        self.number: int | None = None
        self._is_only_noted = False
        self._process = os.getpid()

    @property
    def status(self) -> int:
        """The exit status, as a shell has it: 128 and the number of the signal."""
        return 128 + (self.number or 0)

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note the first signal, and raise at the second."""
        self._is_only_noted = True
        try:
            yield
        finally:
            self._is_only_noted = False

    def handle(self, number: int, _frame: object) -> None:
        """Take a signal."""
        if os.getpid() != self._process:
            self._handle_in_child(number)
            return
        is_first = self.number is None
        self.number = self.number or number
        if not (is_first and self._is_only_noted):
            raise KeyboardInterrupt

    def _handle_in_child(self, number: int) -> None:
        # A forked child has this handler until its task begins. The demo ends its children by
        # SIGTERM; the SIGINT of a terminal reaches them, too.
        if number != signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


@contextmanager
def interrupts() -> Iterator[Interrupts]:
    """Handle the signals; SIGTERM and SIGHUP only where they would end the process at once."""
    seen = Interrupts()
    before: dict[signal.Signals, Any] = {}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, seen.handle)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            before[number] = signal.signal(number, seen.handle)
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

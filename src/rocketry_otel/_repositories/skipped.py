"""What a reader does at a stored record that cannot be read: nothing, if it does not count them."""

from __future__ import annotations

from collections.abc import Callable

OnSkipped = Callable[[], None]


def ignore() -> None:
    """Do nothing."""

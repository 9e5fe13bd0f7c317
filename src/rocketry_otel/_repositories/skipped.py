"""Counting the stored records that cannot be read, for whoever reads all of them."""

from __future__ import annotations

import threading


class _Here(threading.local):
    count = 0


_here = _Here()


def pass_over() -> None:
    """Take note that this thread has come upon a record that cannot be read."""
    _here.count += 1


def passed_over() -> int:
    """Return how many times this thread has come upon one."""
    return _here.count

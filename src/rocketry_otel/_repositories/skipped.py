"""Counting stored records that cannot be read, for a reader of all records."""

from __future__ import annotations

import threading


class _Here(threading.local):
    count = 0


_here = _Here()


def pass_over() -> None:
    """Count a record that this thread cannot read."""
    _here.count += 1


def passed_over() -> int:
    """Return how many such records this thread has met."""
    return _here.count

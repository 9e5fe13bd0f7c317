"""The name of a channel: a signal and the destination it goes to."""

from __future__ import annotations


def signal_of(channel: str) -> str:
    """Return the signal that a channel is of, also one of another process."""
    return channel.partition(" ")[0]

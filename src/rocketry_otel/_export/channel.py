"""The name of a channel: a signal, a space, and the destination.

In: the name of a channel, of this process or another. Out: its signal.
"""

from __future__ import annotations


def signal_of(channel: str) -> str:
    """Return the signal of a channel."""
    return channel.partition(" ")[0]

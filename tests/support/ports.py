"""Ports for servers of other processes."""

from __future__ import annotations

import secrets
import socket
from contextlib import ExitStack, suppress

LOOPBACK = "127.0.0.1"
# Below those that Linux gives to outgoing connections: one of these might take a port between the
# moment when it is found to be free and the server's start, or while the server is down.
_CANDIDATES = range(15_000, 32_768)


def free_ports(count: int) -> list[int]:
    """Return different ports that are free at this moment."""
    with ExitStack() as all_at_once:
        found: list[int] = []
        while len(found) < count:
            sock = all_at_once.enter_context(socket.socket())
            with suppress(OSError):
                sock.bind((LOOPBACK, secrets.choice(_CANDIDATES)))
                found.append(sock.getsockname()[1])
        return found

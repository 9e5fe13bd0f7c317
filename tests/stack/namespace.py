"""A network of its own for the thread that tests run in: its ports are nobody else's."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x4000_0000
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1


@contextmanager
def own_network() -> Iterator[None]:
    """Leave the machine's network for a new one with a loopback interface, and come back.

    It is for this thread, and for the processes that it starts. Sockets stay where they were made.
    """
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        _check(_LIBC.unshare(_CLONE_NEWNET))
        try:
            with socket.socket() as any_socket:
                request = struct.pack("16sH14x", b"lo", _IFF_UP)
                fcntl.ioctl(any_socket, _SIOCSIFFLAGS, request)
            yield
        finally:
            _check(_LIBC.setns(before, _CLONE_NEWNET))
    finally:
        os.close(before)


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))

"""HTTP whose answers are bounded in bytes and in time.

In: a limit for the requests of this thread, and requests of the HTTP library. Out: answers, or an
error as soon as the limit is reached. The HTTP library's time-out bounds only each single read: an
answer of one byte every nine seconds would keep a thread for ever.
"""

from __future__ import annotations

import io
import threading
import time
from contextlib import contextmanager
from functools import cache
from http.client import HTTPResponse
from typing import TYPE_CHECKING, Any

from requests.adapters import HTTPAdapter

if TYPE_CHECKING:
    from collections.abc import Iterator

# A TLS socket bounds the time of each record that it writes, not of all: so each piece is bounded.
_PIECE = 64 * 1024
# A socket with a time-out of 0 does not wait at all.
_LEAST_TIMEOUT = 0.001


class _Limit(threading.local):
    """The time and the bytes that the requests of this thread may still use."""

    deadline = float("inf")
    bytes_left: float = float("inf")

    def set_timeout(self, sock: Any) -> None:
        """Let the next operation of a socket end by the deadline."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        sock.settimeout(max(left, _LEAST_TIMEOUT) if left <= threading.TIMEOUT_MAX else None)


_limit = _Limit()


@contextmanager
def limit(seconds: float | None, most_bytes: int) -> Iterator[None]:
    """Bound the sum of all requests of this thread within the block.

    Args:
        seconds: The most seconds; ``None`` for no limit.
        most_bytes: The most bytes to read, heads of answers included.
    """
    _limit.deadline = float("inf") if seconds is None else time.monotonic() + seconds
    _limit.bytes_left = most_bytes
    try:
        yield
    finally:
        del _limit.deadline, _limit.bytes_left


class _BoundedReader(io.RawIOBase):
    """The bytes of a socket, up to the limit of the thread."""

    def __init__(self, raw: Any, sock: Any) -> None:
        super().__init__()
        self._raw = raw
        self._sock = sock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        _limit.set_timeout(self._sock)
        count: int | None = self._raw.readinto(buffer)
        _limit.bytes_left -= count or 0
        if _limit.bytes_left < 0:
            raise OSError("the answer is too long")
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _BoundedResponse(HTTPResponse):
    """An answer that is read through a bounded reader, its head too."""

    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        unbounded: Any = self.fp
        self.fp = io.BufferedReader(_BoundedReader(unbounded.detach(), sock))


class _Bounded:
    """A connection that sends in pieces up to the deadline, and reads bounded answers."""

    response_class = _BoundedResponse
    sock: Any
    connect: Any

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        view = memoryview(data)
        for start in range(0, len(view), _PIECE):
            _limit.set_timeout(self.sock)
            super().send(view[start : start + _PIECE])  # type: ignore[misc]  # the connection's


@cache
def _bounded(pool: type[Any]) -> type[Any]:
    """Return a class of connection pools with bounded connections."""
    connection = type("Connection", (_Bounded, pool.ConnectionCls), {})
    return type("Pool", (pool,), {"ConnectionCls": connection})


def _bound(manager: Any) -> None:
    classes = manager.pool_classes_by_scheme
    manager.pool_classes_by_scheme = {
        scheme: pool if issubclass(pool.ConnectionCls, _Bounded) else _bounded(pool)
        for scheme, pool in classes.items()
    }


class BoundedAdapter(HTTPAdapter):
    """Sends the requests of a session, within the limit of the thread."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the connections to collectors bounded ones."""
        super().init_poolmanager(*args, **kwargs)
        _bound(self.poolmanager)

    def proxy_manager_for(self, proxy: Any, **kwargs: Any) -> Any:
        """Make the connections to a proxy bounded ones."""
        manager = super().proxy_manager_for(proxy, **kwargs)
        _bound(manager)
        return manager

"""Keeps instrumented libraries from tracing our own reads, writes and requests.

In: a block of our own code. Out: the same block, for which instrumented libraries (SQLAlchemy,
sqlite3, psycopg, pymongo, requests, urllib3) make no spans. OpenTelemetry's own exporters use the
same key in the context. Code of the application runs outside of such blocks.
"""

from __future__ import annotations

from contextlib import ContextDecorator
from typing import TYPE_CHECKING

from opentelemetry.context import (
    _SUPPRESS_INSTRUMENTATION_KEY,
    attach,
    detach,
    get_value,
    set_value,
)

if TYPE_CHECKING:
    from contextvars import Token

    from opentelemetry.context import Context


def suppress() -> None:
    """Suppress instrumentation on this thread to its end."""
    attach(set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))  # noqa: FBT003  # a value


def is_suppressed() -> bool:
    """Return whether the caller is inside such a block, of ours or of an exporter."""
    return bool(get_value(_SUPPRESS_INSTRUMENTATION_KEY))


class suppressed(ContextDecorator):  # noqa: N801  # used like a function
    """Suppress instrumentation within the block; as a decorator, within the function."""

    # Not a generator: each record enters it, and this takes a third of the time.
    _token: Token[Context]

    def _recreate_cm(self) -> suppressed:
        # A decorated function may run on several threads at once.
        return suppressed()

    def __enter__(self) -> None:
        value = set_value(_SUPPRESS_INSTRUMENTATION_KEY, True)  # noqa: FBT003  # a value
        self._token = attach(value)

    def __exit__(self, *_: object) -> None:
        detach(self._token)

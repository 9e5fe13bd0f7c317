"""Keeps instrumented libraries from tracing our own reads, writes and requests.

In: a block of our own code. Out: the same block, for which instrumented libraries (SQLAlchemy,
sqlite3, psycopg, pymongo, requests, urllib3) make no spans. OpenTelemetry's own exporters use the
same key in the context. Code of the application runs outside of such blocks.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from opentelemetry.context import (
    _SUPPRESS_INSTRUMENTATION_KEY,
    attach,
    detach,
    get_value,
    set_value,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


def suppress() -> None:
    """Suppress instrumentation on this thread to its end."""
    attach(set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))  # noqa: FBT003  # a value


def is_suppressed() -> bool:
    """Return whether the caller is inside such a block, of ours or of an exporter."""
    return bool(get_value(_SUPPRESS_INSTRUMENTATION_KEY))


@contextmanager
def suppressed() -> Iterator[None]:
    """Suppress instrumentation within the block; as a decorator, within the function."""
    token = attach(set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))  # noqa: FBT003  # a value
    try:
        yield
    finally:
        detach(token)

"""The records of a repository of any kind, read as catch-up and replay read them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from redbird.base import BaseRepo

from rocketry_otel._history.streams.base import Window
from rocketry_otel._history.streams.stream_of import stream_of


def records(
    repo: BaseRepo, since: int = 0, until: int = Window().until
) -> Iterator[dict[str, Any]]:
    """Give the fields of each record that was created in a time, in nanoseconds."""
    return stream_of(repo).read(Window(since, until))

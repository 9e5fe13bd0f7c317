"""Interim."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redbird.oper import greater_equal

from ._events import nanoseconds
from ._stored import fields_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redbird import BaseRepo


def records(repo: BaseRepo, since: int = 0, until: int | None = None) -> Iterator[dict[str, Any]]:
    """Interim."""
    for item in repo.filter_by(created=greater_equal(since / 1e9 - 1e-3)):
        fields = fields_of(item)
        created = nanoseconds(fields.get("created"))
        if created >= since and (until is None or created <= until):
            yield fields

"""What Red Bird's repositories lack to be told of a fork."""

from __future__ import annotations


class Referable:
    """Lets an object of a pydantic model be referred to weakly."""

    __slots__ = ("__weakref__",)

"""Weak references to Red Bird's repositories, which the hooks of a fork need."""

from __future__ import annotations


class Referable:
    """A pydantic model that allows weak references."""

    __slots__ = ("__weakref__",)

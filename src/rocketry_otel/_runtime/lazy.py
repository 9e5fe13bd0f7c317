"""An attribute that is made when it is first read.

``functools.cached_property`` has a lock before Python 3.12, for which a forked child could wait for
good.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class lazy(Generic[T]):  # noqa: N801  # it is used as a decorator
    """Makes an attribute of a method, which is called once for each object."""

    def __init__(self, make: Callable[[Any], T]) -> None:
        self._make = make
        self.__doc__ = make.__doc__

    def __get__(self, owner: Any, _class: type) -> T:
        value = owner.__dict__[self._make.__name__] = self._make(owner)
        return value

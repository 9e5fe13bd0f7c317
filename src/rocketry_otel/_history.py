"""Reading the history that a repository keeps, as a stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._stores import Window, store_of
from ._unreadable import passed_over

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redbird.base import BaseRepo


def records(
    repo: BaseRepo,
    since: int = 0,
    until: int | None = None,
    unreadable: Callable[[int], None] | None = None,
) -> Iterator[dict[str, Any]]:
    """Give the fields of each stored record, in the order in which they were added.

    The caller may take any time between two of them: no transaction, lock or connection is held
    meanwhile. It may be done in another thread than that which adds records. What cannot be
    read is left out, with a warning; and what is added meanwhile may be.

    Where a repository of Red Bird's own does not tell the order, it is that of ``created``.

    Args:
        repo: The repository, of any kind and model.
        since: Only those created at this time or later, in nanoseconds since the epoch.
        until: Only those created at this time or before.
        unreadable: Told how many more cannot be read.
    """
    window = Window(since) if until is None else Window(since, until)
    found = store_of(repo).read(window)
    while True:
        before = passed_over()
        fields = next(found, None)
        # The caller may look into the repository meanwhile, and come upon the same ones.
        if unreadable is not None:
            unreadable(passed_over() - before)
        if fields is None:
            return
        yield fields

"""Locks between processes, which the operating system releases when a process dies.

In: the path of a file. Out: whether this process holds the lock on it.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from .forks import after_fork_in_child, no_fork
from .private_files import open_private

if TYPE_CHECKING:
    from pathlib import Path


class _HeldFiles:
    """The descriptors of all locks that this process holds.

    A forked child has copies of them. A child that kept one would hold the lock after its parent's
    end. It closes all of them here, because a lock that no object refers to in the child would not
    be reset there. Closing a copy does not unlock the file.
    """

    def __init__(self) -> None:
        self.files: set[int] = set()
        after_fork_in_child(self._close_copies)

    def _close_copies(self) -> None:
        for file in self.files:
            os.close(file)
        self.files.clear()


_held = _HeldFiles()


class FileLock:
    """A lock on a file, held until it is released or the process ends in any way.

    Args:
        path: The file.
        like: See ``open_private``.
    """

    def __init__(self, path: Path, like: Path | None = None) -> None:
        self.path = path
        self._like = like
        self._file: int | None = None
        after_fork_in_child(self._leave_it_to_the_parent)

    def _leave_it_to_the_parent(self) -> None:
        self._file = None

    @property
    def is_held(self) -> bool:
        """Whether this process holds the lock by this object."""
        return self._file is not None

    def acquire(self, *, create: bool = True) -> bool:
        """Take the lock if no other process has it; never waits.

        Args:
            create: Whether to make the file if it is missing.

        Returns:
            Whether this process holds the lock now.

        Raises:
            FileNotFoundError: The file is missing, and ``create`` is false.
            OSError: The file cannot be opened or locked.
        """
        if self._file is not None:
            return True
        # A child that is forked meanwhile would have a copy that it does not know.
        with no_fork:
            file = open_private(self.path, os.O_RDWR | (os.O_CREAT if create else 0), self._like)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                return False
            except BaseException:
                os.close(file)
                raise
            _held.files.add(file)
            self._file = file
        return True

    def is_in_place(self) -> bool:
        """Return whether the lock is held on the file that other processes see at its path."""
        if self._file is None:
            return False
        try:
            return os.path.samestat(os.fstat(self._file), self.path.stat())
        except OSError:
            return False

    def release(self) -> None:
        """Release the lock, if it is held."""
        if self._file is not None:
            with no_fork:
                file, self._file = self._file, None
                _held.files.discard(file)
                # Closing alone would leave it locked by a copy, such as that of a child that has
                # not yet begun its own program.
                fcntl.flock(file, fcntl.LOCK_UN)
                os.close(file)

    def remove(self) -> None:
        """Remove the file, if possible, and release the lock."""
        with suppress(OSError):
            self.path.unlink()
        self.release()

"""Locks between processes, which one that has died cannot hold."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from .forks import after_fork_in_child

if TYPE_CHECKING:
    from pathlib import Path


class FileLock:
    """A lock on a file, held until it is let go or the process ends, however it ends.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None
        after_fork_in_child(self._leave_it_to_the_parent)

    def _leave_it_to_the_parent(self) -> None:
        # To close it here does not unlock it, while to keep it would: a child that outlives its
        # parent would hold the lock on.
        if self._file is not None:
            os.close(self._file)
            self._file = None

    @property
    def is_held(self) -> bool:
        """Whether this process holds it by this object."""
        return self._file is not None

    def acquire(self, *, create: bool = True) -> bool:
        """Take the lock if nobody has it.

        Args:
            create: Whether to make the file if it is missing.

        Returns:
            Whether it is held now.

        Raises:
            FileNotFoundError: The file is missing, and not to be made.
            OSError: The file cannot be opened or locked.
        """
        if self._file is not None:
            return True
        file = os.open(self.path, os.O_RDWR | (os.O_CREAT if create else 0), 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return False
        except BaseException:
            os.close(file)
            raise
        self._file = file
        return True

    def is_in_place(self) -> bool:
        """Return whether it is held on the very file that others see at its path."""
        if self._file is None:
            return False
        try:
            return os.path.samestat(os.fstat(self._file), self.path.stat())
        except OSError:
            return False

    def release(self) -> None:
        """Let it go, if it is held."""
        if self._file is not None:
            file, self._file = self._file, None
            os.close(file)

    def remove(self) -> None:
        """Let it go, and remove the file if that can be."""
        with suppress(OSError):
            self.path.unlink()
        self.release()

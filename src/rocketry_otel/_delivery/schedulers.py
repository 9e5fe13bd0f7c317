"""The processes whose schedulers launch runs: which of them are alive.

In: the name of a scheduler's process, as a ``run`` record has it. Out: whether it is alive, and
what those have left that are not. Each process holds a file lock in the folder of the delivery
state. The operating system releases it when the process dies.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from rocketry_otel._runtime.file_lock import FileLock
from rocketry_otel._runtime.forks import after_fork_in_child
from rocketry_otel._runtime.private_files import make_private_folder
from rocketry_otel._runtime.process_name import is_name, is_running, new_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PREFIX = "scheduler-"
# Another process holds the lock of this one for microseconds.
_MOST_TRIES = 100
_SECONDS_OF_A_LOOK = 0.001


class Schedulers:
    """This process and others that launch runs for one repository.

    Args:
        folder: The folder of the delivery state; ``None`` if no other process can use the
            repository.
        like: The file or directory of the repository: nobody else can read the files.

    Attributes:
        name: The name of this process, for its ``run`` records.
    """

    def __init__(self, folder: Path | None, like: Path | None = None) -> None:
        self._folder = folder
        self._like = like
        self._start_afresh()
        after_fork_in_child(self._start_afresh)

    def _start_afresh(self) -> None:
        # It guards the file of this process.
        self._guard = threading.Lock()
        self.name = new_name()
        self._lock: FileLock | None = None
        self._since: int | None = None

    @property
    def is_shown(self) -> bool:
        """Whether others see that this process is alive, if any can use the repository."""
        return self._lock is not None or self._folder is None

    def prove_alive(self, since: int) -> None:
        """Hold the lock by which others see that this process is alive.

        Args:
            since: The time of the oldest run that may be open, in nanoseconds since the epoch.

        Raises:
            OSError: The file cannot be made or locked.
        """
        if self._folder is None:
            return
        with self._guard:
            if self._lock is None:
                make_private_folder(self._folder, self._like)
                lock = FileLock(self._path(self.name), self._like)
                for _ in range(_MOST_TRIES):
                    if lock.acquire() and lock.is_in_place():
                        break
                    # Another process looks whether this one is alive, or has removed the file.
                    lock.release()
                    time.sleep(_SECONDS_OF_A_LOOK)
                self._lock = lock
                self._write(since)

    def note(self, since: int) -> None:
        """Note the time of the oldest run that may be open, for a later process.

        Args:
            since: That time, in nanoseconds since the epoch.
        """
        with self._guard, suppress(OSError):
            if self._lock is not None and since != self._since:
                self._write(since)

    def _write(self, since: int) -> None:
        self._path(self.name).write_bytes(b"%d" % since)
        self._since = since

    def leave(self) -> None:
        """Remove the file of this process: it has no open run. The next run makes it again."""
        with self._guard:
            if self._lock is not None:
                self._lock.remove()
                self._lock = None

    def is_alive(self, name: str) -> bool:
        """Return whether the process of this name is alive."""
        if name == self.name:
            return True
        if not is_name(name):
            return False  # it comes from a record, which may be somebody else's
        if self._folder is not None:
            lock = FileLock(self._path(name), self._like)
            try:
                is_alive = not lock.acquire(create=False)
            except FileNotFoundError:
                # It has the state in another folder, if it is alive.
                return is_running(name)
            except OSError:
                return True  # not known: it is left alone
            lock.release()
            return is_alive
        return is_running(name)

    def has_dead(self) -> bool:
        """Return whether a process is dead that may have left open runs."""
        return any(not self.is_alive(name) for name in self._others())

    @contextmanager
    def of_dead(self) -> Iterator[Iterator[tuple[str, int]]]:
        """Give each dead process, once among all processes: its name, and since when to look.

        It is removed when the next one is asked for. After an error, another look finds it again.
        """
        held: list[FileLock] = []
        try:
            yield self._take_dead(held)
        finally:
            for lock in held:
                lock.release()

    def _take_dead(self, held: list[FileLock]) -> Iterator[tuple[str, int]]:
        for name in self._others():
            lock = FileLock(self._path(name), self._like)
            with suppress(OSError):
                if not lock.acquire(create=False):
                    continue
                held.append(lock)
                yield name, _number_in(lock.path)
                lock.remove()
                held.remove(lock)

    def _others(self) -> list[str]:
        if self._folder is None:
            return []
        found = self._folder.glob(f"{_PREFIX}*.lock")
        names = sorted(path.stem.removeprefix(_PREFIX) for path in found)
        return [name for name in names if name != self.name and is_name(name)]

    def _path(self, name: str) -> Path:
        assert self._folder is not None  # noqa: S101  # asked for by those with a folder alone
        return self._folder / f"{_PREFIX}{name}.lock"


def _number_in(path: Path) -> int:
    """Return the time in a file; 0 if it has none, as after a loss of power."""
    try:
        return int(path.read_bytes())
    except ValueError:
        return 0

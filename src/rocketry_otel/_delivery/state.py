"""What is known, across processes, of what was delivered from one repository."""

from __future__ import annotations

import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING
from uuid import uuid4

from rocketry_otel._runtime.file_lock import FileLock
from rocketry_otel._runtime.forks import after_fork_in_child

from .checkpoint import Backlog, Checkpoint
from .dead_letters import DeadLetters
from .state_db import StateDB, StateError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
    from pathlib import Path

    from .checkpoint import DeadLetter

# Another process holds the lock of this one for microseconds.
_MOST_TRIES = 100
_SECONDS_OF_A_LOOK = 0.001


class State:
    """The state of delivery from one repository.

    Args:
        folder: Where it is stored.

    Attributes:
        refused: What was refused for good.
    """

    is_durable = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._db = StateDB(folder)
        self.refused = DeadLetters(self._db)
        self._start_afresh()
        after_fork_in_child(self._start_afresh)

    def _start_afresh(self) -> None:
        self._writer, self._previous = _new_name(), ""
        self._alive: FileLock | None = None
        self._lease: FileLock | None = None

    @property
    def has_unsaved(self) -> bool:
        """Whether dead letters wait to be stored with the next change."""
        return not self.refused.is_noted

    def add_dead_letters(self, channel: str, refusals: Iterable[DeadLetter], now: float) -> None:
        """Store the records that a destination has refused for good, at a time in seconds.

        Raises:
            StateError: They cannot be stored yet.
        """
        self.refused.add_dead_letters(channel, refusals, now)

    # Each process about itself.

    def save(self, checkpoint: Mapping[str, Checkpoint], first: int) -> None:
        """Note how far this process has come on each channel.

        If nothing at all was known before, for this is the first time or it was lost, that is
        noted too.

        Args:
            checkpoint: How far it has come.
            first: From when on all is known that this process has written itself.

        Raises:
            StateError: It cannot be noted.
        """
        with self.refused.noting() as connection:
            self._prove_alive()
            if not connection.execute("SELECT count(*) FROM channel").fetchone()[0]:
                connection.execute("INSERT INTO unknown VALUES (?)", [first - 1])
            connection.executemany(
                "INSERT OR IGNORE INTO channel VALUES (?)", [(name,) for name in checkpoint]
            )
            # What was left then is still in this process, and so part of how far it has come.
            connection.execute("DELETE FROM writer WHERE id = ?", [self._previous])
            connection.executemany(
                "INSERT OR REPLACE INTO writer VALUES (?, ?, ?, ?)",
                [(self._writer, name, one.since, one.waiting) for name, one in checkpoint.items()],
            )

    def leave(self) -> None:
        """Forget this process: all that it wrote is delivered.

        Raises:
            StateError: It cannot be noted.
        """
        with self.refused.noting() as connection:
            connection.execute("DELETE FROM writer WHERE id = ?", [self._writer])
        self._end(FileLock.remove)

    def end(self) -> None:
        """Show that this process is over, though not all that it wrote is delivered."""
        self._end(FileLock.release)

    def _end(self, let_go: Callable[[FileLock], None]) -> None:
        if self._alive is not None:
            let_go(self._alive)
            self._alive = None
            # Whoever has seen it dead takes over what it left, and does not see it come back.
            self._writer, self._previous = _new_name(), self._writer

    def _prove_alive(self) -> None:
        """Hold the lock by which others know that this process is there."""
        self._alive = self._alive or FileLock(self.folder / f"writer-{self._writer}.lock")
        for _ in range(_MOST_TRIES):
            if self._alive.is_in_place():
                return
            self._alive.release()
            if not self._alive.acquire():
                time.sleep(_SECONDS_OF_A_LOOK)  # somebody looks whether this process is there
        raise StateError(f"{self._alive.path} is locked by another process")

    # One process about all others.

    @contextmanager
    def lease(self) -> Iterator[bool]:
        """Be the one process that sends from the repository; gives whether this is the one.

        Raises:
            StateError: It cannot be told.
        """
        if self._lease is None:
            self._lease = FileLock(self.folder / "catch-up.lock")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            is_ours = self._lease.acquire()
        except OSError as error:
            raise StateError(f"{self.folder}: {error}") from error
        try:
            yield is_ours
        finally:
            self._lease.release()

    def writers(self) -> dict[str, dict[str, Checkpoint]]:
        """Return how far each other process has come, by process and by channel.

        Raises:
            StateError: It cannot be read.
        """
        with self._db.transaction() as connection:
            rows = connection.execute(
                "SELECT id, channel, since, waiting FROM writer WHERE id NOT IN (?, ?)",
                [self._writer, self._previous],
            ).fetchall()
        found: dict[str, dict[str, Checkpoint]] = {}
        for writer, channel, *numbers in rows:
            found.setdefault(writer, {})[channel] = Checkpoint(*numbers)
        return found

    def is_alive(self, writer: str) -> bool:
        """Return whether another process is still there."""
        lock = FileLock(self.folder / f"writer-{writer}.lock")
        try:
            is_alive = not lock.acquire(create=False)
        except FileNotFoundError:
            return False
        except OSError:
            # It cannot be told: whoever looks next time may be able to.
            return True
        lock.release()
        return is_alive

    def backlogs(self) -> dict[str, Backlog]:
        """Return what is to be sent from the repository, by channel.

        Raises:
            StateError: It cannot be read.
        """
        with self._db.transaction() as connection:
            rows = connection.execute(
                "SELECT channel, since, done, mark, waiting, until, reached FROM backlog"
            ).fetchall()
        return {channel: Backlog(*rest) for channel, *rest in rows}

    def unknown_until(self) -> int | None:
        """Return until when it is not known what was delivered, if that is so.

        Raises:
            StateError: It cannot be read.
        """
        with self._db.transaction() as connection:
            (found,) = connection.execute("SELECT max(until) FROM unknown").fetchone()
        return None if found is None else int(found)

    def take_on(
        self,
        backlogs: Mapping[str, Backlog],
        gone: Iterable[tuple[str, str]] = (),
        finished: Iterable[str] = (),
        known_until: int | None = None,
    ) -> None:
        """Note what is to be sent from the repository, in one step with what it replaces.

        Args:
            backlogs: What is to be sent, by channel.
            gone: The processes and channels that it was taken over from.
            finished: Channels of which nothing is to be sent any more.
            known_until: Until when it is now known what is to be sent, if it was not before.

        Raises:
            StateError: It cannot be noted; then nothing is.
        """
        gone = list(gone)
        with self.refused.noting() as connection:
            connection.executemany(
                "DELETE FROM backlog WHERE channel = ?", [(name,) for name in finished]
            )
            connection.executemany(
                "INSERT OR REPLACE INTO backlog VALUES (?, ?, ?, ?, ?, ?, ?)",
                [(channel, *one) for channel, one in backlogs.items()],
            )
            connection.executemany("DELETE FROM writer WHERE id = ? AND channel = ?", gone)
            connection.execute("DELETE FROM unknown WHERE until <= ?", [known_until])
            left = {one for (one,) in connection.execute("SELECT DISTINCT id FROM writer")}
        for writer in {writer for writer, _ in gone} - left:
            with suppress(OSError):
                (self.folder / f"writer-{writer}.lock").unlink()

    def sweep(self, known: Collection[str]) -> None:
        """Remove what a process has left that was killed before it noted anything.

        Args:
            known: The processes that have noted something.
        """
        for path in self.folder.glob("writer-*.lock"):
            if path.stem.removeprefix("writer-") in {*known, self._writer}:
                continue
            lock = FileLock(path)
            with suppress(OSError):
                if lock.acquire(create=False):
                    lock.remove()

    def is_known(self) -> bool:
        """Return whether it is known of all that was written whether it was delivered.

        Raises:
            StateError: It cannot be read.
        """
        with self._db.transaction() as connection:
            (channels,) = connection.execute("SELECT count(*) FROM channel").fetchone()
            (unknown,) = connection.execute("SELECT count(*) FROM unknown").fetchone()
        return bool(channels) and not unknown

    def undelivered(self) -> list[tuple[str, str, int]]:
        """Return since when something may not be delivered, in nanoseconds since the epoch.

        Returns:
            The process, this one among them, the channel and the time; and the same with no
            process for what is to be sent from the repository.

        Raises:
            StateError: It cannot be read.
        """
        with self._db.transaction() as connection:
            return connection.execute(
                "SELECT id, channel, since FROM writer "
                "UNION ALL SELECT '', channel, since FROM backlog"
            ).fetchall()


def _new_name() -> str:
    return uuid4().hex[:16]

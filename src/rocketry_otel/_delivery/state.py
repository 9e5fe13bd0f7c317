"""The delivery progress of one repository, shared by all processes that use it."""

from __future__ import annotations

import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING
from uuid import uuid4

from rocketry_otel._runtime.file_lock import FileLock
from rocketry_otel._runtime.forks import after_fork_in_child
from rocketry_otel._runtime.private_files import make_private_folder

from .checkpoint import Backlog, Checkpoint
from .dead_letters import DeadLetters
from .state_db import StateDB, StateError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
    from pathlib import Path

    from .checkpoint import DeadLetter

# Another process that looks holds the lock of this one for microseconds.
_MOST_TRIES = 100
_SECONDS_OF_A_LOOK = 0.001


class State:
    """The delivery progress of one repository: checkpoints, backlogs, dead letters.

    Args:
        folder: Where it is stored.
        like: The file or directory of the repository: nobody else can read the state. Without
            it, only the owner can.

    Attributes:
        refused: The dead letters.
    """

    is_durable = True

    def __init__(self, folder: Path, like: Path | None = None) -> None:
        self.folder = folder
        self._like = like
        self._db = StateDB(folder, like)
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
        return not self.refused.is_saved

    def add_dead_letters(self, channel: str, refusals: Iterable[DeadLetter], now: float) -> None:
        """Store the records that a destination has refused for good, at a time in seconds.

        Raises:
            StateError: They cannot be stored yet.
        """
        self.refused.add_dead_letters(channel, refusals, now)

    # The checkpoint of this process.

    def save(self, checkpoint: Mapping[str, Checkpoint], first: int) -> None:
        """Store how far this process has come on each channel.

        If the file is new, or was lost, the time until which nothing is known is stored too.

        Args:
            checkpoint: How far it has come, by channel.
            first: From when on the checkpoints of this process are complete, in nanoseconds since
                the epoch.

        Raises:
            StateError: It cannot be stored.
        """
        with self.refused.transaction() as connection:
            self._prove_alive()
            if not connection.execute("SELECT count(*) FROM channel").fetchone()[0]:
                connection.execute("INSERT INTO unknown VALUES (?)", [first - 1])
            connection.executemany(
                "INSERT OR IGNORE INTO channel VALUES (?)", [(name,) for name in checkpoint]
            )
            # Those items are still in this process, so its new checkpoint has them.
            connection.execute("DELETE FROM writer WHERE id = ?", [self._previous])
            connection.executemany(
                "INSERT OR REPLACE INTO writer VALUES (?, ?, ?, ?)",
                [(self._writer, name, one.since, one.waiting) for name, one in checkpoint.items()],
            )

    def leave(self) -> None:
        """Remove the checkpoint of this process: all its records are delivered.

        Raises:
            StateError: It cannot be stored.
        """
        with self.refused.transaction() as connection:
            connection.execute("DELETE FROM writer WHERE id = ?", [self._writer])
        self._end(FileLock.remove)

    def end(self) -> None:
        """Let another process take over: not all records of this one are delivered."""
        self._end(FileLock.release)

    def _end(self, let_go: Callable[[FileLock], None]) -> None:
        if self._alive is not None:
            let_go(self._alive)
            self._alive = None
            # A process that takes over has seen the old name dead: it must stay dead.
            self._writer, self._previous = _new_name(), self._writer

    def _lock(self, name: str) -> FileLock:
        return FileLock(self.folder / name, self._like)

    def _prove_alive(self) -> None:
        """Hold the lock that shows other processes that this one is alive."""
        self._alive = self._alive or self._lock(f"writer-{self._writer}.lock")
        for _ in range(_MOST_TRIES):
            if self._alive.is_in_place():
                return
            self._alive.release()
            if not self._alive.acquire():
                time.sleep(_SECONDS_OF_A_LOOK)  # another process holds it to look
        raise StateError(f"{self._alive.path} is locked by another process")

    # The backlogs, and other processes.

    @contextmanager
    def lease(self) -> Iterator[bool]:
        """Try to be the only process that sends from the repository; give whether it is.

        Raises:
            StateError: The lock cannot be used.
        """
        if self._lease is None:
            self._lease = self._lock("catch-up.lock")
        try:
            make_private_folder(self.folder, self._like)
            is_ours = self._lease.acquire()
        except OSError as error:
            raise StateError(f"{self.folder}: {error}") from error
        try:
            yield is_ours
        finally:
            self._lease.release()

    def writers(self) -> dict[str, dict[str, Checkpoint]]:
        """Return the checkpoints of other processes, by process and by channel.

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
        """Return whether another process is alive."""
        lock = self._lock(f"writer-{writer}.lock")
        try:
            is_alive = not lock.acquire(create=False)
        except FileNotFoundError:
            return False
        except OSError:
            # Unknown for now: the next look may succeed.
            return True
        lock.release()
        return is_alive

    def backlogs(self) -> dict[str, Backlog]:
        """Return the backlogs by channel.

        Raises:
            StateError: They cannot be read.
        """
        with self._db.transaction() as connection:
            rows = connection.execute(
                "SELECT channel, since, done, mark, waiting, until, reached FROM backlog"
            ).fetchall()
        return {channel: Backlog(*rest) for channel, *rest in rows}

    def unknown_until(self) -> int | None:
        """Return the time until which no delivery is known, in nanoseconds since the epoch.

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
        """Store backlogs in one transaction with the checkpoints that they replace.

        Args:
            backlogs: The backlogs by channel.
            gone: The processes and channels whose checkpoints are removed.
            finished: The channels whose backlogs are removed.
            known_until: The unknown time until this is covered by the backlogs, if it is given.

        Raises:
            StateError: They cannot be stored; then nothing has changed.
        """
        gone = list(gone)
        with self.refused.transaction() as connection:
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
        """Remove the locks of processes that were killed before they stored a checkpoint.

        Args:
            known: The processes that have stored one.
        """
        for path in self.folder.glob("writer-*.lock"):
            if path.stem.removeprefix("writer-") in {*known, self._writer}:
                continue
            lock = self._lock(path.name)
            with suppress(OSError):
                if lock.acquire(create=False):
                    lock.remove()

    def is_known(self) -> bool:
        """Return whether the delivery of all records is known.

        Raises:
            StateError: It cannot be read.
        """
        with self._db.transaction() as connection:
            (channels,) = connection.execute("SELECT count(*) FROM channel").fetchone()
            (unknown,) = connection.execute("SELECT count(*) FROM unknown").fetchone()
        return bool(channels) and not unknown

    def undelivered(self) -> list[tuple[str, str, int]]:
        """Return since when records may be undelivered, in nanoseconds since the epoch.

        Returns:
            The process, the channel and the time of each checkpoint, those of this process
            included; and for each backlog the same with an empty process.

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

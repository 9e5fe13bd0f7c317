"""The CSV file itself: its columns, its rows, its lock."""

from __future__ import annotations

import csv
import fcntl
import io
import os
from contextlib import contextmanager, suppress
from threading import Lock
from typing import TYPE_CHECKING, Any, BinaryIO
from uuid import uuid4

from rocketry_otel._errors import RepositoryMismatchError
from rocketry_otel._model.record import TaskEventRecord
from rocketry_otel._runtime.private_files import is_link, is_own_file, open_private

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

COLUMNS = list(TaskEventRecord.__fields__)


# Of a file's end, to recognize it: a new file may get the inode of a removed one.
_TAIL = 256


class Mark:
    """A place in a file, up to which a reader knows it.

    Attributes:
        end: The place, in bytes.
    """

    def __init__(self, inode: int = 0, end: int = 0, tail: bytes = b"") -> None:
        self.end = end
        self._inode = inode
        self._tail = tail

    @classmethod
    def at(cls, file: BinaryIO, end: int) -> Mark:
        """Mark a place in a file."""
        start = max(end - _TAIL, 0)
        file.seek(start)
        return cls(os.fstat(file.fileno()).st_ino, end, file.read(end - start))

    def after(self, row: bytes) -> Mark:
        """Mark the place after a row that was added just here."""
        return Mark(self._inode, self.end + len(row), (self._tail + row)[-_TAIL:])

    def is_end_of(self, file: int) -> bool:
        """Return whether an open file is still the same, and ends here."""
        status = os.fstat(file)
        return (status.st_ino, status.st_size) == (self._inode, self.end) and os.pread(
            file, _TAIL, self.end - len(self._tail)
        ) == self._tail

    def is_in(self, file: BinaryIO) -> bool:
        """Return whether this is still the same file, unchanged up to here."""
        if os.fstat(file.fileno()).st_ino != self._inode:
            return False
        file.seek(self.end - len(self._tail))
        return file.read(len(self._tail)) == self._tail


class KeptFile:
    """The file, opened once to read and append, for the threads of one process.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        # The lock on the file excludes other processes, not threads with the same open file.
        self._turn = Lock()

    def leave_to_the_parent(self) -> None:
        """Start afresh in a forked child.

        The copy is closed, which does not unlock the file. Otherwise it would keep the lock of a
        parent that is killed.
        """
        self.close()
        self._turn = Lock()

    def close(self) -> None:
        """Close the file; it is opened again when it is needed."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    @contextmanager
    def locked(self) -> Iterator[int]:
        """Lock the file at the path, while no other writer has it; yield its descriptor."""
        with self._turn:
            while True:
                if self._file is None:
                    self._file = os.open(
                        self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666
                    )
                file = self._file
                _lock(file, fcntl.LOCK_EX)
                try:
                    # Since it was opened, it may have been removed, or a new one put there.
                    if is_at(self._path, file):
                        yield file
                        return
                finally:
                    # A child forked meanwhile has the file open, too: closing would not unlock it.
                    _lock(file, fcntl.LOCK_UN)
                self.close()


@contextmanager
def locked_beside(path: Path, like: Path) -> Iterator[BinaryIO]:
    """Open a file of ours beside the repository, while no other writer has it.

    It is not reached through a link, and anything that somebody else has put there is removed.

    Args:
        path: The file.
        like: The repository.
    """
    while True:
        with _beside(path, like) as file:
            _lock(file.fileno(), fcntl.LOCK_EX)
            try:
                # During the wait for the lock, another process may have put a new file there.
                if is_at(path, file.fileno()):
                    if not is_own_file(file.fileno()):
                        path.unlink()
                        continue
                    file.seek(0)
                    yield file
                    return
            finally:
                # A child forked meanwhile has the file open, too: closing would not unlock it.
                _lock(file.fileno(), fcntl.LOCK_UN)


def reader_of(file: int) -> BinaryIO:
    """Return a reader of an open file, which begins with an empty buffer."""
    return open(file, "rb", closefd=False)


def _beside(path: Path, like: Path) -> BinaryIO:
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
    try:
        return os.fdopen(open_private(path, flags, like), "a+b")
    except OSError as error:
        # Python refuses to append to a pipe.
        if not (is_link(error) or isinstance(error, io.UnsupportedOperation)):
            raise
    path.unlink(missing_ok=True)
    return os.fdopen(open_private(path, flags, like), "a+b")


def keep_damaged(path: Path, like: Path, rest: bytes) -> Path:
    """Append the rest of a row to a file; return the file that has it now.

    Args:
        path: The file. If somebody else has put one there, or a link, another name is chosen.
        like: The repository.
        rest: The rest of the row.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
    with suppress(OSError), os.fdopen(open_private(path, flags, like), "a+b") as file:
        if is_own_file(file.fileno()):
            file.write(rest)
            return path
    path = path.with_name(f"{path.name}-{uuid4().hex[:12]}")
    with os.fdopen(open_private(path, flags | os.O_EXCL, like), "a+b") as file:
        file.write(rest)
    return path


def _lock(file: int, operation: int) -> None:
    # Some network file systems have no locks. Threads still take turns, in the log handler.
    with suppress(OSError):
        fcntl.flock(file, operation)


def is_at(path: Path, file: int) -> bool:
    """Return whether an open file is the one at a path."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(file))  # noqa: PTH116  # at each record
    except FileNotFoundError:
        return False


def check_header(path: Path, file: BinaryIO) -> None:
    """Compare the columns of a file with those of a record.

    Raises:
        RepositoryMismatchError: They differ.
    """
    # Excel puts a byte order mark first.
    first = file.readline().decode("utf-8-sig", "backslashreplace").replace("\0", "\\x00")
    if not first.endswith("\n") and rendered(COLUMNS).decode().startswith(first):
        # Empty, or a header that a kill cut short.
        return
    found = next(csv.reader([first]))
    if found == COLUMNS:
        return
    missing = [name for name in COLUMNS if name not in found]
    unexpected = [name for name in found if name not in COLUMNS]
    differences = [
        f"{what}: {', '.join(names)}"
        for what, names in (("missing", missing), ("unexpected", unexpected))
        if names
    ] or [f"their order is not {', '.join(COLUMNS)}"]
    raise RepositoryMismatchError(
        f"the columns of {path} are not those of task events: {'; '.join(differences)}. Choose "
        "another file for new records; rocketry-otel replay sends those of this one."
    )


def complete_rows(file: BinaryIO) -> Iterator[bytes]:
    """Yield each row that ends in a newline outside of quotes."""
    parts, quotes = [], 0
    for line in file:
        parts.append(line)
        # A quote within a field is written twice.
        quotes += line.count(b'"')
        if quotes % 2 == 0 and line.endswith(b"\n"):
            yield b"".join(parts)
            parts, quotes = [], 0


def rendered(values: Iterable[Any]) -> bytes:
    """Return a row in the form of the file."""
    text = io.StringIO(newline="")
    csv.writer(text).writerow(values)
    return text.getvalue().encode()


def write_all(file: int, data: bytes) -> None:
    """Write to the end of an open file."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]

"""Files of ours under fixed names, beside a repository.

In: a path, and the file or directory of the repository. Out: a file that is not reached through a
link, and that nobody can read who cannot read the repository.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_READ_AND_WRITE = 0o666
_OWNERS = 0o600
_OTHERS = 0o006


def open_private(path: Path, flags: int, like: Path | None) -> int:
    """Open a file, and create it if ``flags`` have ``O_CREAT``.

    Args:
        path: The file.
        flags: Flags of ``os.open``.
        like: The repository. Without it, only the owner can read the file.

    Returns:
        A file descriptor.

    Raises:
        OSError: The file cannot be opened. With the number ``ELOOP`` it is a link.
    """
    file = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, _mode(like, os.getegid()))
    status = os.fstat(file)
    # An earlier version created it with a wider mode, or the repository has another group.
    _narrow(file, status, _mode(like, status.st_gid))
    return file


def make_private_folder(folder: Path, like: Path | None) -> None:
    """Make a folder, with its parents, or make sure that an existing one may be used.

    Args:
        folder: The folder.
        like: The repository. Without it, only the owner can read the folder.

    Raises:
        OSError: It cannot be made, or it is a link of somebody else.
    """
    mode = _with_entry(_mode(like, os.getegid()))
    with suppress(FileExistsError):
        try:
            folder.mkdir(mode)
        except FileNotFoundError:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode)
    status = folder.lstat()
    if stat.S_ISLNK(status.st_mode):
        if status.st_uid not in {os.geteuid(), 0}:
            raise OSError(errno.ELOOP, "this is a link of somebody else", str(folder))
        status = folder.stat()
    _narrow(folder, status, _with_entry(_mode(like, status.st_gid)))


def create_private(path: Path, like: Path | None) -> None:
    """Create an empty file if it is missing, and let no more people read an existing one.

    An existing file is not opened: closing it would release SQLite's locks in this process.

    Raises:
        OSError: It cannot be created. With the number ``ELOOP`` it is a link.
    """
    with suppress(FileExistsError):
        os.close(open_private(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, like))
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        raise OSError(errno.ELOOP, "this is a link", str(path))
    _narrow(path, status, _mode(like, status.st_gid))


def is_link(error: OSError) -> bool:
    """Return whether a file was not opened because it is a link."""
    return error.errno == errno.ELOOP


def is_own_file(file: int) -> bool:
    """Return whether a file is a regular one of this user, under one name."""
    status = os.fstat(file)
    is_own = status.st_uid == os.geteuid() and status.st_nlink == 1
    return stat.S_ISREG(status.st_mode) and is_own


def take_mode(file: int, like: Path) -> None:
    """Give a file the group and the mode of another one, as far as that is allowed."""
    wanted = like.stat()
    with suppress(OSError):
        os.fchown(file, -1, wanted.st_gid)
    is_same = os.fstat(file).st_gid == wanted.st_gid
    os.fchmod(file, stat.S_IMODE(wanted.st_mode) if is_same else _mode(like, -1))


def _mode(like: Path | None, group: int) -> int:
    """Return the widest mode of a file with this group."""
    try:
        status = None if like is None else like.stat()
    except OSError:
        status = None
    if status is None:
        return _OWNERS
    mode = status.st_mode & _READ_AND_WRITE
    if status.st_gid != group:
        # Members of either group may be anyone to the other.
        common = mode >> 3 & mode & _OTHERS
        mode = common << 3 | common
    return mode | _OWNERS


def _with_entry(mode: int) -> int:
    """Return the mode of a folder: who may read it may enter it."""
    return mode | (mode & 0o444) >> 2


def _narrow(file: int | Path, status: os.stat_result, widest: int) -> None:
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o777 & ~widest:
        # It may belong to another user of the repository.
        with suppress(PermissionError):
            os.chmod(file, mode & (widest | ~0o777))  # noqa: PTH101  # a path or a descriptor

"""Names of hosts and processes, by which a later process finds out whether one still runs.

In: nothing, or a name. Out: a name that no other process has; whether its process runs.
"""

from __future__ import annotations

import os
import re
import socket
from functools import lru_cache
from pathlib import Path
from uuid import uuid4

_NAME = re.compile(r"([1-9][0-9]{0,9})-([0-9]{1,20})-([0-9a-f]{8})", re.ASCII)

# The names that this process has given. A forked child has another process id.
_here: set[str] = set()


@lru_cache(maxsize=1)
def host_name() -> str:
    """Return the name of this host."""
    return socket.gethostname()


def new_name() -> str:
    """Return a name that has the id of this process, and that is given once."""
    name = f"{os.getpid()}-{_start_of(os.getpid()) or 0}-{uuid4().hex[:8]}"
    _here.add(name)
    return name


def is_name(text: str) -> bool:
    """Return whether a text may be a name that a process has given."""
    return _NAME.fullmatch(text) is not None


def is_running(name: str) -> bool:
    """Return whether the process that gave a name runs on this host, as far as that can be seen.

    A process in another container may have the same host name, and is not seen. An id that
    another process has by now is not taken for it where the system shows when processes began.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        return False
    pid, started = int(found[1]), int(found[2])
    if pid == os.getpid():
        # It may be the name of a program that has replaced itself by this one.
        return name in _here
    now = _start_of(pid)
    return _exists(pid) if now is None else now == started


def _start_of(pid: int) -> int | None:
    """Return when a process began, in ticks of the kernel; ``None`` if that cannot be seen."""
    try:
        # As bytes: the first text in ASCII imports a codec, and a child that is forked meanwhile
        # would wait for that import forever.
        status = Path(f"/proc/{pid}/stat").read_bytes()
        # The name of the program, in brackets, may have spaces and brackets.
        return int(status.rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True

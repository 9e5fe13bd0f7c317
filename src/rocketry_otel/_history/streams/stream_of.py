"""The records of a repository of any kind, read as a stream and removed one by one.

A handler takes any Red Bird repository. Red Bird reads all records at once, or stops at the first
unreadable one; and it cannot remove all records but some. The modules here do both, one for each
kind of repository.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from redbird.repos import CSVFileRepo, JSONDirectoryRepo, MemoryRepo, MongoRepo, SQLRepo

if TYPE_CHECKING:
    from redbird.base import BaseRepo

    from .base import RecordStream

# Their dependencies need not be installed: a module is imported for a repository of its kind.
_MODULES: dict[type, str] = {
    SQLRepo: "sql",
    MongoRepo: "mongo",
    CSVFileRepo: "csv",
    JSONDirectoryRepo: "json",
    MemoryRepo: "memory",
}


def stream_of(repo: BaseRepo) -> RecordStream:
    """Return the records of a repository; it is made for one use, such as one reading."""
    names = (name for kind, name in _MODULES.items() if isinstance(repo, kind))
    module = import_module(f"{__package__}.{next(names, 'other')}_stream")
    stream: RecordStream = module.stream_of(repo)
    return stream

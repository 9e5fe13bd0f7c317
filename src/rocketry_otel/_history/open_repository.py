"""Opening a repository by URL, to write it or only to read it."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NoReturn
from weakref import finalize

from rocketry_otel._errors import RepositoryError
from rocketry_otel._repositories import open_repository as writing
from rocketry_otel._runtime.suppression import suppressed

from .open_history import open_existing

if TYPE_CHECKING:
    from redbird.base import BaseRepo


def open_repository(url: str, *, read_only: bool = False) -> BaseRepo:
    """Open the Red Bird repository that a URL names, with ``TaskEventRecord`` as its model.

    ==============================  ===========================================================
    URL                             Repository
    ==============================  ===========================================================
    ``memory://``                   The newest 100,000 records, in memory;
                                    ``memory://?max_records=5000`` keeps another number.
    ``csv:///var/lib/tasks.csv``    That CSV file. Two slashes and a path, as in
                                    ``csv://tasks.csv``, are relative to the working directory.
    ``json:///var/lib/tasks``       That directory, a JSON file for each record. Relative as
                                    for CSV.
    ``sqlite:///tasks.db``          That SQLite file. As in SQLAlchemy, three slashes are
                                    relative and four are absolute.
    ``postgresql://user@host/db``   The table ``rocketry_task_events`` there, or that of
                                    ``?table=name``. Likewise any other URL of SQLAlchemy.
    ``mysql://user@host/db``        The same in MySQL or MariaDB.
    ``mongodb://host/database``     The collection ``rocketry_task_events`` there, or that of
                                    ``?collection=name``. Without a database: ``rocketry``.
    ==============================  ===========================================================

    Missing directories, files, tables, collections and indices are created, unless it is opened
    only to be read.

    Args:
        url: The URL. Percent-encode special characters, both in a path and in a password.
        read_only: Whether to open an existing repository only to read it. It may have any model
            that Rocketry wrote. Its records have the fields that telemetry is made of. Nothing is
            created, also no file beside a SQLite database, and nothing is written.

    Returns:
        The repository, safe with threads and forked children. It is ready for records, or raises
        ``RepositoryError`` at each change if it is opened only to be read.

    Raises:
        RepositoryURLError: The URL is not understood, or its driver is not installed.
        RepositoryMismatchError: The file or the table has other columns.
        RepositoryError: It cannot be opened for another reason; the message has it. With
            ``read_only``, also if it does not exist or is in memory.
    """
    if not read_only:
        return writing.open_repository(url)
    with ExitStack() as undo:
        with suppressed():
            repo = open_existing(url, undo)
        class_ = type(type(repo).__name__, (_ReadOnly, type(repo)), _BODY)
        object.__setattr__(repo, "__class__", class_)
        # The class is of this repository alone, and both go together.
        finalize(class_, undo.pop_all().close)
    return repo


# A repository takes on the class only if its memory has the same layout.
_BODY: dict[str, Any] = {"__slots__": (), "__module__": __name__}


def _refuse(_: Any, *__: Any, **___: Any) -> NoReturn:
    raise RepositoryError("the repository was opened only to be read")


class _ReadOnly:
    """Refuses each change of a repository."""

    __slots__ = ()

    add = insert = upsert = update = delete = replace = _refuse
    query_update = query_replace = query_delete = query_delete_first = _refuse

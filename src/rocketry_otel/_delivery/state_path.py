"""Where the delivery progress of a repository is stored."""

from __future__ import annotations

import os
import re
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redbird.repos import CSVFileRepo, JSONDirectoryRepo, MemoryRepo

if TYPE_CHECKING:
    from redbird import BaseRepo

_UNFIT = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST_NAME = 60
# The table of a URL that names none.
_COMMON_TABLE = "rocketry_task_events"


def state_folder(repo: BaseRepo, state_dir: str | None) -> Path | None:
    """Return the folder for the delivery progress of a repository.

    Args:
        repo: The repository.
        state_dir: The folder of the user's choice for all repositories.

    Returns:
        A folder beside the file or directory of the repository. For a database server, and with
        ``state_dir``, a folder with the name of the repository. ``None`` if the repository does
        not survive the process, or cannot be identified.
    """
    path = _path_of(repo)
    place = None if path is None else path.as_uri()
    if place is None:
        place = _place_of(repo)
    if place is None:
        return None
    if state_dir is not None:
        return Path(state_dir).expanduser() / _name_of(place)
    if path is not None:
        return path.with_name(f"{path.name}.delivery")
    home = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(home).expanduser() / "rocketry-otel" / _name_of(place)


def place_of(repo: BaseRepo) -> str | None:
    """Return the path or the address of a repository, without secrets; ``None`` if unknown."""
    path = repository_path(repo)
    return _place_of(repo) if path is None else str(path)


def repository_path(repo: Any) -> Path | None:
    """Return the file or the directory of a repository; ``None`` if it is on a server."""
    if isinstance(repo, CSVFileRepo):
        return Path(repo.filename).absolute()
    if isinstance(repo, JSONDirectoryRepo):
        return Path(repo.path).absolute()
    url = _engine_url(repo)
    if url is not None and _is_sqlite_file(url):
        return Path(url.database.removeprefix("file:").partition("?")[0]).absolute()
    return None


def _path_of(repo: Any) -> Path | None:
    """Return a path that identifies a repository in a file or directory."""
    path = repository_path(repo)
    if path is None or isinstance(repo, (CSVFileRepo, JSONDirectoryRepo)):
        return path
    # Another table in the same file is another repository.
    table = _UNFIT.sub("-", str(repo.table))
    return path.with_name(f"{path.name}.{table}") if table != _COMMON_TABLE else path


def _is_sqlite_file(url: Any) -> bool:
    if url.get_backend_name() != "sqlite" or not url.database:
        return False
    return ":memory:" not in url.database and url.query.get("mode") != "memory"


def _place_of(repo: Any) -> str | None:
    """Return a name for a repository on a server, without its secrets."""
    if isinstance(repo, MemoryRepo):
        return None
    url = _engine_url(repo)
    if url is not None:
        if url.get_backend_name() == "sqlite":
            return None
        host = f"{url.host or ''}:{url.port or ''}"
        return f"{url.get_backend_name()}://{host}/{url.database or ''}/{repo.table}"
    collection = _collection_of(repo)
    if collection is None:
        return None
    client = collection.database.client
    hosts = ",".join(f"{one[0]}:{one[1]}" for one in _seeds(client))
    return f"mongodb://{hosts}/{collection.database.name}/{collection.name}"


def _seeds(client: Any) -> list[Any]:
    # Does not ask the server, which may be away.
    return sorted(client.topology_description.server_descriptions())


def _engine_url(repo: Any) -> Any:
    """Return the address of a SQL repository; Red Bird's keeps its engine in its session."""
    engine = getattr(repo, "engine", None)
    if engine is None:
        session = getattr(repo, "session", None)
        engine = getattr(session, "bind", None)
    return getattr(engine, "url", None)


def _collection_of(repo: Any) -> Any:
    get = getattr(repo, "get_collection", None)
    return None if get is None else get()


def _name_of(place: str) -> str:
    """Return a readable name, made unique by a digest."""
    digest = blake2b(place.encode(), digest_size=6).hexdigest()
    last = _UNFIT.sub("-", place.rstrip("/").rpartition("/")[2]).strip(".-")
    return f"{last[-_LONGEST_NAME:]}-{digest}"

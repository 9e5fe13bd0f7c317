"""Opening Red Bird repositories by URL."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from rocketry_otel._runtime.suppression import suppressed

from .urls import refusal

if TYPE_CHECKING:
    from types import ModuleType

    from redbird.base import BaseRepo

# A module is imported only when a URL needs it, because its driver may be missing.
_MODULES = {
    "memory": "memory_repo",
    "csv": "csv_repo",
    "json": "json_repo",
    "mongodb": "mongo_repo",
    "mongodb+srv": "mongo_repo",
}
_CURES = {
    "pymongo": "MongoDB needs pymongo, which is missing: pip install 'rocketry-otel[mongodb]'",
    "sqlalchemy": (
        "its scheme is not memory, csv, json or mongodb, and a SQL database needs "
        "SQLAlchemy, which is missing: pip install 'rocketry-otel[sql]', or for PostgreSQL "
        "'rocketry-otel[postgresql]', for MySQL and MariaDB 'rocketry-otel[mysql]'"
    ),
}


def open_repository(url: str) -> BaseRepo:
    """Open the repository that a URL names, to write it.

    ``_history.open_repository`` is the public function. It lists the URLs and the errors.

    Args:
        url: The URL.

    Returns:
        The repository, ready for records, and safe with threads and forked children.
    """
    url = url.strip()
    with suppressed():
        repo: BaseRepo = module_for(url).open_url(url)
    return repo


def module_for(url: str) -> ModuleType:
    """Return the module for a URL, after a check that its imports are installed.

    Raises:
        RepositoryURLError: The URL is not understood, or its driver is not installed.
    """
    scheme, mark, _ = url.partition("://")
    if not (mark and scheme):
        raise refusal(
            url,
            "this is not the URL of a repository; examples: memory://, csv:///directory/file.csv, "
            "json:///directory, sqlite:///file.db, postgresql://user:password@host/database, "
            "mysql://user:password@host/database, mongodb://host/database",
        )
    module = _MODULES.get(scheme.lower(), "sql_repo")
    try:
        return import_module(f"{__package__}.{module}")
    except ModuleNotFoundError as error:
        if error.name not in _CURES:
            raise
        raise refusal(url, _CURES[error.name]) from None

"""What is known of a repository: whether it can be read and written, and what is in it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from rocketry_otel._delivery.state_path import repository_path, state_folder
from rocketry_otel._delivery.stored_state import StoredState
from rocketry_otel._errors import RepositoryError
from rocketry_otel._export.responses import shown
from rocketry_otel._history.history_record import HistoryRecord
from rocketry_otel._history.streams.base import Window
from rocketry_otel._history.streams.stream_of import stream_of
from rocketry_otel._model.event import nanoseconds
from rocketry_otel._repositories.urls import mask_url, without_secrets

from .options import opened
from .run_rows import iso
from .status import state_data

if TYPE_CHECKING:
    from pathlib import Path

    from rocketry_otel._settings import Settings


def repository_data(url: str, settings: Settings) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return what is known of a repository, and its delivery state.

    Nothing is created and nothing is written.

    Args:
        url: The URL of the repository.
        settings: Where the delivery state is.

    Returns:
        Two objects of JSON. The first has a ``problem`` if the repository cannot be read or not be
        written; then the second may be missing.
    """
    data: dict[str, Any] = {"url": mask_url(url), "readable": False, "problem": None}
    try:
        with opened(url) as repo:
            data |= _content(repo)
            data["readable"] = True
            path = repository_path(repo)
            data["writable"] = None if path is None else _is_writable(path)
            if data["writable"] is False:
                data["problem"] = f"this user may not write {path}, or its folder"
            return data, state_data(StoredState(state_folder(repo, settings.state_dir)))
    except RepositoryError as error:
        data["problem"] = str(error)
    except Exception as error:  # noqa: BLE001  # a driver may raise anything
        data["problem"] = without_secrets(shown(error), url)
    return data, None


def _content(repo: Any) -> dict[str, Any]:
    count, oldest, newest = 0, None, None
    stream = stream_of(repo)
    for fields in stream.outlines(Window()):
        created = nanoseconds(fields.get("created"))
        count += 1
        oldest = created if oldest is None else min(oldest, created)
        newest = created if newest is None else max(newest, created)
    columns = _columns(repo)
    missing = [name for name in HistoryRecord.__fields__ if columns and name not in columns]
    return {
        "records": count,
        "oldest": None if oldest is None else iso(oldest),
        "newest": None if newest is None else iso(newest),
        "missing_columns": missing,
    }


def _columns(repo: Any) -> list[str]:
    """Return the columns of a table or a CSV file; none for documents, which have no columns."""
    table = getattr(getattr(repo, "model_orm", None), "__table__", None)
    names = getattr(repo, "fieldnames", None) if table is None else table.columns.keys()
    return list(names or ())


def _is_writable(path: Path) -> bool:
    # SQLite and CSV make further files beside their own.
    return all(os.access(one, os.W_OK) for one in (path, path.parent))

"""Records of any model, as far as telemetry needs them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic.v1 import BaseModel

from rocketry_otel._errors import RepositoryError, RepositoryMismatchError
from rocketry_otel._repositories.urls import mask_url

if TYPE_CHECKING:
    from collections.abc import Collection

_NEEDED = ("task_name", "action", "created")

# For Red Bird's `errors_query`: an unreadable record does not hide the others.
TOLERANT = "discard"


class HistoryRecord(BaseModel):
    """The fields that telemetry is made of; ``None`` if the model of the record lacks one."""

    task_name: str
    action: str
    created: float
    run_id: str | None = None
    message: str | None = None
    exc_text: str | None = None
    exc_type: str | None = None
    exc_message: str | None = None
    process: str | None = None
    thread: str | None = None
    execution: str | None = None
    links: str | None = None
    attributes: str | None = None
    events: str | None = None
    trace_id: str | None = None
    span_id: str | None = None


def are_enough(names: Collection[str]) -> bool:
    """Return whether these columns are enough for records of tasks."""
    return set(_NEEDED) <= set(names)


def check_names(names: Collection[str], what: str) -> None:
    """Check that these columns are enough for records of tasks.

    Raises:
        RepositoryMismatchError: They are not; the message names the missing ones.
    """
    if not are_enough(names):
        missing = ", ".join(name for name in _NEEDED if name not in names)
        raise RepositoryMismatchError(f"{what} has no records of tasks; missing: {missing}")


def not_there(url: str, what: str) -> RepositoryError:
    """Return the error for a URL whose file, directory, table or collection is missing."""
    return RepositoryError(f"cannot open {mask_url(url)}: there is no such {what}")

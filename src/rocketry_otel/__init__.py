"""OpenTelemetry for Rocketry: every task event in a Red Bird repository and in your traces."""

from ._body import CurrentRun, current_run
from ._errors import (
    RepositoryError,
    RepositoryMismatchError,
    RepositoryURLError,
    RocketryOTelError,
    SettingsError,
)
from ._handler import OTelRepoHandler
from ._instrument import instrument, uninstrument
from ._records import TaskEventRecord
from ._repositories import open_repository
from ._settings import Settings

__all__ = [
    "CurrentRun",
    "OTelRepoHandler",
    "RepositoryError",
    "RepositoryMismatchError",
    "RepositoryURLError",
    "RocketryOTelError",
    "Settings",
    "SettingsError",
    "TaskEventRecord",
    "current_run",
    "instrument",
    "open_repository",
    "uninstrument",
]

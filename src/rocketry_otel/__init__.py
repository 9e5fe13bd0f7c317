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
from ._replay import replay
from ._replay_refused import replay_refused
from ._replay_summary import Replay
from ._report import Delivery, SignalDelivery
from ._repositories import open_repository
from ._settings import Settings

__all__ = [
    "CurrentRun",
    "Delivery",
    "OTelRepoHandler",
    "Replay",
    "RepositoryError",
    "RepositoryMismatchError",
    "RepositoryURLError",
    "RocketryOTelError",
    "Settings",
    "SettingsError",
    "SignalDelivery",
    "TaskEventRecord",
    "current_run",
    "instrument",
    "open_repository",
    "replay",
    "replay_refused",
    "uninstrument",
]

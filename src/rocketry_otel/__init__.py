"""OpenTelemetry for Rocketry: every task event in a Red Bird repository and in your traces.

PYTEST_DONT_REWRITE: under `opentelemetry-instrument` it may be imported before pytest.
"""

# First: what follows imports Red Bird.
import _rocketry_otel_pydantic  # noqa: F401

from ._errors import (
    RepositoryError,
    RepositoryMismatchError,
    RepositoryURLError,
    RocketryOTelError,
    SettingsError,
)
from ._export.status import Delivery, SignalDelivery
from ._history.open_repository import open_repository
from ._instrumentation.current_run import CurrentRun, current_run
from ._instrumentation.explain import explain
from ._instrumentation.handler import OTelRepoHandler
from ._instrumentation.instrument import instrument, uninstrument
from ._model.record import TaskEventRecord
from ._replay.refused import replay_refused
from ._replay.replay import replay
from ._replay.result import Replay
from ._schedule.explanation import ConditionPart, Explanation
from ._settings import Settings

__all__ = [
    "ConditionPart",
    "CurrentRun",
    "Delivery",
    "Explanation",
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
    "explain",
    "instrument",
    "open_repository",
    "replay",
    "replay_refused",
    "uninstrument",
]

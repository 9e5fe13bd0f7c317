"""Why a run is terminated: Rocketry gives the reason to its own method in every mode.

In: calls of ``Task._terminate_run``. Out: the reason, kept on the object that Rocketry has of it.
In async and thread mode, the record of the ending does not have it.
"""

from __future__ import annotations

from typing import Any

from rocketry_otel._model.signals import termination_reason

from .watched_method import WatchedMethod

_ATTRIBUTE = "_rocketry_otel_termination"


def _keep(task: Any, terminating: Any, run: Any, reason: object = None) -> Any:
    """Keep the first reason: Rocketry repeats the call until a thread has ended."""
    known = termination_reason(str(reason), str(task.name))
    if known is not None:
        vars(run).setdefault(_ATTRIBUTE, known)
    return terminating


# The method is a coroutine function: its body runs after the reason has been kept.
terminations = WatchedMethod("_terminate_run", _keep)


def termination_of(run: Any) -> str | None:
    """Return the reason why a run is being terminated, from Rocketry's object of it."""
    reason: str | None = vars(run).get(_ATTRIBUTE)
    return reason

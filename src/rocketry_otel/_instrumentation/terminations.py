"""Why a run is terminated: Rocketry gives the reason to its own method in every mode.

In: calls of ``Task._terminate_run``. Out: the reason, kept on the object that Rocketry has of it.
In async and thread mode, the record of the ending does not have it.
"""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from rocketry_otel._model.signals import termination_reason
from rocketry_otel._runtime.scope import NAME

if TYPE_CHECKING:
    from collections.abc import Callable

_logger = logging.getLogger(NAME)

_ATTRIBUTE = "_rocketry_otel_termination"


class Terminations:
    """Wraps ``Task._terminate_run`` as long as any session is watched."""

    def __init__(self) -> None:
        """Begin with no session."""
        self._sessions: WeakSet[Any] = WeakSet()
        self._noted: Any = None

    def watch(self, task_class: Any, session: Any) -> None:
        """Keep the reasons of terminations of a session's tasks."""
        self._sessions.add(session)
        terminate: Callable[..., Any] = task_class._terminate_run  # noqa: SLF001  # no public way
        if terminate is self._noted:
            return

        @functools.wraps(terminate)
        def noted(task: Any, run: Any, *args: Any, **kwargs: Any) -> Any:
            if task.session in self._sessions:
                _note(task, run, args[0] if args else kwargs.get("reason"))
            return terminate(task, run, *args, **kwargs)

        self._noted = task_class._terminate_run = noted  # noqa: SLF001

    def unwatch(self, task_class: Any, session: Any) -> None:
        """Keep no more reasons of a session; after the last one, restore the method."""
        self._sessions.discard(session)
        # If other code has wrapped it meanwhile, our wrapper stays and does nothing.
        if not self._sessions and task_class._terminate_run is self._noted:  # noqa: SLF001
            task_class._terminate_run = self._noted.__wrapped__  # noqa: SLF001


terminations = Terminations()


def _note(task: Any, run: Any, words: object) -> None:
    """Keep the first reason: Rocketry repeats the call until a thread has ended."""
    try:
        reason = termination_reason(str(words), str(task.name))
        if reason is not None:
            vars(run).setdefault(_ATTRIBUTE, reason)
    except Exception:  # telemetry never hurts the task
        _logger.debug("the reason of a termination could not be kept", exc_info=True)


def termination_of(run: Any) -> str | None:
    """Return the reason why a run is being terminated, from Rocketry's object of it."""
    reason: str | None = vars(run).get(_ATTRIBUTE)
    return reason

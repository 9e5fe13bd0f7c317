"""A method of Rocketry's tasks that is wrapped as long as sessions are watched.

In: calls for tasks of watched sessions. Out: the same result, or that of a function of ours.
"""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from rocketry_otel._runtime.scope import NAME

if TYPE_CHECKING:
    from collections.abc import Callable

_logger = logging.getLogger(NAME)


class WatchedMethod:
    """Wraps a method of a class once for all sessions, and restores it after the last one.

    Args:
        name: The name of the method.
        follow: Is called after each call with the task, the result, and the arguments. It returns
            the result for the caller. An error of it costs the task nothing.
    """

    def __init__(self, name: str, follow: Callable[..., Any]) -> None:
        self._name = name
        self._follow = follow
        self._sessions: WeakSet[Any] = WeakSet()
        self._wrapper: Any = None

    def watch(self, class_: type, session: Any) -> None:
        """Follow the calls for the tasks of a session."""
        self._sessions.add(session)
        method = getattr(class_, self._name)
        if method is self._wrapper:
            return

        @functools.wraps(method)
        def wrapper(task: Any, *args: Any, **kwargs: Any) -> Any:
            result = method(task, *args, **kwargs)
            # If other code has wrapped an older wrapper of ours, the newest one is outside of both.
            if self._wrapper is not wrapper:
                return result
            try:
                is_watched = task.session in self._sessions
                return self._follow(task, result, *args, **kwargs) if is_watched else result
            except Exception:  # telemetry never hurts the task
                _logger.debug("a call of %s could not be followed", self._name, exc_info=True)
                return result

        self._wrapper = wrapper
        setattr(class_, self._name, wrapper)

    def unwatch(self, class_: type, session: Any) -> None:
        """Leave the tasks of a session alone; after the last session, restore the method."""
        self._sessions.discard(session)
        # If other code has wrapped it meanwhile, our wrapper stays and does nothing.
        if not self._sessions and getattr(class_, self._name) is self._wrapper:
            setattr(class_, self._name, self._wrapper.__wrapped__)

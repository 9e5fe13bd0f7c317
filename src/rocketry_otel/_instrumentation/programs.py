"""Programs that tasks start: their environment has the context of the run.

In: the environment of a program. Out: the same with ``TRACEPARENT``. ``os.environ`` never changes:
other tasks of this process have other contexts.
"""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import get_current
from opentelemetry.trace import get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from rocketry_otel._runtime.scope import NAME

from .current_run import current_run

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.context import Context

_logger = logging.getLogger(NAME)

# By the specification of environment variables as carriers: the names are in capitals.
_TRACE = ("TRACEPARENT", "TRACESTATE")


def add_context(environ: dict[str, str], context: Context, *, with_baggage: bool) -> None:
    """Add the context of a body to the environment of a program.

    Args:
        environ: The environment. What it has of another trace is removed.
        context: The context at the beginning of the body, for a thread that has none of its own.
        with_baggage: Whether the baggage is added.
    """
    here = get_current()
    if get_current_span(here).get_span_context().is_valid:
        context = here
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier, context)
    if with_baggage:
        W3CBaggagePropagator().inject(carrier, context)
    for name in _TRACE:
        environ.pop(name, None)
    environ.update((name.upper(), value) for name, value in carrier.items())


class Commands:
    """Wraps the method of ``CommandTask`` that makes the arguments of ``subprocess.Popen``."""

    def __init__(self) -> None:
        """Begin with no session."""
        self._sessions: WeakSet[Any] = WeakSet()
        self._wrapper: Any = None

    def watch(self, task_class: Any, session: Any) -> None:
        """Add the context to the programs of a session's tasks."""
        self._sessions.add(session)
        arguments_of: Callable[..., dict[str, Any]] = task_class.get_kwargs_popen
        if arguments_of is self._wrapper:
            return

        @functools.wraps(arguments_of)
        def with_context(task: Any) -> dict[str, Any]:
            arguments = arguments_of(task)
            return _with_context(arguments) if task.session in self._sessions else arguments

        self._wrapper = task_class.get_kwargs_popen = with_context

    def unwatch(self, task_class: Any, session: Any) -> None:
        """Leave the programs of a session alone; after the last one, restore the method."""
        self._sessions.discard(session)
        # If other code has wrapped it meanwhile, our wrapper stays and does nothing.
        if not self._sessions and task_class.get_kwargs_popen is self._wrapper:
            task_class.get_kwargs_popen = self._wrapper.__wrapped__


commands = Commands()


def _with_context(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments with the context of the current run; never raises."""
    run, given = current_run(), arguments.get("env")
    try:
        # An application that gives a context itself means that one.
        if run and (given is None or _TRACE[0] not in given):
            return {**arguments, "env": run.environment(given)}
    except Exception:  # telemetry never hurts the task
        _logger.debug("a program could not get its context", exc_info=True)
    return arguments

"""Programs that tasks start: their environment has the context of the run.

In: the environment of a program. Out: the same with ``TRACEPARENT``. ``os.environ`` never changes:
other tasks of this process have other contexts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import get_current
from opentelemetry.trace import get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from .current_run import current_run
from .watched_method import WatchedMethod

if TYPE_CHECKING:
    from opentelemetry.context import Context

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


def _with_context(_task: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return arguments of ``subprocess.Popen`` with the context of the current run."""
    run, given = current_run(), arguments.get("env")
    # An application that gives a context itself means that one.
    if run and (given is None or _TRACE[0] not in given):
        return {**arguments, "env": run.environment(given)}
    return arguments


commands = WatchedMethod("get_kwargs_popen", _with_context)

"""Makes our own providers the global ones, so that spans of a task's body are recorded.

In: the providers of a handler. Out: a global provider for each signal that had no provider.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry import _logs, metrics, trace

from .own_providers import is_idle, take_over
from .providers import in_force, is_placeholder

if TYPE_CHECKING:
    from collections.abc import Callable

    from .providers import Providers


def make_global(providers: Providers) -> None:
    """Set each provider of ours globally where the application has not set its own.

    Args:
        providers: The providers of a handler. Those of the application are left alone.
    """
    setters: dict[str, tuple[Any, Callable[[Any], None]]] = {
        "traces": (providers.tracer, trace.set_tracer_provider),
        "logs": (providers.logger, _logs.set_logger_provider),
        "metrics": (providers.meter, metrics.set_meter_provider),
    }
    for signal, (provider, set_global) in setters.items():
        if not _is_ours(provider, providers):
            continue
        current = in_force(signal)
        if is_idle(current):
            take_over(provider, current)
        elif is_placeholder(current):
            set_global(provider)


def _is_ours(provider: Any, providers: Providers) -> bool:
    if type(provider).__name__.startswith("NoOp"):
        return False
    return all(provider is not borrowed for borrowed in providers.borrowed)

"""Making our own providers the application's, so that what a task's body makes is recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry import _logs, metrics, trace

from .own_providers import is_idle, take_over
from .providers import is_placeholder

if TYPE_CHECKING:
    from collections.abc import Callable

    from .providers import Providers


def make_global(providers: Providers) -> None:
    """Set each provider of ours globally where the application has set none.

    Args:
        providers: What a handler uses; those that the application brought are left alone.
    """
    setters: list[tuple[Any, Any, Callable[[Any], None]]] = [
        (providers.tracer, trace.get_tracer_provider(), trace.set_tracer_provider),
        (providers.logger, _logs.get_logger_provider(), _logs.set_logger_provider),
        (providers.meter, metrics.get_meter_provider(), metrics.set_meter_provider),
    ]
    for provider, in_force, set_global in setters:
        if not _is_ours(provider, providers) or not is_placeholder(in_force):
            continue
        if is_idle(in_force):
            take_over(provider, in_force)
        else:
            set_global(provider)


def _is_ours(provider: Any, providers: Providers) -> bool:
    if type(provider).__name__.startswith("NoOp"):
        return False
    return all(provider is not borrowed for borrowed in providers.borrowed)

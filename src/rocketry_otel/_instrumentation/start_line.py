"""The line in the log that confirms the start of a scheduler.

In: the repository and the providers. Out: where records are kept, and where telemetry goes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redbird.repos import MemoryRepo

from rocketry_otel._delivery.state_path import place_of
from rocketry_otel._export import otel_env as environment
from rocketry_otel._export.providers import SIGNALS
from rocketry_otel._repositories.urls import mask_url

if TYPE_CHECKING:
    from redbird import BaseRepo

    from rocketry_otel._export.providers import Providers


_LINES = " Log lines of tasks are sent; ROCKETRY_OTEL_LOG_LINES=false switches them off."


def start_line(
    repo: BaseRepo, url: str | None, providers: Providers | None, *, sends_log_lines: bool = False
) -> str:
    """Return the line; it has no secrets.

    Args:
        repo: The repository.
        url: The URL that opened it, if known.
        providers: The providers; ``None`` if they could not be found.
        sends_log_lines: Whether the log lines of tasks' bodies are sent.
    """
    lines = _LINES if sends_log_lines else ""
    place, ways = _place(repo, url), _destinations(providers)
    return f"Records are kept in {place}. {ways}.{_delivery(providers)}{lines}"


def _place(repo: BaseRepo, url: str | None) -> str:
    if isinstance(repo, MemoryRepo):
        return (
            "memory:// and end with this process; ROCKETRY_OTEL_REPO=sqlite:///tasks.db would "
            "keep them"
        )
    if url is not None:
        return mask_url(url)
    try:
        place = place_of(repo)
    except Exception:  # noqa: BLE001  # a repository of the user's may raise anything
        place = None
    name = type(repo).__name__
    return name if place is None else f"{place} ({name})"


def _destinations(providers: Providers | None) -> str:
    if providers is None:
        return "No telemetry is sent: the providers could not be found"
    signals_of: dict[str, list[str]] = {}
    for signal in SIGNALS:
        signals_of.setdefault(_destination(signal, providers), []).append(signal)
    nowhere = signals_of.pop("", [])
    parts = [f"{_joined(signals)} go to {place}" for place, signals in signals_of.items()]
    if nowhere:
        parts.append(f"{_joined(nowhere)} are not sent")
    line = "; ".join(parts)
    return line[0].upper() + line[1:]


def _destination(signal: str, providers: Providers) -> str:
    """Return where a signal goes; an empty text if it is not sent."""
    provider: Any = {
        "traces": providers.tracer,
        "logs": providers.logger,
        "metrics": providers.meter,
    }[signal]
    if any(provider is borrowed for borrowed in providers.borrowed):
        return "the provider of the application"
    names = [one.destination.name for one in providers.channels if one.signal == signal]
    return _joined(dict.fromkeys(names))


def _delivery(providers: Providers | None) -> str:
    """Return what a file of OpenTelemetry's configuration means for our own delivery."""
    if environment.text("OTEL_CONFIG_FILE") is None or providers is None:
        return ""
    if not environment.is_configured_by_file():
        return (
            " OTEL_CONFIG_FILE is not used: only opentelemetry-instrument reads it, and only with "
            "the extra auto and the package opentelemetry-configuration."
        )
    if providers.borrowed:
        return (
            " OTEL_CONFIG_FILE configures this: what cannot be sent is not sent again from the "
            "repository."
        )
    return " OTEL_CONFIG_FILE configures this: it has no provider, or is disabled."


def _joined(words: Any) -> str:
    *first, last = [*words] or [""]
    return f"{', '.join(first)} and {last}" if first else last

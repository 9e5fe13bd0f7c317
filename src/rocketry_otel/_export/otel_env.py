"""Reads the standard ``OTEL_*`` variables by the rules of the OpenTelemetry specification.

In: names of variables. Out: their values, or the specification's defaults. A bad value is ignored
with a warning; the SDK would raise at some of them.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING

from rocketry_otel._runtime.forks import after_fork_in_child
from rocketry_otel._runtime.scope import NAME

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_logger = logging.getLogger(NAME)

EXPORTER_DEFAULT = "otlp"
PROTOCOLS = ("http/protobuf", "grpc")
EXEMPLAR_FILTERS = ("trace_based", "always_on", "always_off")


def text(*names: str) -> str | None:
    """Return the first of these variables that is set; an empty one counts as not set."""
    for name in names:
        value = os.environ.get(name, "").strip()
        if value:
            return value
    return None


def sdk_is_disabled() -> bool:
    """Return whether ``OTEL_SDK_DISABLED`` is ``true``."""
    return choice("OTEL_SDK_DISABLED", allowed=("true", "false"), default="false") == "true"


def is_configured_by_file() -> bool:
    """Return whether OpenTelemetry has read the file that ``OTEL_CONFIG_FILE`` names.

    The specification wants no other telemetry than that of the file then. The SDK imports the
    package for such files only to read one.
    """
    return text("OTEL_CONFIG_FILE") is not None and "opentelemetry.configuration" in sys.modules


def choice(*names: str, allowed: Collection[str], default: str) -> str:
    """Return the first of these variables that is set, in lower case, if it is allowed."""
    name = next(filter(text, names), None)
    value = name and text(name)
    if not (name and value):
        return default
    if value.lower() not in allowed:
        *others, last = allowed
        ignore(name, value, f"{', '.join(others)} or {last}", default)
        return default
    return value.lower()


def whole_number(name: str, default: int | None, *, least: int = 0) -> int | None:
    """Return a variable as a whole number of at least ``least``, or ``default``."""
    value = text(name)
    if value is None:
        return default
    try:
        number = int(value)
    except ValueError:
        number = least - 1
    if number < least:
        ignore(name, value, f"a whole number of {least} or more", default)
        return default
    return number


def seconds(*names: str, default: float) -> float:
    """Return the first of these variables that is set as a number of seconds above 0."""
    for name in names:
        value = text(name)
        if value is None:
            continue
        try:
            number = float(value)
        except ValueError:
            number = 0.0
        if 0 < number < float("inf"):
            return number
        ignore(name, value, "a number of seconds above 0", default)
        return default
    return default


class _Turn:
    """Lets one thread at a time change the environment: others would restore what it has set."""

    def __init__(self) -> None:
        self._start_afresh()
        after_fork_in_child(self._start_afresh)

    def _start_afresh(self) -> None:
        # It guards `os.environ`. Exporters and providers are made while it is held, and changes
        # may be nested. No thread that is waited for meanwhile takes it.
        self.lock = threading.RLock()


_turn = _Turn()


@contextmanager
def without_bad_number(name: str, most: float = float("inf")) -> Iterator[None]:
    """Hide a variable that is no number from 0 to ``most`` from code that would raise at it."""
    try:
        is_good = 0.0 <= float(os.environ.get(name) or "bad") <= most
    except ValueError:
        is_good = False
    with without([] if is_good else [name]):
        yield


@contextmanager
def without(names: Collection[str]) -> Iterator[None]:
    """Hide variables for a while from code that would raise at them."""
    with _turn.lock:
        hidden = {name: os.environ.pop(name) for name in names if name in os.environ}
        try:
            yield
        finally:
            os.environ.update(hidden)


@contextmanager
def replaced(name: str, value: str) -> Iterator[None]:
    """Give a variable another value for a while."""
    with _turn.lock, without([name]):
        os.environ[name] = value
        try:
            yield
        finally:
            os.environ.pop(name, None)


def exporter_names(signal: str) -> list[str]:
    """Return the exporters that ``OTEL_{SIGNAL}_EXPORTER`` names, without ``none``."""
    value = text(f"OTEL_{signal.upper()}_EXPORTER") or EXPORTER_DEFAULT
    names = [name.strip().lower() for name in value.split(",")]
    return list(dict.fromkeys(name for name in names if name and name != "none"))


def protocol(signal: str) -> str:
    """Return the OTLP protocol for a signal: ``http/protobuf`` or ``grpc``."""
    return choice(*_otlp_names(signal, "PROTOCOL"), allowed=PROTOCOLS, default=PROTOCOLS[0])


def compression(signal: str, allowed: tuple[str, ...]) -> str:
    """Return the compression of a signal's OTLP requests: one of ``allowed``, or ``none``."""
    return choice(*_otlp_names(signal, "COMPRESSION"), allowed=(*allowed, "none"), default="none")


def _otlp_names(signal: str, name: str) -> tuple[str, str]:
    return f"OTEL_EXPORTER_OTLP_{signal.upper()}_{name}", f"OTEL_EXPORTER_OTLP_{name}"


def exemplar_filter() -> str:
    """Return the value of ``OTEL_METRICS_EXEMPLAR_FILTER``: which measurements get an exemplar."""
    return choice(
        "OTEL_METRICS_EXEMPLAR_FILTER", allowed=EXEMPLAR_FILTERS, default=EXEMPLAR_FILTERS[0]
    )


def sends_exception_events() -> bool:
    """Return whether spans have ``exception`` events, beside the exceptions on log records.

    ``OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN`` is ``logs`` for log records alone, and ``logs/dup`` or
    not set for both.
    """
    name = "OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN"
    return choice(name, allowed=("logs", "logs/dup"), default="logs/dup") != "logs"


def ignore(name: str, value: str, allowed: str, default: object) -> None:
    """Warn that the value of a variable is not used."""
    used = "no limit" if default is None else default
    warn_once(f"{name} is {value!r}, which is not {allowed}: it is ignored, and {used} is used.")


@lru_cache(maxsize=256)
def warn_once(message: str) -> None:
    """Log a warning once in a process, because several signals read the same variable."""
    _logger.warning("%s", message)

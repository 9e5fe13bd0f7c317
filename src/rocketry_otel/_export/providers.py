"""Chooses the provider of each signal: given, global or our own.

In: the providers that the user gave, if any. Out: three providers, and the channels of our own.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics, trace
from opentelemetry._logs import NoOpLoggerProvider, get_logger_provider

from rocketry_otel._model.signals import SERVICE_VERSION
from rocketry_otel._runtime.forks import no_fork
from rocketry_otel._runtime.scope import NAME, VERSION
from rocketry_otel._runtime.threads import start_thread

from . import otel_env as environment
from . import own_providers as own
from .exporters import quiet
from .queue import ExportQueue
from .responses import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from opentelemetry._logs import LoggerProvider
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from .channel import Channel
    from .counters import Counters
    from .outage import Outage

SIGNALS = ("traces", "logs", "metrics")

_VARIABLES = {
    "traces": "OTEL_PYTHON_TRACER_PROVIDER",
    "logs": "OTEL_PYTHON_LOGGER_PROVIDER",
    "metrics": "OTEL_PYTHON_METER_PROVIDER",
}
_MILLISECONDS = 1000
_LONGEST_FLUSH = threading.TIMEOUT_MAX


@dataclass(eq=False)
class Providers:
    """The three providers of a handler.

    Attributes:
        tracer: Makes spans.
        logger: Makes log records.
        meter: Makes metrics.
        channels: The channels of our own providers.
        borrowed: Providers that belong to the application.
        failed: Signals whose provider could not be found or made; a no-op provider stands in.
        service_version: The version of the application in the resource of the spans, else in that
            of the log records; ``None`` if both have none.
    """

    tracer: TracerProvider
    logger: LoggerProvider
    meter: MeterProvider
    channels: list[Channel] = field(default_factory=list)
    borrowed: list[Any] = field(default_factory=list)
    failed: frozenset[str] = frozenset()
    service_version: str | None = field(init=False)

    def __post_init__(self) -> None:
        """Read the resources once: each run asks for the version."""
        self.service_version = _version_in(self.tracer) or _version_in(self.logger)

    @property
    def queues(self) -> list[ExportQueue[Any]]:
        """The channels of spans and log records that a repository may have."""
        return [queue for queue in self._all_queues if not queue.for_lines]

    @property
    def line_queues(self) -> list[ExportQueue[Any]]:
        """The channels of log lines, which no repository has."""
        return [queue for queue in self._all_queues if queue.for_lines]

    @property
    def _all_queues(self) -> list[ExportQueue[Any]]:
        return [channel for channel in self.channels if isinstance(channel, ExportQueue)]

    @property
    def sends_logs(self) -> bool:
        """Whether log records are sent anywhere, as far as is known."""
        if type(self.logger).__name__.startswith("NoOp"):
            return False
        is_borrowed = any(provider is self.logger for provider in self.borrowed)
        return is_borrowed or bool(self.line_queues)

    def hurry(self) -> list[tuple[Channel, int]]:
        """Begin to send the channels; return each with its mark, to wait for."""
        return [(channel, channel.hurry()) for channel in self.channels]

    def flush(self, deadline: float, lines_deadline: float | None = None) -> bool:
        """Send the channels; return whether everything handed over was accepted in time.

        Args:
            deadline: When to stop waiting, by ``time.monotonic()``.
            lines_deadline: When to stop waiting for log lines, if that is earlier.
        """
        marks, lines = self.hurry(), self.line_queues
        lines_deadline = deadline if lines_deadline is None else lines_deadline
        borrowed = _flush_borrowed(self.borrowed, deadline)
        ours = [
            channel.wait_for(mark, lines_deadline if channel in lines else deadline)
            for channel, mark in marks
        ]
        return all(ours) and borrowed()

    def report_losses(self) -> None:
        """Let the next flush report only later losses."""
        for queue in self._all_queues:
            queue.report_losses()

    def flush_borrowed(self, deadline: float) -> Callable[[], bool]:
        """Begin to flush the providers of the application; return a function that waits."""
        return _flush_borrowed(self.borrowed, deadline)

    def begin_closing(self, deadline: float) -> None:
        """Begin to send our own channels for the last time, until ``deadline`` at the latest."""
        for channel in self.channels:
            channel.begin_closing(deadline)

    def close(self, deadline: float) -> None:
        """Send our own channels for the last time, until ``deadline`` at the latest."""
        _close(self.channels, deadline)

    def retire(self) -> None:
        """Let other providers be made in the place of ours, while ours send their last items."""
        borrowed = {id(provider) for provider in self.borrowed}
        all_three = (self.tracer, self.logger, self.meter)
        own.retire(provider for provider in all_three if id(provider) not in borrowed)

    def reopen(self) -> None:
        """Let our own channels send again after they were closed."""
        for channel in self.channels:
            channel.reopen()


def resolve(
    tracer: TracerProvider | None,
    logger: LoggerProvider | None,
    meter: MeterProvider | None,
    counters: Counters,
    outage: Outage,
    only: Collection[str] = SIGNALS,
) -> Providers:
    """Return the providers to use from now on.

    Args:
        tracer: The tracer provider that the user gave; it wins over all others.
        logger: The logger provider that the user gave.
        meter: The meter provider that the user gave.
        counters: The number of items by their outcome, for our own providers.
        outage: Reports the successes and failures of our own providers.
        only: The signals to find a provider for. Others get a provider that does nothing.

    Returns:
        For each signal: the given provider, else the global one of the application, else our own
        from the environment. If a file of OpenTelemetry's configuration is in force, there is none
        of our own. If a signal fails, the others work, and no thread or connection of it is left.
    """
    borrowed: list[Any] = []
    channels: list[Channel] = []
    failed: set[str] = set()

    def choose(signal: str, given: Any, make: Callable[[], Any], none: Any) -> Any:
        if signal not in only:
            return none
        its_channels: list[Channel] = []
        try:
            provider = in_force(signal) if given is None else given
            is_borrowed = given is not None or not is_placeholder(provider)
            if not is_borrowed:
                if environment.sdk_is_disabled() or environment.is_configured_by_file():
                    return none
                provider, its_channels = make()
            _try_out(signal, provider)
        except Exception as error:  # noqa: BLE001  # the other signals work all the same
            _close(its_channels, time.monotonic())
            failed.add(signal)
            environment.warn_once(
                f"The provider of {signal} cannot be used: {shown(error)}. They are dropped, and "
                "it is tried again."
            )
            return none
        if is_borrowed:
            borrowed.append(provider)
        channels.extend(its_channels)
        return provider

    # The SDK's providers look for the global meter provider when they are made, and may raise.
    ignored = [_VARIABLES[signal] for signal in SIGNALS if _is_ignored(signal)]
    with no_fork, environment.without(ignored):  # exporters are imported here
        return Providers(
            tracer=choose(
                "traces",
                tracer,
                lambda: own.tracer_provider(counters, outage),
                trace.NoOpTracerProvider(),
            ),
            logger=choose(
                "logs",
                logger,
                lambda: own.logger_provider(counters, outage),
                NoOpLoggerProvider(),
            ),
            meter=choose(
                "metrics",
                meter,
                lambda: own.meter_provider(outage),
                metrics.NoOpMeterProvider(),
            ),
            channels=channels,
            borrowed=borrowed,
            failed=frozenset(failed),
        )


def in_force(signal: str) -> Any:
    """Return the global provider of a signal; ``None`` if a variable names a missing one.

    OpenTelemetry's own function raises at each call in that case.
    """
    return None if _is_ignored(signal) else _global_provider(signal)


def _global_provider(signal: str) -> Any:
    getters: dict[str, Callable[[], Any]] = {
        "traces": trace.get_tracer_provider,
        "logs": get_logger_provider,
        "metrics": metrics.get_meter_provider,
    }
    return getters[signal]()


def _is_ignored(signal: str) -> bool:
    """Return whether a variable names a provider that cannot be loaded, with one warning."""
    name = _VARIABLES[signal]
    value = environment.text(name)
    if value is None:
        return False
    try:
        with quiet():
            _global_provider(signal)
    except Exception:  # noqa: BLE001  # a third party's provider may raise anything
        environment.warn_once(
            f"{name} is {value!r}, and no provider of this name can be loaded: it is ignored. "
            "Unset it, or install the package that has the provider."
        )
        return True
    return False


def _try_out(signal: str, provider: Any) -> None:
    """Use a provider for the first time; its error is raised."""
    first_use = {"traces": "get_tracer", "logs": "get_logger", "metrics": "get_meter"}[signal]
    getattr(provider, first_use)(NAME, VERSION)


def _version_in(provider: Any) -> str | None:
    """Return the version of the application in a provider's resource, if there is a text."""
    try:
        value = provider.resource.attributes.get(SERVICE_VERSION)
    except Exception:  # noqa: BLE001  # a provider of another kind, which may raise anything
        return None
    return value if isinstance(value, str) else None


def _close(channels: list[Channel], deadline: float) -> None:
    for channel in channels:
        channel.begin_closing(deadline)
    # The metrics are the last of the channels: they count what the others have sent.
    for channel in channels:
        channel.finish_closing()


def is_placeholder(provider: Any) -> bool:
    """Return whether a global provider is replaceable: a proxy of the API, or idle and ours."""
    return (
        provider is None
        or own.is_idle(provider)
        or (
            type(provider).__name__.lstrip("_").startswith("Proxy")
            and type(provider).__module__.startswith("opentelemetry.")
        )
    )


def _flush_borrowed(providers: list[Any], deadline: float) -> Callable[[], bool]:
    """Flush the application's providers, each on its own thread.

    The SDK's ``force_flush`` keeps no time limit: its thread is left behind at the deadline.

    Returns:
        A function that waits until ``deadline`` and returns whether all flushes succeeded.
    """
    answers: list[bool] = []
    finished = threading.Semaphore(0)

    def flush(provider: Any) -> None:
        try:
            left = min(max(deadline - time.monotonic(), 0.0), _LONGEST_FLUSH)
            answers.append(provider.force_flush(int(left * _MILLISECONDS)) is not False)
        except Exception:  # noqa: BLE001  # the application's provider may raise anything
            answers.append(False)
        finally:
            finished.release()

    flushable = [provider for provider in providers if hasattr(provider, "force_flush")]
    for provider in flushable:
        if start_thread(partial(flush, provider), "flush") is None:
            # The interpreter is ending: the application flushes the provider.
            answers.append(False)
            finished.release()

    def wait() -> bool:
        for _ in flushable:
            left = min(max(deadline - time.monotonic(), 0.0), _LONGEST_FLUSH)
            if not finished.acquire(timeout=left):
                return False
        return all(answers)

    return wait

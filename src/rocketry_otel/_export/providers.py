"""Which providers telemetry goes to: given, global or our own."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics, trace
from opentelemetry._logs import NoOpLoggerProvider, get_logger_provider

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
        channels: Through which what our own providers make leaves the machine.
        borrowed: Providers that belong to the application.
        failed: Signals whose provider could not be found or made; they have one that does nothing.
    """

    tracer: TracerProvider
    logger: LoggerProvider
    meter: MeterProvider
    channels: list[own.Channel] = field(default_factory=list)
    borrowed: list[Any] = field(default_factory=list)
    failed: frozenset[str] = frozenset()

    @property
    def queues(self) -> list[ExportQueue[Any]]:
        """The channels of spans and log records."""
        return [channel for channel in self.channels if isinstance(channel, ExportQueue)]

    def hurry(self) -> list[tuple[own.Channel, int]]:
        """Begin to send what waits; return what is to be waited for."""
        return [(channel, channel.hurry()) for channel in self.channels]

    def flush(self, deadline: float) -> bool:
        """Send what waits; return whether all that was handed over was accepted in time.

        Args:
            deadline: When to stop waiting, by ``time.monotonic()``.
        """
        marks = self.hurry()
        borrowed = _flush_borrowed(self.borrowed, deadline)
        ours = [channel.wait_for(mark, deadline) for channel, mark in marks]
        return all(ours) and borrowed()

    def report_losses(self) -> None:
        """Let the next flush be about what is lost from now on."""
        for queue in self.queues:
            queue.report_losses()

    def flush_borrowed(self, deadline: float) -> Callable[[], bool]:
        """Begin to flush the providers of the application; return a function that waits."""
        return _flush_borrowed(self.borrowed, deadline)

    def begin_closing(self, deadline: float) -> None:
        """Begin to send what waits in our own providers, until ``deadline`` at the latest."""
        for channel in self.channels:
            channel.begin_closing(deadline)

    def close(self, deadline: float) -> None:
        """Send what waits in our own providers and end them, by ``deadline`` at the latest."""
        _close(self.channels, deadline)

    def retire(self) -> None:
        """Let others be found in the place of our own, while these send what waits."""
        borrowed = {id(provider) for provider in self.borrowed}
        all_three = (self.tracer, self.logger, self.meter)
        own.retire(provider for provider in all_three if id(provider) not in borrowed)

    def reopen(self) -> None:
        """Let our own providers send again after they were closed."""
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
    """Return the providers to use, as things stand now.

    Args:
        tracer: A provider that was given; it wins over all others.
        logger: The same for log records.
        meter: The same for metrics.
        counters: What our own providers count their deliveries in.
        outage: What our own providers tell of their success.
        only: The signals to look for. Others get a provider that does nothing.

    Returns:
        For each signal the given provider, else the one that the application has set globally,
        else our own, from the environment. A signal of which any step fails costs no other one,
        and leaves no thread and no connection.
    """
    borrowed: list[Any] = []
    channels: list[own.Channel] = []
    failed: set[str] = set()

    def choose(signal: str, given: Any, make: Callable[[], Any], none: Any) -> Any:
        if signal not in only:
            return none
        its_channels: list[own.Channel] = []
        try:
            provider = in_force(signal) if given is None else given
            is_borrowed = given is not None or not is_placeholder(provider)
            if not is_borrowed:
                if environment.sdk_is_disabled():
                    return none
                provider, its_channels = make()
            _try_out(signal, provider)
        except Exception as error:  # noqa: BLE001  # the others shall work all the same
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

    # The SDK's own providers look for the global meter provider when they are made, and raise.
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
    """Return the global provider of a signal; ``None`` if a variable names one that is not there.

    OpenTelemetry's own function raises then, at each call.
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
    except Exception:  # noqa: BLE001  # a provider of somebody else's may raise anything
        environment.warn_once(
            f"{name} is {value!r}, and no provider of this name can be loaded: it is ignored. "
            "Unset it, or install the package that has the provider."
        )
        return True
    return False


def _try_out(signal: str, provider: Any) -> None:
    """Raise what a provider raises at its first use."""
    first_use = {"traces": "get_tracer", "logs": "get_logger", "metrics": "get_meter"}[signal]
    getattr(provider, first_use)(NAME, VERSION)


def _close(channels: list[own.Channel], deadline: float) -> None:
    for channel in channels:
        channel.begin_closing(deadline)
    for channel in channels:
        channel.finish_closing()


def is_placeholder(provider: Any) -> bool:
    """Return whether a global provider only stands in until somebody sets one.

    One of ours that is no longer in use does so too.
    """
    return (
        provider is None
        or own.is_idle(provider)
        or (
            type(provider).__name__.lstrip("_").startswith("Proxy")
            and type(provider).__module__.startswith("opentelemetry.")
        )
    )


def _flush_borrowed(providers: list[Any], deadline: float) -> Callable[[], bool]:
    """Flush providers of the application's, each on a thread of its own.

    The SDK's ``force_flush`` keeps no time limit: it is left behind when the time is up.

    Returns:
        A function that waits until ``deadline`` and returns whether all said they were done.
    """
    answers: list[bool] = []
    finished = threading.Semaphore(0)

    def flush(provider: Any) -> None:
        try:
            left = min(max(deadline - time.monotonic(), 0.0), _LONGEST_FLUSH)
            answers.append(provider.force_flush(int(left * _MILLISECONDS)) is not False)
        except Exception:  # noqa: BLE001  # a provider of the application's may raise anything
            answers.append(False)
        finally:
            finished.release()

    flushable = [provider for provider in providers if hasattr(provider, "force_flush")]
    for provider in flushable:
        if start_thread(partial(flush, provider), "flush") is None:
            # The interpreter is on its way out: the application flushes it.
            answers.append(False)
            finished.release()

    def wait() -> bool:
        for _ in flushable:
            left = min(max(deadline - time.monotonic(), 0.0), _LONGEST_FLUSH)
            if not finished.acquire(timeout=left):
                return False
        return all(answers)

    return wait

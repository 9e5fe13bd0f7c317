"""Which providers telemetry goes to: given, global or our own."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics, trace
from opentelemetry._logs import NoOpLoggerProvider, get_logger_provider

from rocketry_otel._runtime.forks import no_fork
from rocketry_otel._runtime.scope import NAME
from rocketry_otel._runtime.threads import start_thread

from . import otel_env as environment
from . import own_providers as own
from .queue import ExportQueue
from .responses import shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry._logs import LoggerProvider
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from .counters import Counters
    from .outage import Outage

_logger = logging.getLogger(NAME)

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
    """

    tracer: TracerProvider
    logger: LoggerProvider
    meter: MeterProvider
    channels: list[own.Channel] = field(default_factory=list)
    borrowed: list[Any] = field(default_factory=list)

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

    def flush_borrowed(self, deadline: float) -> Callable[[], bool]:
        """Begin to flush the providers of the application; return a function that waits."""
        return _flush_borrowed(self.borrowed, deadline)

    def begin_closing(self, deadline: float) -> None:
        """Begin to send what waits in our own providers, until ``deadline`` at the latest."""
        for channel in self.channels:
            channel.begin_closing(deadline)

    def close(self, deadline: float) -> None:
        """Send what waits in our own providers and end them, by ``deadline`` at the latest."""
        self.begin_closing(deadline)
        for channel in self.channels:
            channel.finish_closing()

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
) -> Providers:
    """Return the providers to use, as things stand now.

    Args:
        tracer: A provider that was given; it wins over all others.
        logger: The same for log records.
        meter: The same for metrics.
        counters: What our own providers count their deliveries in.
        outage: What our own providers tell of their success.

    Returns:
        For each signal the given provider, else the one that the application has set globally,
        else our own, from the environment.
    """
    borrowed: list[Any] = []
    channels: list[own.Channel] = []

    def choose(given: Any, in_force: Callable[[], Any], make: Callable[[], Any], none: Any) -> Any:
        try:
            provider = in_force() if given is None else given
            if given is not None or not is_placeholder(provider):
                borrowed.append(provider)
                return provider
            if environment.sdk_is_disabled():
                return none
            provider, its_channels = make()
        except Exception as error:  # noqa: BLE001  # the others shall work all the same
            _logger.warning("%s cannot be used: %s", type(none).__name__[4:], shown(error))
            return none
        channels.extend(its_channels)
        return provider

    with no_fork:  # exporters are imported here
        return Providers(
            tracer=choose(
                tracer,
                trace.get_tracer_provider,
                lambda: own.tracer_provider(counters, outage),
                trace.NoOpTracerProvider(),
            ),
            logger=choose(
                logger,
                get_logger_provider,
                lambda: own.logger_provider(counters, outage),
                NoOpLoggerProvider(),
            ),
            meter=choose(
                meter,
                metrics.get_meter_provider,
                lambda: own.meter_provider(outage),
                metrics.NoOpMeterProvider(),
            ),
            channels=channels,
            borrowed=borrowed,
        )


def is_placeholder(provider: Any) -> bool:
    """Return whether a global provider only stands in until somebody sets one.

    One of ours that is no longer in use does so too.
    """
    return own.is_idle(provider) or (
        type(provider).__name__.lstrip("_").startswith("Proxy")
        and type(provider).__module__.startswith("opentelemetry.")
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

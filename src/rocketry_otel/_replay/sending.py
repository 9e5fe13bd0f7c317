"""Sending records again, on channels of their own."""

from __future__ import annotations

import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry.metrics import NoOpMeterProvider

from rocketry_otel._errors import SettingsError
from rocketry_otel._export import otel_env as environment
from rocketry_otel._export import own_providers as own
from rocketry_otel._export.outage import Outage
from rocketry_otel._export.providers import Providers
from rocketry_otel._export.record_ref import RecordRef
from rocketry_otel._export.responses import shown
from rocketry_otel._telemetry.emitter import SignalEmitter

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from rocketry_otel._export.batch import Entry
    from rocketry_otel._export.queue import ExportQueue
    from rocketry_otel._export.record_ref import Key
    from rocketry_otel._history.reconstruct import Reconstructed
    from rocketry_otel._settings import Settings

    from .result import Tally

_SECONDS_BETWEEN_LOOKS = 0.2


class Channels(NamedTuple):
    """The channels of a replay.

    Attributes:
        queues: One for each signal and destination.
        emitter: Hands spans and log records over to them.
    """

    queues: list[ExportQueue[Any]]
    emitter: SignalEmitter


@contextmanager
def channels(settings: Settings, tally: Tally) -> Iterator[Channels]:
    """Give channels for the ``OTEL_*`` variables, and close them afterwards.

    Args:
        settings: Which tasks are exported.
        tally: Counts the items by their outcome.

    Raises:
        SettingsError: The variables name no destination, or an unusable one.
    """
    if environment.sdk_is_disabled():
        raise SettingsError("OTEL_SDK_DISABLED is true: nothing can be sent")
    outage = _UnloggedOutage(tally)
    tracer, spans = own.tracer_provider(tally.counters, outage)
    logger, log_records = own.logger_provider(tally.counters, outage)
    providers = Providers(tracer, logger, NoOpMeterProvider(), [*spans, *log_records])
    queues = providers.queues
    _check(queues)
    tally.queues = queues

    def add_dead_letters(_: ExportQueue[Any], __: list[Entry], count: int, reason: str) -> None:
        tally.refuse(count, reason)

    def lose(signal: str, error: Exception) -> None:
        tally.fail(f"it cannot be handed over ({signal}): {shown(error)}")

    for queue in queues:
        queue.add_dead_letters = add_dead_letters
    try:
        yield Channels(queues, SignalEmitter(providers, settings, lose))
    finally:
        providers.close(time.monotonic())


class _UnloggedOutage(Outage):
    """Logs nothing: the user sees the outage in the progress and in the result."""

    def __init__(self, tally: Tally) -> None:
        super().__init__(tally.counters)
        self._tally = tally

    def failed(
        self,
        signal: str,
        destination: str,
        reason: str,
        *,
        unknown: bool = False,
        channel: str = "",
    ) -> None:
        """Remember a signal that the destination does not accept at all."""
        del destination, reason, channel
        if unknown:
            self._tally.unknown.add(signal)

    def succeeded(self, signal: str, destination: str, channel: str = "") -> None:
        """Do nothing."""

    def refused(self, signal: str, destination: str, count: int, reason: str) -> None:
        """Do nothing: the tally counts refusals by their reasons."""


def _check(queues: Collection[ExportQueue[Any]]) -> None:
    for signal in ("traces", "logs"):
        wanted = environment.exporter_names(signal)
        if len(wanted) > sum(queue.signal == signal for queue in queues):
            raise SettingsError(
                f"OTEL_{signal.upper()}_EXPORTER names an exporter that cannot be used; it is "
                f"{', '.join(wanted)}"
            )
    if not queues:
        raise SettingsError(
            "OTEL_TRACES_EXPORTER and OTEL_LOGS_EXPORTER are none: nothing can be sent"
        )


def send_again(
    history: Iterator[Reconstructed],
    channels: Channels,
    tally: Tally,
    patience: float,
    wanted_by: Callable[[Key], Collection[str]] | None = None,
) -> None:
    """Send records on channels as fast as these take them.

    Args:
        history: The records.
        channels: The channels.
        tally: Counts the records.
        patience: Seconds without progress before this gives up.
        wanted_by: Returns the names of the channels that send a record; without it, all do.
    """
    names = [queue.name for queue in channels.queues]
    for position, one in enumerate(history):
        event = one.event
        key = (event.created, event.task_name or "", event.action or "")
        wanted = names if wanted_by is None else wanted_by(key)
        if not wanted:
            continue
        for queue in channels.queues:
            if not _wait(queue.wait_for_room, tally, patience):
                tally.is_cut_short = True
                return
        record_ref = RecordRef(*key, positions=dict.fromkeys(wanted, position))
        channels.emitter.send(event, one.step, record_ref)
        tally.add(one)
    for queue in channels.queues:
        if not _wait(partial(_is_sent, queue), tally, patience):
            return


def _is_sent(queue: ExportQueue[Any], timeout: float) -> bool:
    queue.wait_for(queue.hurry(), time.monotonic() + timeout)
    return queue.ask(lambda held: held.first_position(queue.name)) is None


def _wait(is_done: Callable[[float], bool], tally: Tally, patience: float) -> bool:
    """Wait for a channel; return whether it succeeded before the time was over."""
    # The time since the last delivery is no measure: finding the next record may take long.
    began = time.monotonic()
    while not is_done(_SECONDS_BETWEEN_LOOKS):
        tally.look()
        if time.monotonic() - max(tally.moved_at, began) > patience:
            return False
    return True

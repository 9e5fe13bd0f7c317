"""Sends the span and the log record of an event: one way for live, stored and replayed records.

In: an event, its run, and the reference to its stored record. Out: calls of OpenTelemetry's API.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from rocketry_otel._export.channel import signal_of
from rocketry_otel._export.deferred import Deferred
from rocketry_otel._export.otel_env import sends_exception_events
from rocketry_otel._export.own_providers import QueuesOfRuns
from rocketry_otel._export.record_ref import enter
from rocketry_otel._model.annotations import parent_of
from rocketry_otel._model.signals import beginning_attributes, log_signal, span_name, span_signal

from .logs import EventLogger
from .tracing import RunTracer

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.sampling import SamplingResult

    from rocketry_otel._export.encoded import Encoded
    from rocketry_otel._export.providers import Providers
    from rocketry_otel._export.queue import ExportQueue
    from rocketry_otel._export.record_ref import RecordRef
    from rocketry_otel._model.event import TaskEvent
    from rocketry_otel._model.ids import RunIds
    from rocketry_otel._model.runs import Run, Step
    from rocketry_otel._model.signals import ExceptionDetail, SpanSignal
    from rocketry_otel._settings import Settings

    Lost = Callable[[str, Exception], None]


# A longer text is cut at once, not when it is sent: many may wait.
_LONGEST_TO_KEEP = 65_536


class _SpanMaker:
    """Makes the spans of runs that have ended; see ``Maker``."""

    def __init__(self, tracer: RunTracer, detail: ExceptionDetail, lost: Lost) -> None:
        self._tracer = tracer
        self._detail = detail
        self._sends_exception_events = sends_exception_events()
        self.lost = partial(lost, "traces")

    def make(self, event: TaskEvent, run: Run) -> None:
        self._tracer.record(self._signal(event, run), run.ids, run.sampling)

    def encode(self, event: TaskEvent, run: Run) -> Encoded | None:
        return self._tracer.encode(self._signal(event, run), run.ids, run.sampling)

    def _signal(self, event: TaskEvent, run: Run) -> SpanSignal:
        signal = span_signal(run, event, self._detail)
        return signal if self._sends_exception_events else signal._replace(exception=None)


class _LogMaker:
    """Makes the log records of events; see ``Maker``."""

    def __init__(
        self, logger: EventLogger, tracer: RunTracer, detail: ExceptionDetail, lost: Lost
    ) -> None:
        self._logger = logger
        self._tracer = tracer
        self._detail = detail
        self.lost = partial(lost, "logs")

    def make(self, event: TaskEvent, run: Run | None) -> None:
        context = None if run is None else _context_of(self._tracer, run, event)
        self._logger.record(log_signal(event, self._detail), context)

    def encode(self, event: TaskEvent, run: Run | None) -> Encoded | None:
        ids = None if run is None else run.ids
        flags = self._tracer.flags_of(None if run is None else run.sampling)
        return self._logger.encode(log_signal(event, self._detail), ids, flags)


class SignalEmitter:
    """Sends the spans and log records of events.

    Args:
        providers: The providers of the signals.
        settings: Our own settings: the kind of span, and whether exceptions are sent.
        lost: Called with the name of a signal that could not be handed over, and the error.
    """

    def __init__(self, providers: Providers, settings: Settings, lost: Lost) -> None:
        self._tracer = RunTracer(providers.tracer, settings.span_kind)
        self._span_queues = QueuesOfRuns(providers.tracer)
        self._log_queues = QueuesOfRuns(providers.logger)
        logger = EventLogger(providers.logger)
        self._spans = _SpanMaker(self._tracer, settings.exceptions, lost)
        self._logs = _LogMaker(logger, self._tracer, settings.exceptions, lost)

    def context_of(self, run: Run, event: TaskEvent) -> Context:
        """Return the context that holds the run's span, made at the first call."""
        return _context_of(self._tracer, run, event)

    def context_of_ids(self, ids: RunIds, sampling: SamplingResult | None) -> Context:
        """Return a context with the span of a run that was sent, made anew."""
        return self._tracer.context_of(ids, sampling)

    def send(self, event: TaskEvent, step: Step, record_ref: RecordRef | None = None) -> None:
        """Send each signal; if one fails, as a user's processor may, the others are sent.

        Providers of ours make the span and the log record on the thread that sends them.

        Args:
            event: The event of the record.
            step: The step of the run: began, ended or neither.
            record_ref: The stored record; ``None`` if no repository has it.
        """
        run = step.run
        if run is not None and not self._tracer.samples_all:
            # A sampler is asked when the run begins: the spans of the body follow it.
            self.context_of(run, event)
        may_wait = not _is_large(event)
        if run is not None and step.change == "ended" and _is_for("traces", record_ref):
            is_sampled = self._tracer.is_sampled(run.sampling)
            queues = self._span_queues.find() if may_wait and is_sampled else None
            _send(Deferred(self._spans, event, run), queues, record_ref)
        if _is_for("logs", record_ref):
            queues = self._log_queues.find() if may_wait else None
            _send(Deferred(self._logs, event, run), queues, record_ref)


def _send(
    deferred: Deferred, queues: list[ExportQueue[Any]] | None, record_ref: RecordRef | None
) -> None:
    """Put an item into queues; without queues, let the provider make it at once."""
    try:
        if queues is not None:
            for queue in queues:
                queue.put(deferred, record_ref)
            return
        before = enter(record_ref)
        try:
            deferred.maker.make(deferred.event, deferred.run)
        finally:
            enter(before)
    except Exception as error:  # noqa: BLE001  # telemetry never hurts the task
        deferred.maker.lost(error)


def _context_of(tracer: RunTracer, run: Run, event: TaskEvent) -> Context:
    """Return the context that holds a run's span, made at the first call."""
    if run.context is None:
        first = run.began or event
        with suppress(Exception):  # the sampler is called again at the end, and errors count
            run.sampling = tracer.sampling_of(
                run.ids,
                span_name(first.task_name or ""),
                beginning_attributes(first),
                parent_of(first.links),
            )
        run.context = tracer.context_of(run.ids, run.sampling)
    return run.context


def _is_large(event: TaskEvent) -> bool:
    """Return whether a text of an event is far longer than what is sent of it."""
    exception = event.exception
    stacktrace = None if exception is None else exception.stacktrace
    return len(event.message) > _LONGEST_TO_KEEP or len(stacktrace or "") > _LONGEST_TO_KEEP


def _is_for(signal: str, record_ref: RecordRef | None) -> bool:
    """Return whether to send a signal; a record that is sent again has only some channels.

    The other signal may belong to a provider of the application, which has sent it already.
    """
    positions = None if record_ref is None else record_ref.positions
    return positions is None or any(signal_of(channel) == signal for channel in positions)

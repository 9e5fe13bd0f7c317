"""Sends the span and the log record of an event: one way for live, stored and replayed records.

In: an event, its run, and the reference to its stored record. Out: calls of OpenTelemetry's API.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Literal

from rocketry_otel._export.channel import signal_of
from rocketry_otel._export.deferred import Deferred
from rocketry_otel._export.otel_env import sends_exception_events
from rocketry_otel._export.own_providers import queues_of
from rocketry_otel._export.record_ref import enter
from rocketry_otel._model.signals import beginning_attributes, log_signal, span_name, span_signal

from .logs import EventLogger
from .tracing import RunTracer

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.context import Context

    from rocketry_otel._export.providers import Providers
    from rocketry_otel._export.record_ref import RecordRef
    from rocketry_otel._model.event import TaskEvent
    from rocketry_otel._model.runs import Run, Step
    from rocketry_otel._settings import Settings


# A longer text is cut at once, not when it is sent: many may wait.
_LONGEST_TO_KEEP = 65_536


class SignalEmitter:
    """Sends the spans and log records of events.

    Args:
        providers: The providers of the signals.
        settings: Our own settings: the kind of span, and whether exceptions are sent.
        lost: Called with the name of a signal that could not be handed over, and the error.
    """

    def __init__(
        self, providers: Providers, settings: Settings, lost: Callable[[str, Exception], None]
    ) -> None:
        self._tracer = RunTracer(providers.tracer, settings.span_kind)
        self._logger = EventLogger(providers.logger)
        self._providers = providers
        self._settings = settings
        self._lost = lost
        self._sends_exception_events = sends_exception_events()

    def context_of(self, run: Run, event: TaskEvent) -> Context:
        """Return the context that holds the run's span, made at the first call."""
        if run.context is None:
            first = run.began or event
            with suppress(Exception):  # the sampler is called again at the end, and errors count
                run.sampling = self._tracer.sampling_of(
                    run.ids, span_name(first.task_name or ""), beginning_attributes(first)
                )
            run.context = self._tracer.context_of(run.ids, run.sampling)
        return run.context

    def context_maker(self, run: Run) -> Callable[[], Context]:
        """Return a function that makes the context of a run that was sent, without the run."""
        return partial(self._tracer.context_of, run.ids, run.sampling)

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
            make = partial(self._record_span, run, event)
            is_sampled = self._tracer.is_sampled(run.sampling)
            self._send("traces", make, record_ref, may_wait=may_wait and is_sampled)
        if _is_for("logs", record_ref):
            make = partial(self._record_log, run, event)
            self._send("logs", make, record_ref, may_wait=may_wait)

    def _send(
        self,
        signal: Literal["traces", "logs"],
        make: Callable[[], object],
        record_ref: RecordRef | None,
        *,
        may_wait: bool,
    ) -> None:
        try:
            provider = self._providers.tracer if signal == "traces" else self._providers.logger
            queues = queues_of(provider) if may_wait else None
            if queues is not None:
                deferred = Deferred(make, partial(self._lost, signal))
                for queue in queues:
                    queue.put(deferred, record_ref)
                return
            before = enter(record_ref)
            try:
                make()
            finally:
                enter(before)
        except Exception as error:  # noqa: BLE001  # telemetry never hurts the task
            self._lost(signal, error)

    def _record_span(self, run: Run, event: TaskEvent) -> None:
        span = span_signal(run, event, self._settings.exceptions)
        if not self._sends_exception_events:
            span = span._replace(exception=None)
        self._tracer.record(span, run.ids, run.sampling)

    def _record_log(self, run: Run | None, event: TaskEvent) -> None:
        context = None if run is None else self.context_of(run, event)
        self._logger.record(log_signal(event, self._settings.exceptions), context)


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

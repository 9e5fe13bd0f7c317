"""Sends the span and the log record of an event: one way for live, stored and replayed records.

In: an event, its run, and the reference to its stored record. Out: calls of OpenTelemetry's API.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from rocketry_otel._export.channel import signal_of
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
        self._settings = settings
        self._lost = lost

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

    def send(
        self, event: TaskEvent, step: Step, record_ref: RecordRef | None = None
    ) -> Context | None:
        """Send each signal; if one fails, as a user's processor may, the others are sent.

        Args:
            event: The event of the record.
            step: The step of the run: began, ended or neither.
            record_ref: The stored record; ``None`` if no repository has it.

        Returns:
            The context that holds the run's span.
        """
        run = step.run
        context = None if run is None else self.context_of(run, event)
        before = enter(record_ref)
        try:
            if run is not None and step.change == "ended" and _is_for("traces", record_ref):
                self._send_span(run, event)
            if _is_for("logs", record_ref):
                self._send_log_record(event, context)
        finally:
            enter(before)
        return context

    def _send_span(self, run: Run, event: TaskEvent) -> None:
        try:
            span = span_signal(run, event, self._settings.exceptions)
            self._tracer.record(span, run.ids, run.sampling)
        except Exception as error:  # noqa: BLE001  # telemetry never hurts the task
            self._lost("traces", error)

    def _send_log_record(self, event: TaskEvent, context: Context | None) -> None:
        try:
            self._logger.record(log_signal(event, self._settings.exceptions), context)
        except Exception as error:  # noqa: BLE001
            self._lost("logs", error)


def _is_for(signal: str, record_ref: RecordRef | None) -> bool:
    """Return whether to send a signal; a record that is sent again has only some channels.

    The other signal may belong to a provider of the application, which has sent it already.
    """
    positions = None if record_ref is None else record_ref.positions
    return positions is None or any(signal_of(channel) == signal for channel in positions)

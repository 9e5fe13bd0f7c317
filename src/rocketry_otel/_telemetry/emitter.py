"""From events and runs to what leaves the machine: one way for live, stored and old records."""

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
        providers: Where they go.
        settings: What may leave the machine.
        lost: Told of a signal that could not be handed over, and why.
    """

    def __init__(
        self, providers: Providers, settings: Settings, lost: Callable[[str, Exception], None]
    ) -> None:
        self._tracer = RunTracer(providers.tracer, settings.span_kind)
        self._logger = EventLogger(providers.logger)
        self._settings = settings
        self._lost = lost

    def context_of(self, run: Run, event: TaskEvent) -> Context:
        """Return the context that holds the run's span, made when it is first asked for."""
        if run.context is None:
            first = run.began or event
            with suppress(Exception):  # it is asked again at the end, and then it counts
                run.sampling = self._tracer.sampling_of(
                    run.ids, span_name(first.task_name or ""), beginning_attributes(first)
                )
            run.context = self._tracer.context_of(run.ids, run.sampling)
        return run.context

    def send(
        self, event: TaskEvent, step: Step, record_ref: RecordRef | None = None
    ) -> Context | None:
        """Send each signal; that one fails, as a user's processor may, costs no other one.

        Args:
            event: What happened.
            step: What that did to a run.
            record_ref: The stored record that says so, if one does.

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
    """Return whether a signal is wanted: of what is sent again, that of its channels alone.

    The provider of the other one may be the application's, which has sent it.
    """
    positions = None if record_ref is None else record_ref.positions
    return positions is None or any(signal_of(channel) == signal for channel in positions)

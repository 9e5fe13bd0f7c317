"""The bridge from events to OpenTelemetry: it never raises, blocks or slows a task.

The one path that everything takes: record -> event -> run -> signals -> exporters.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from . import _exit
from ._counts import Counts
from ._events import parse_event
from ._forks import after_fork_in_child
from ._logs import EventLogger
from ._metrics import TaskMetrics
from ._outage import Outage
from ._providers import Providers, resolve
from ._runs import RunTracker, Step
from ._scope import NAME
from ._signals import beginning_attributes, log_signal, span_name, span_signal
from ._tracing import RunTracer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry._logs import LoggerProvider
    from opentelemetry.context import Context
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from ._events import TaskEvent
    from ._identity import Identity
    from ._runs import Run
    from ._settings import Settings

_logger = logging.getLogger(NAME)


class Observation(NamedTuple):
    """A record as the bridge sees it: what it says, and what that did to a run."""

    event: TaskEvent
    step: Step

    @property
    def identity(self) -> Identity | None:
        """The ids of the run that the record belongs to."""
        return None if self.step.run is None else self.step.run.identity


class _Signals(NamedTuple):
    """Where each signal goes, once the providers are known."""

    providers: Providers
    tracer: RunTracer
    logger: EventLogger
    metrics: TaskMetrics


class Bridge:
    """Turns events into spans, log records and metrics.

    Args:
        settings: What may leave the machine, and how.
        keeps_run_id: Whether the repository keeps run ids.
        find_run: Looks in the repository for the event that began a run.
        tracer_provider: Given by the user, as are the two others; ``None`` for the global one
            or, if there is none when the first record comes, our own.
        logger_provider: The same for log records.
        meter_provider: The same for metrics.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        keeps_run_id: bool,
        find_run: Callable[[TaskEvent], TaskEvent | None],
        tracer_provider: TracerProvider | None,
        logger_provider: LoggerProvider | None,
        meter_provider: MeterProvider | None,
    ) -> None:
        self.counts = Counts()
        self._settings = settings
        self._given = (tracer_provider, logger_provider, meter_provider)
        self._outage = Outage(self.counts)
        self._tracker = RunTracker(
            keeps_run_id=keeps_run_id, find_run=lambda event: self._find(find_run, event)
        )
        self._signals: _Signals | None = None
        self._closed = False
        self._complained = False
        self._renew_lock()
        after_fork_in_child(self._renew_lock)

    def _renew_lock(self) -> None:
        self._lock = threading.RLock()

    def observe(
        self, fields: Mapping[str, Any], message: object = None, execution: str | None = None
    ) -> Observation | None:
        """Take in a record; ``None`` if even that fails, which is logged.

        Args:
            fields: ``vars()`` of a log record, or the fields of a stored one.
            message: Its message, if that is not among the fields.
            execution: Its mode of execution, if that is not among the fields.
        """
        try:
            event = parse_event(fields, message, execution)
            with self._lock:
                return Observation(event, self._tracker.observe(event))
        except Exception as error:  # noqa: BLE001  # telemetry never hurts the task
            self._complain("A record could not be understood", error)
            return None

    def export(self, observation: Observation | None) -> None:
        """Send what an observed record says; never raises."""
        if observation is None:
            return
        event, step = observation
        try:
            if step.change == "repeated":
                self.counts.add("traces", "dropped", reason="repeated_ending")
            if step.given_up is not None:
                self.counts.add("traces", "dropped", reason="never_ended")
            if self._closed:
                self.counts.add("logs", "dropped", reason="closed")
                return
            signals = self._signals or self._connect()
            if step.given_up is not None and self._exports(step.given_up.began):
                signals.metrics.stopped(step.given_up)
            if self._exports(event):
                self._send(signals, event, step)
        except Exception as error:  # noqa: BLE001  # telemetry never hurts the task
            self.counts.add("logs", "dropped", reason="error")
            self._complain("The telemetry of a record could not be made", error)

    def flush(self, timeout: float) -> bool:
        """Send what waits.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            Whether everything handed over so far was accepted in time.
        """
        signals = self._signals
        return signals is None or signals.providers.flush(time.monotonic() + timeout)

    def close(self, timeout: float) -> None:
        """Send what waits, for ``timeout`` seconds at most, and send nothing any more."""
        with self._lock:
            self._closed = True
            signals = self._signals
        if signals is not None:
            signals.providers.close(time.monotonic() + timeout)
        _exit.forget(self)

    @property
    def shutdown_timeout(self) -> float:
        """How many seconds leaving the program may wait for this bridge."""
        return self._settings.shutdown_timeout

    def _connect(self) -> _Signals:
        """Find the providers, once: now, so that an application that set its own late wins."""
        with self._lock:
            if self._signals is None:
                providers = resolve(*self._given, self.counts, self._outage)
                self._signals = _Signals(
                    providers,
                    RunTracer(providers.tracer, self._settings.span_kind),
                    EventLogger(providers.logger),
                    TaskMetrics(providers.meter, self.counts),
                )
                _exit.remember(self)
            return self._signals

    def _send(self, signals: _Signals, event: TaskEvent, step: Step) -> None:
        """Send each signal; that one fails, as a user's processor may, costs no other one."""
        run, detail = step.run, self._settings.exceptions
        context = None if run is None else self._context_of(signals, run, event)
        if run is not None and step.change == "ended":
            try:
                span = span_signal(run, event, detail)
                signals.tracer.record(span, run.identity, run.sampling)
            except Exception as error:  # noqa: BLE001  # telemetry never hurts the task
                self._lose("traces", error)
        try:
            signals.logger.record(log_signal(event, detail), context)
        except Exception as error:  # noqa: BLE001
            self._lose("logs", error)
        try:
            signals.metrics.count(event, step, context)
        except Exception as error:  # noqa: BLE001
            self._lose("metrics", error)

    def _context_of(self, signals: _Signals, run: Run, event: TaskEvent) -> Context:
        """Return the context that holds the run's span, made when it is first asked for."""
        if run.context is None:
            first = run.began or event
            run.sampling = signals.tracer.sampling_of(
                run.identity, span_name(first.task_name or ""), beginning_attributes(first)
            )
            run.context = signals.tracer.context_of(run.identity, run.sampling)
        return run.context

    def _exports(self, event: TaskEvent | None) -> bool:
        return event is None or event.task_name is None or self._settings.exports(event.task_name)

    def _find(
        self, find_run: Callable[[TaskEvent], TaskEvent | None], event: TaskEvent
    ) -> TaskEvent | None:
        try:
            return find_run(event)
        except Exception:  # the write that follows meets the same error, and tells
            _logger.debug("could not look for the beginning of a run", exc_info=True)
            return None

    def _lose(self, signal: str, error: Exception) -> None:
        self.counts.add(signal, "dropped", reason="error")
        self._complain(f"Something could not be handed over ({signal})", error)

    def _complain(self, what: str, error: Exception) -> None:
        """Log a fault of ours, once: a fault that comes with every record floods nobody."""
        if not self._complained:
            self._complained = True
            _logger.error("%s; further ones are not reported", what, exc_info=error)

"""The bridge from events to OpenTelemetry: it never raises, blocks or slows a task.

The one path that everything takes: record -> event -> run -> signals -> exporters.
"""

from __future__ import annotations

import logging
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from rocketry_otel._delivery.worker import DeliveryWorker
from rocketry_otel._export.counters import Counters
from rocketry_otel._export.global_providers import make_global
from rocketry_otel._export.outage import Outage
from rocketry_otel._export.providers import Providers, resolve
from rocketry_otel._export.record_ref import record_ref_of
from rocketry_otel._export.status import delivery_of
from rocketry_otel._model.annotations import plain_attributes
from rocketry_otel._model.event import RUN, SUCCESS, live_event, parse_event
from rocketry_otel._model.runs import Observation, RunTracker, Step
from rocketry_otel._runtime import shutdown
from rocketry_otel._runtime.forks import after_fork_in_child, no_fork
from rocketry_otel._runtime.scope import NAME
from rocketry_otel._telemetry.emitter import SignalEmitter
from rocketry_otel._telemetry.heartbeat import Heartbeat
from rocketry_otel._telemetry.metrics import TaskMetrics

from .latest_runs import LatestRuns, look_up
from .pending_launches import PendingLaunches
from .user_hooks import UserHooks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from opentelemetry._logs import LoggerProvider
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider
    from redbird import BaseRepo

    from rocketry_otel._export.record_ref import RecordRef
    from rocketry_otel._history.run_lookup import RunLookup
    from rocketry_otel._model.event import TaskEvent
    from rocketry_otel._model.runs import Run
    from rocketry_otel._settings import Settings

_logger = logging.getLogger(NAME)


class _Signals(NamedTuple):
    """Where each signal goes, once the providers are known."""

    providers: Providers
    emitter: SignalEmitter
    metrics: TaskMetrics


class Bridge:
    """Turns events into spans, log records and metrics.

    Args:
        settings: What may leave the machine, and how.
        repo: The repository.
        run_lookup: What it keeps of runs.
        tracer_provider: Given by the user, as are the two others; ``None`` for the global one
            or, if there is none when the first record comes, our own.
        logger_provider: The same for log records.
        meter_provider: The same for metrics.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        repo: BaseRepo,
        run_lookup: RunLookup,
        tracer_provider: TracerProvider | None,
        logger_provider: LoggerProvider | None,
        meter_provider: MeterProvider | None,
    ) -> None:
        self.counters = Counters()
        self._settings = settings
        self._given = (tracer_provider, logger_provider, meter_provider)
        self._outage = Outage(self.counters)
        self._run_lookup = run_lookup
        self.delivery_worker = DeliveryWorker(repo, run_lookup, settings, self.counters)
        self.keeps_run_id = run_lookup.keeps("run_id")
        self._tracker = RunTracker(
            keeps_run_id=self.keeps_run_id,
            find_run=lambda event: look_up(run_lookup.find_beginning, event),
        )
        self.latest_runs = LatestRuns(run_lookup)
        self.pending_launches = PendingLaunches()
        self.heartbeat = Heartbeat()
        # For the hooks of users, and whether ours may be the global providers: ``instrument``
        # sets these.
        self.user_hooks = UserHooks()
        self.may_be_global = False
        self._signals: _Signals | None = None
        self._closed = False
        self._resting = False
        self._is_logged = False
        self._renew_lock()
        after_fork_in_child(self._renew_lock)

    def _renew_lock(self) -> None:
        self._lock = threading.RLock()

    def observe(
        self, fields: Mapping[str, Any], message: object, execution: str | None
    ) -> Observation | None:
        """Take in a log record; ``None`` if even that fails, which is logged.

        Args:
            fields: ``vars()`` of the record.
            message: Its message.
            execution: Its mode of execution, where it is known.
        """
        return self._observe(partial(live_event, fields, message, execution), fields)

    def observe_stored(self, fields: Mapping[str, Any]) -> Observation | None:
        """Take in a record that another repository has kept; ``None`` if even that fails.

        Args:
            fields: The fields of the record.
        """
        return self._observe(partial(parse_event, fields), fields)

    def _observe(
        self, parse: Callable[[], TaskEvent], fields: Mapping[str, Any]
    ) -> Observation | None:
        try:
            event = parse()
            launch = None
            if event.action == RUN and event.task_name is not None:
                launch = self.pending_launches.take(event.task_name, event.run_id)
                if launch is not None and launch.links:
                    event = event._replace(links=launch.links)
            with self._lock:
                step = self._tracker.observe(event)
            run = step.run
            if run is None:
                return Observation(event, step)
            if launch is not None:
                run.launched_in = launch.context
            if step.change == "began":
                self.latest_runs.remember(event, run)
            elif step.change == "ended":
                event = self._completed(event, run, fields)
                self.latest_runs.remember(event, run)
            return Observation(event, step)
        except Exception as error:  # noqa: BLE001  # telemetry never hurts the task
            self.counters.add("logs", "dropped", reason="error")
            self._log_once("A record could not be understood", error)
            return None

    def expect(self, observation: Observation | None) -> int | None:
        """Take note that a record is about to be written to the repository; never raises.

        Returns:
            What to give to ``export``.
        """
        try:
            if observation is None or not self._exports(observation.event):
                return None
            if not self._closed:
                self._awake()
            return self.delivery_worker.expect(observation.event)
        except Exception as error:  # noqa: BLE001  # telemetry never hurts the task
            self._log_once("A record cannot be followed on its way", error)
            return None

    def export(
        self,
        observation: Observation | None,
        expected: int | None = None,
        *,
        may_be_stored: bool = False,
    ) -> None:
        """Send what an observed record says; never raises.

        Args:
            observation: The record.
            expected: What ``expect`` returned.
            may_be_stored: Whether the repository has the record, as far as is known.
        """
        if observation is None:
            return
        event, step = observation
        try:
            if step.change == "repeated" and self._exports(event):
                self.counters.add("traces", "dropped", reason="repeated_ending")
            if step.given_up is not None:
                self.counters.add("traces", "dropped", reason="never_ended")
            if self._closed:
                if not self.delivery_worker.is_durable:
                    self.counters.add("logs", "dropped", reason="closed")
                return  # and it stays expected: the next start finds it
            try:
                self._send(event, step, record_ref_of(event) if may_be_stored else None)
            finally:
                self.delivery_worker.settle(expected)
        except Exception as error:  # noqa: BLE001  # telemetry never hurts the task
            self.counters.add("logs", "dropped", reason="error")
            self._log_once("The telemetry of a record could not be made", error)

    def open_run(self, task_name: str, run_id: str | None) -> Run | None:
        """Return the run of a task that goes on under this id, its context made."""
        with self._lock:
            run = self._tracker.open_run(task_name, run_id)
        if run is None or run.began is None or self._closed:
            return None
        (self._signals or self._connect()).emitter.context_of(run, run.began)
        return run

    def start(self, task_names: Iterable[str]) -> None:
        """Find the providers as the scheduler starts, and show what the repository knows.

        Args:
            task_names: The names of the tasks.
        """
        try:
            signals = self._signals or self._connect()
            self.delivery_worker.begin()
            for name in task_names:
                event = look_up(self._run_lookup.newest, name, SUCCESS)
                if event is not None and self._exports(event):
                    signals.metrics.succeeded(name, event.created)
        except Exception as error:  # noqa: BLE001  # telemetry never hurts the task
            self._log_once("The providers could not be found at the start", error)

    @property
    def providers(self) -> Providers | None:
        """The providers, once they have been found."""
        return None if self._signals is None else self._signals.providers

    def flush(self, timeout: float) -> bool:
        """Send what waits.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            Whether everything handed over so far was accepted in time.
        """
        signals, deadline = self._signals, time.monotonic() + timeout
        if signals is None:
            return True
        if signals.providers.flush(deadline) and self.delivery_worker.wait(0.0):
            return True
        # What there was no room for comes from the repository, now that there is some.
        return self.delivery_worker.wait(deadline) and signals.providers.flush(deadline)

    def begin_closing(self, deadline: float) -> None:
        """Begin to send what waits, until ``deadline`` (``time.monotonic()``); do not wait."""
        self._closed = True
        if self._signals is not None:
            self.delivery_worker.begin_stopping()
            self._signals.providers.begin_closing(deadline)

    def close(self, timeout: float) -> None:
        """Send what waits, for ``timeout`` seconds at most, and send nothing any more."""
        self._closed = True
        self.rest(timeout)

    def rest(self, timeout: float) -> None:
        """Send what waits, for ``timeout`` seconds at most, and send on when there is more."""
        deadline = time.monotonic() + timeout
        with self._lock:
            signals = self._signals
        if signals is not None:
            self.delivery_worker.stop(timeout)
            signals.providers.close(deadline)
            self.delivery_worker.finish(for_good=self._closed)
        shutdown.forget(self)
        with self._lock:
            # Not before: what comes meanwhile is left to the repository, and wakes nobody.
            self._resting = signals is not None

    def _awake(self) -> _Signals:
        """Return where signals go, found by now and open."""
        signals = self._signals or self._connect()
        if self._resting:
            with self._lock:
                self._resting = False
                signals.providers.reopen()
                self.delivery_worker.reopen()
                shutdown.remember(self)
        return signals

    @property
    def shutdown_timeout(self) -> float:
        """How many seconds leaving the program may wait for this bridge."""
        return self._settings.shutdown_timeout

    def _connect(self) -> _Signals:
        """Find the providers, once: now, so that an application that set its own late wins."""
        # A child that is forked in the midst of it would have the half of it.
        with self._lock, no_fork:
            if self._signals is None:
                providers = resolve(*self._given, self.counters, self._outage)
                emitter = SignalEmitter(providers, self._settings, self._lose)
                metrics = TaskMetrics(
                    providers.meter, self.counters, delivery_of(self.delivery_worker)
                )
                self.heartbeat.show(providers.meter)
                self.delivery_worker.follow(providers.queues, emitter)
                if self.may_be_global:
                    make_global(providers)
                shutdown.remember(self)
                self._signals = _Signals(providers, emitter, metrics)
            return self._signals

    def _send(self, event: TaskEvent, step: Step, record_ref: RecordRef | None) -> None:
        signals = self._awake()
        is_wanted = self._exports(event)
        context = signals.emitter.send(event, step, record_ref) if is_wanted else None
        try:
            if step.given_up is not None and self._exports(step.given_up.began):
                signals.metrics.stopped(step.given_up)
            if is_wanted:
                signals.metrics.count(event, step, context)
        except Exception as error:  # noqa: BLE001  # telemetry never hurts the task
            self._lose("metrics", error)

    def _completed(self, event: TaskEvent, run: Run, fields: Mapping[str, Any]) -> TaskEvent:
        """Return an ending with what the body and the user's hooks have added to its run."""
        added: dict[str, Any] = dict(event.attributes)
        events = event.events
        if run.annotations is not None:
            added |= run.annotations.attributes
            events += tuple(run.annotations.events)
        if self.user_hooks:
            added |= self.user_hooks.of(event, fields, self.counters)
        if not added and not events:
            return event
        return event._replace(attributes=plain_attributes(added), events=events)

    def _exports(self, event: TaskEvent | None) -> bool:
        return event is None or event.task_name is None or self._settings.exports(event.task_name)

    def _lose(self, signal: str, error: Exception) -> None:
        self.counters.add(signal, "dropped", reason="error")
        self._log_once(f"Something could not be handed over ({signal})", error)

    def _log_once(self, what: str, error: Exception) -> None:
        """Log a fault of ours, once: a fault that comes with every record floods nobody."""
        if not self._is_logged:
            self._is_logged = True
            _logger.error("%s; further ones are not reported", what, exc_info=error)

"""From a step of a run to the providers: everything that outlives a record.

In: an event, the step that it made in a run, and a reference to its stored record. Out: a span, a
log record and metrics, handed to the providers of OpenTelemetry. The providers are found when the
first record comes, so that an application that sets its own late still wins.
"""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from rocketry_otel._export.backoff import pause_after
from rocketry_otel._export.counters import Counters
from rocketry_otel._export.global_providers import make_global
from rocketry_otel._export.outage import Outage
from rocketry_otel._export.providers import Providers, resolve
from rocketry_otel._export.status import delivery_of
from rocketry_otel._runtime import shutdown
from rocketry_otel._runtime.forks import after_fork_in_child, no_fork
from rocketry_otel._runtime.sigterm import termination
from rocketry_otel._runtime.suppression import suppressed
from rocketry_otel._runtime.threads import start_thread
from rocketry_otel._telemetry.emitter import SignalEmitter
from rocketry_otel._telemetry.heartbeat import Heartbeat
from rocketry_otel._telemetry.logs import LineLogger
from rocketry_otel._telemetry.metrics import TaskMetrics
from rocketry_otel._telemetry.waiting import WaitingSeconds

from .worker import DeliveryWorker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opentelemetry._logs import LoggerProvider
    from opentelemetry.context import Context
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider
    from redbird import BaseRepo

    from rocketry_otel._export.record_ref import RecordRef
    from rocketry_otel._history.run_lookup import RunLookup
    from rocketry_otel._model.event import TaskEvent
    from rocketry_otel._model.runs import Run, Step
    from rocketry_otel._model.signals import LogSignal
    from rocketry_otel._settings import Settings
    from rocketry_otel._telemetry.running import RunningRun


_LONGEST_IN_AN_OUTAGE = 1.0


class GivenProviders(NamedTuple):
    """The providers that the user gave; ``None`` for the global one, or our own."""

    tracer: TracerProvider | None = None
    logger: LoggerProvider | None = None
    meter: MeterProvider | None = None


class _Signals(NamedTuple):
    """The way of each signal, once the providers are known."""

    providers: Providers
    emitter: SignalEmitter
    metrics: TaskMetrics
    lines: LineLogger


class Pipeline:
    """The providers of a handler, and the delivery of its stored records.

    It is open or rests. It rests from the closing of its handler to the next record, since
    ``logging.config`` closes handlers that stay in use.

    Args:
        settings: Our own settings.
        repo: The repository.
        run_lookup: The runs in it.
        given: The providers that the user gave.
        lost: Called with the name of a signal that could not be handed over, and the error.

    Attributes:
        counters: The number of items by their outcome.
        worker: The delivery of stored records.
        heartbeat: The cycles of the scheduler.
        waiting: How long tasks were due and not launched.
        is_closed: Whether it sends nothing any more.
    """

    def __init__(
        self,
        settings: Settings,
        repo: BaseRepo,
        run_lookup: RunLookup,
        given: GivenProviders,
        lost: Callable[[str, Exception], None],
    ) -> None:
        self.counters = Counters()
        self.worker = DeliveryWorker(repo, run_lookup, settings, self.counters)
        self.heartbeat = Heartbeat()
        self.waiting = WaitingSeconds()
        self._settings = settings
        self._given = given
        self._lost = lost
        # Whether something was lost before it came to a channel, since the last flush.
        self._has_lost = False
        self._failures = 0
        self._try_again_at = 0.0
        self._outage = Outage(self.counters)
        self._may_be_global = False
        self._running: Callable[[], Iterable[RunningRun]] = tuple
        self._next_runs: Callable[[], Iterable[tuple[str, float]]] = tuple
        self._signals: _Signals | None = None
        self.is_closed = False
        self._resting = False
        # Seconds that the end of the scheduler has waited, without success.
        self._spent = 0.0
        self._renew_lock()
        after_fork_in_child(self._renew_lock)

    def _renew_lock(self) -> None:
        # It guards `_signals` and `_resting`. The locks of channels, of the worker and of the
        # program's end are taken while it is held; it is never taken while one of them is held.
        self._lock = threading.RLock()

    @property
    def providers(self) -> Providers | None:
        """The providers, once they have been found."""
        return None if self._signals is None else self._signals.providers

    @property
    def shutdown_timeout(self) -> float:
        """How many seconds the end of the program may wait for it.

        In an outage a durable repository keeps what waits: the next process sends it. The end of
        the scheduler and that of the program share the time.
        """
        longest = self._settings.shutdown_timeout
        if self._outage.is_on and self.worker.is_durable:
            longest = min(longest, _LONGEST_IN_AN_OUTAGE)
        return max(longest - self._spent, 0.0)

    def allow_global(self) -> None:
        """Let our own providers become the global ones where the application has set none."""
        self._may_be_global = True

    def show_runs(
        self,
        running: Callable[[], Iterable[RunningRun]],
        next_runs: Callable[[], Iterable[tuple[str, float]]],
    ) -> None:
        """Let the metrics show the runs that go on, and when the next ones are due."""
        self._running, self._next_runs = running, next_runs

    def replace(self, other: Pipeline, open_runs: Iterable[Run]) -> None:
        """Send from now on in the place of another pipeline, which sends its queues and closes.

        Args:
            other: The pipeline of the repository that was in use before.
            open_runs: The runs that go on: there they are counted no more.
        """
        self._may_be_global = other._may_be_global
        self.waiting.follow(other.waiting)
        with other._lock:
            signals = other._signals
        if signals is None:
            return
        for run in open_runs:
            signals.metrics.stopped(run)
        signals.providers.retire()
        start_thread(partial(other.close, other.shutdown_timeout), "close")

    def handle_sigterm(self, *, serves: bool = False) -> None:
        """Let a SIGTERM send the queues, where that is possible; see ``Termination.install``.

        Args:
            serves: Whether a scheduler starts in this process.
        """
        if not self._settings.sigterm:
            return
        termination.install(self, self._settings.shutdown_timeout, serves=serves)
        providers = self.providers
        if providers is not None and (providers.channels or providers.borrowed):
            termination.watch()

    def connect(self) -> _Signals:
        """Return the way of each signal; the providers are found by the first call."""
        # A child that is forked meanwhile would have half of them.
        with self._lock, no_fork:
            if self._signals is None:
                if time.monotonic() < self._try_again_at:
                    raise RuntimeError("the last try to find the providers has failed")
                providers = resolve(*self._given, self.counters, self._outage)
                try:
                    self._signals = self._use(providers)
                except BaseException:
                    self._has_lost = True
                    self._postpone()
                    providers.close(time.monotonic())
                    raise
                if providers.failed:
                    self._postpone()
                self.handle_sigterm()
            return self._signals

    def _use(self, providers: Providers) -> _Signals:
        emitter = SignalEmitter(providers, self._settings, self._lose)
        metrics = TaskMetrics(
            providers.meter,
            self.counters,
            delivery_of(self.worker),
            self._lose,
            self._running,
            self._next_runs,
            emitter.context_of_ids,
        )
        self.heartbeat.show(providers.meter)
        self.waiting.show(providers.meter)
        with suppressed():
            self.worker.follow(providers.queues, emitter, providers.line_queues)
        if self._may_be_global:
            make_global(providers)
        shutdown.remember(self)
        return _Signals(providers, emitter, metrics, LineLogger(providers.logger))

    def _postpone(self) -> None:
        self._try_again_at = time.monotonic() + pause_after(self._failures)
        self._failures += 1

    def _complete(self, signals: _Signals) -> None:
        """Try again, now and then, to find the providers that were not found."""
        if time.monotonic() < self._try_again_at:
            return
        with self._lock:
            # Another record may have come first.
            if time.monotonic() >= self._try_again_at:  # pragma: no branch
                self._postpone()
                start_thread(partial(self._try_again, signals), "providers")

    def _try_again(self, signals: _Signals) -> None:
        failed = signals.providers.failed
        found = resolve(*self._given, self.counters, self._outage, only=failed)
        found.close(time.monotonic())
        if found.failed == failed:
            return
        # All begin again, so that there is one way to begin.
        self.worker.stop(self.shutdown_timeout)
        signals.providers.close(time.monotonic() + self.shutdown_timeout)
        self.worker.finish(for_good=True)
        with self._lock:
            self._has_lost = self._has_lost or not signals.providers.flush(time.monotonic())
            is_in_use = self._signals is signals and not (self._resting or self.is_closed)
            if is_in_use:  # pragma: no branch  # the handler may be closed meanwhile
                self._signals = None
                self._try_again_at = 0.0
                self.worker.reopen()

    def note_loss(self) -> None:
        """Let the next flush be false: something was lost before it came to a channel."""
        self._has_lost = True

    def _lose(self, signal: str, error: Exception) -> None:
        self._has_lost = True
        self._lost(signal, error)

    def wake(self) -> _Signals:
        """Return the way of each signal, open again if this was resting."""
        signals = self._signals or self.connect()
        if self._resting:
            with self._lock:
                self._resting = False
                signals.providers.reopen()
                self.worker.reopen()
                shutdown.remember(self)
        if signals.providers.failed:
            self._complete(signals)
        return signals

    def context_of(self, run: Run, event: TaskEvent) -> Context:
        """Return the context that holds the span of a run."""
        return (self._signals or self.connect()).emitter.context_of(run, event)

    def send(self, event: TaskEvent, step: Step, record_ref: RecordRef | None) -> None:
        """Hand over the span, the log record and the metrics of an event."""
        signals = self.wake()
        for signal in signals.providers.failed:
            if signal == "logs" or (signal == "traces" and step.change == "ended"):
                self.counters.add(signal, "dropped", reason="no_provider")
            self._has_lost = True
        signals.emitter.send(event, step, record_ref)
        run = step.run
        if run is not None and step.change in {"began", "ended"}:
            try:
                signals.metrics.count(event, run, step.change)
            except Exception as error:  # noqa: BLE001  # telemetry never hurts the task
                self._lose("metrics", error)

    @property
    def sends_logs(self) -> bool:
        """Whether log records of runs are sent anywhere, as far as is known."""
        try:
            return not self.is_closed and self.connect().providers.sends_logs
        except Exception:  # noqa: BLE001  # it is counted where a record is sent
            return False

    @property
    def sends_log_lines(self) -> bool:
        """Whether the log lines of tasks' bodies are sent: by the settings, and to anywhere."""
        return self._settings.sends_log_lines and self.sends_logs

    def send_line(self, logger_name: str, signal: LogSignal, context: Context | None) -> None:
        """Hand over a log line; an error is counted.

        Args:
            logger_name: The name of its logger.
            signal: The line.
            context: The context that holds the span it belongs to, if it has one.
        """
        if self.is_closed:
            self.counters.add("logs", "dropped", reason="closed")
            return
        try:
            signals = self.wake()
            if "logs" in signals.providers.failed:
                self.counters.add("logs", "dropped", reason="no_provider")
                self._has_lost = True
            elif signals.providers.sends_logs:
                signals.lines.record(logger_name, signal, context)
        except Exception as error:  # noqa: BLE001  # telemetry never hurts the task
            self._lose("logs", error)

    def note_dropped_lines(self, count: object) -> None:
        """Count the log lines that a child process has dropped; ``count`` is its number of them."""
        if type(count) is int and count > 0:
            self.counters.add("logs", "dropped", count, "line_queue_full")
            self._has_lost = True

    def measure(self, change: Callable[[TaskMetrics], None]) -> None:
        """Change metrics; an error of the application's provider costs nothing else."""
        try:
            change(self.wake().metrics)
        except Exception as error:  # noqa: BLE001  # telemetry never hurts the task
            self._lose("metrics", error)

    def flush(self, timeout: float) -> bool:
        """Send the queues.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            Whether everything handed over so far, and since the flush before, was accepted in
            time.
        """
        accepted = self._send_queues(timeout)
        has_lost, self._has_lost = self._has_lost, False
        if self._signals is not None:
            self._signals.providers.report_losses()
        return accepted and not has_lost

    def _send_queues(self, timeout: float) -> bool:
        """Send the queues; return whether they were accepted, and forget no loss."""
        signals, deadline = self._signals, time.monotonic() + timeout
        if signals is None:
            return True
        if signals.providers.flush(deadline) and self.worker.wait(0.0):
            return True
        # The overflow of the queues comes from the repository, now that they have room.
        return self.worker.wait(deadline) and signals.providers.flush(deadline)

    def flush_borrowed(self, deadline: float) -> Callable[[], object]:
        """Begin to flush the providers of the application; return a function that waits."""
        signals = self._signals
        return bool if signals is None else signals.providers.flush_borrowed(deadline)

    def start_scheduler(self) -> None:
        """Begin to catch up, and handle SIGTERM, before the first run."""
        self._spent = 0.0
        self.handle_sigterm(serves=True)
        self.worker.begin()

    def end_scheduler(self) -> None:
        """Send the queues and store an orderly end, within the shutdown time-out.

        The pipeline stays open: the process may start the scheduler again.
        """
        began = time.monotonic()
        if not self._send_queues(self.shutdown_timeout):
            self._spent = time.monotonic() - began
        self.worker.note_orderly_end()

    def begin_closing(self, deadline: float) -> None:
        """Begin to send the queues, until ``deadline`` (``time.monotonic()``); do not wait."""
        self.is_closed = True
        if self._signals is not None:
            self.worker.begin_stopping()
            self._signals.providers.begin_closing(deadline)

    def close(self, timeout: float) -> None:
        """Send the queues, for ``timeout`` seconds at most, and send nothing any more."""
        self.is_closed = True
        self.rest(timeout)

    def rest(self, timeout: float) -> None:
        """Send the queues, for ``timeout`` seconds at most; the next record opens them again."""
        deadline = time.monotonic() + timeout
        with self._lock:
            signals = self._signals
        if signals is not None:
            self.worker.stop(timeout)
            signals.providers.close(deadline)
            self.worker.finish(for_good=self.is_closed)
        shutdown.forget(self)
        with self._lock:
            # Not before: a record that comes meanwhile is left to the repository.
            self._resting = signals is not None

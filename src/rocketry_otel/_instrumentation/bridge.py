"""The bridge from records to OpenTelemetry: it never raises, blocks or slows a task.

In: the fields of a record. Out: the event, the ids of its run for the repository, and the
signals, handed to the pipeline. Every record takes this one path:
record -> event -> run -> signals -> exporters.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from rocketry_otel._export.record_ref import record_ref_of
from rocketry_otel._history.reconstruct import HistoryReader
from rocketry_otel._model.annotations import (
    attributes_as_text,
    events_as_text,
    plain_attributes,
)
from rocketry_otel._model.crashes import crash_fields
from rocketry_otel._model.durations import NANOSECONDS
from rocketry_otel._model.event import (
    CRASH,
    FROM_CHILD,
    RUN,
    SUCCESS,
    TERMINATE,
    live_event,
    nanoseconds,
    parse_event,
)
from rocketry_otel._model.origin import is_from, may_have_crashed, with_origin
from rocketry_otel._model.runs import Observation, RunTracker
from rocketry_otel._model.signals import TERMINATION_REASON
from rocketry_otel._model.text import optional_text, safe_text
from rocketry_otel._runtime.forks import after_fork_in_child
from rocketry_otel._runtime.process_name import host_name
from rocketry_otel._runtime.scope import NAME
from rocketry_otel._runtime.suppression import suppressed
from rocketry_otel._runtime.threads import start_thread
from rocketry_otel._schedule.conditions import Conditions
from rocketry_otel._schedule.missed import RunTime
from rocketry_otel._schedule.task_states import TaskStates
from rocketry_otel._schedule.verdicts import Moment, prepare
from rocketry_otel._telemetry.running import RunningRun

from .attempts import Attempts
from .child_process import DROPPED_LINES
from .latest_runs import LatestRuns, look_up
from .launched import Launched
from .pending_launches import Launch, PendingLaunches
from .progress import progress_board
from .terminations import termination_of
from .user_hooks import UserHooks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from rocketry_otel._delivery.pipeline import Pipeline
    from rocketry_otel._delivery.settled_slots import Settled
    from rocketry_otel._export.record_ref import RecordRef
    from rocketry_otel._history.run_lookup import RunLookup
    from rocketry_otel._model.event import TaskEvent
    from rocketry_otel._model.ids import RunIds
    from rocketry_otel._model.runs import Run, Step
    from rocketry_otel._model.signals import LogSignal
    from rocketry_otel._settings import Settings

    from .schedule_watch import ScheduleWatch

    MakePipeline = Callable[[Callable[[str, Exception], None]], Pipeline]

_logger = logging.getLogger(NAME)

# The record of a child process may come later than it was created, in nanoseconds.
_MARGIN = 60_000_000_000
_SECONDS_FOR_COMMITS = 1.0
# Ended runs that may be the reason of a slot that was missed.
_MOST_RUN_TIMES = 1_000


class Bridge:
    """Turns records into events, events into steps of runs, and hands these to the pipeline.

    Args:
        settings: Our own settings: which tasks are exported.
        run_lookup: The runs in the repository.
        make_pipeline: Makes the pipeline, from a function to call with a signal that is lost.

    Attributes:
        pipeline: The providers, and the delivery of stored records.
        latest_runs: The newest beginning and endings of each task.
        keeps_trace: Whether the repository keeps the trace that a run is in.
        attempts: Which attempt each run is, of tasks that are tried again.
        pending_launches: Runs that were launched and have no record yet.
        conditions: The start conditions of the tasks.
        task_states: What the start conditions depend on.
    """

    def __init__(
        self, settings: Settings, run_lookup: RunLookup, make_pipeline: MakePipeline
    ) -> None:
        self._settings = settings
        self._run_lookup = run_lookup
        self.pipeline = make_pipeline(self._lose)
        self._counters = self.pipeline.counters
        self.keeps_run_id = run_lookup.keeps("run_id")
        self._tracker = RunTracker(
            keeps_run_id=self.keeps_run_id,
            find_run=lambda event: look_up(run_lookup.find_beginning, event),
            has_crashed=lambda ids: bool(look_up(self._has_crash_record, ids)),
            goes_on=lambda run: bool(look_up(self._goes_on, run)),
        )
        # A replay must find the trace of a request again.
        self.keeps_trace = run_lookup.adds("trace_id") and run_lookup.adds("links")
        self._keeps_origin = run_lookup.adds("attributes")
        self.latest_runs = LatestRuns(run_lookup)
        self.attempts = Attempts(run_lookup)
        self.pending_launches = PendingLaunches()
        self.conditions = Conditions()
        self.task_states = TaskStates(self._times_of)
        self._user_hooks = UserHooks()
        self._is_logged = False
        self._renew_lock()
        self._run_times: deque[tuple[str, RunTime]] = deque(maxlen=_MOST_RUN_TIMES)
        self._watches: WeakSet[ScheduleWatch] = WeakSet()
        self.pipeline.show_runs(self._running, self._next_runs)
        after_fork_in_child(self._renew_lock)

    def _renew_lock(self) -> None:
        # It guards `_tracker`. Only the locks of the repository and of the delivery state are
        # taken while it is held, when the tracker looks up a beginning or a crash record. The
        # handler's lock is held when it is taken.
        self._lock = threading.RLock()
        self._is_closing_runs = False
        # In a forked child, these are the parent's runs.
        self._inherited = frozenset(self._tracker.open_runs())

    def _times_of(self, task_name: str, actions: tuple[str, ...], since: float) -> list[float]:
        with suppressed():
            return self._run_lookup.times_of(task_name, actions, since)

    def prepare(self, tasks: Iterable[Any]) -> None:
        """Read once what the start conditions of tasks depend on; it never raises."""
        for task in tasks:
            try:
                self.task_states.of(task)
                leaves = self.conditions.of(task).tree.leaves()
                prepare(leaves, Moment(task, self.task_states))
            except Exception:  # noqa: PERF203  # a condition of the user's may raise anything
                _logger.debug("a start condition is not known", exc_info=True)

    def _has_crash_record(self, ids: RunIds) -> bool:
        return self.pipeline.worker.crash_records.has(ids)

    def _goes_on(self, run: Run) -> bool:
        """Return whether a run goes on, here or in another process."""
        if isinstance(run.launch, Launched):
            return run.launch.goes_on
        schedulers = self.pipeline.worker.schedulers
        began = run.began
        if began is None or is_from(began, host_name(), schedulers.name):
            return False
        return not may_have_crashed(began, host_name(), schedulers.is_alive)

    def call(self, user_hooks: UserHooks) -> None:
        """Call these hooks of the user when a run has ended."""
        self._user_hooks = user_hooks

    def replace(self, other: Bridge) -> None:
        """Go on with the open runs of another bridge, whose repository was replaced.

        The other one sends its queues on its own thread: no task waits for it.
        """
        self._user_hooks, self.pending_launches = other._user_hooks, other.pending_launches
        # Rocketry's own state of its tasks stays as well.
        self.conditions, self.task_states = other.conditions, other.task_states
        with other._lock:
            self._tracker.adopt(other._tracker)
        self.pipeline.replace(other.pipeline, self._tracker.open_runs())

    def observe(
        self, fields: Mapping[str, Any], message: object, execution: str | None
    ) -> Observation | None:
        """Return the event and the step of a log record; ``None`` if that fails, which is logged.

        Args:
            fields: ``vars()`` of the record.
            message: Its message.
            execution: Its mode of execution; ``None`` if unknown.
        """
        from_child = fields.get(FROM_CHILD)
        if isinstance(from_child, dict):
            self.pipeline.note_dropped_lines(from_child.get(DROPPED_LINES))
        return self._observe(partial(self._live_event, fields, message, execution), fields)

    def _live_event(
        self, fields: Mapping[str, Any], message: object, execution: str | None
    ) -> TaskEvent:
        event = live_event(fields, message, execution)
        if event.task_name is not None and event.action is not None:
            self.task_states.add(event.task_name, event.action, event.created / NANOSECONDS)
        if event.action != RUN:
            return event
        schedulers = self.pipeline.worker.schedulers
        if self._keeps_origin and not schedulers.is_shown:
            # Before the record is there: another process may look for its process.
            look_up(schedulers.prove_alive, event.created - _MARGIN)
        return with_origin(event, host_name(), schedulers.name, self._service_version(event))

    def _service_version(self, event: TaskEvent) -> str | None:
        """Return the application's version; the providers are found if the event is the first."""
        providers = self.pipeline.providers
        if providers is None and self._exports(event) and not self.pipeline.is_closed:
            try:
                providers = self.pipeline.connect().providers
            except Exception as error:  # noqa: BLE001  # telemetry never hurts the task
                self._log_once("A record cannot be followed on its way", error)
        return None if providers is None else providers.service_version

    def observe_stored(self, fields: Mapping[str, Any]) -> Observation | None:
        """Return the event and the step of a record that another repository has kept."""
        return self._observe(partial(parse_event, fields), fields)

    def _observe(
        self,
        parse: Callable[[], TaskEvent],
        fields: Mapping[str, Any],
        ids: RunIds | None = None,
        began: TaskEvent | None = None,
    ) -> Observation | None:
        try:
            event = parse()
            launch = None
            if event.action == RUN and event.task_name is not None:
                launch = self.pending_launches.take(event.task_name, event.run_id)
                if launch is not None:
                    event = _launched(event, launch)
            with self._lock:
                step = self._tracker.observe(event, ids, began)
            run = step.run
            self.attempts.remember(event, None if run is None else run.ids)
            if run is None:
                return Observation(event, step)
            if launch is not None:
                run.launched_in, run.launch = launch.context, launch.launched
            if step.change == "began":
                self.latest_runs.remember(event, run)
            elif step.change == "ended":
                event = self._completed(event, run, fields)
                self.latest_runs.remember(event, run)
                self._keep_time(run, event)
            return Observation(event, step)
        except Exception as error:  # noqa: BLE001  # telemetry never hurts the task
            self._counters.add("logs", "dropped", reason="error")
            self.pipeline.note_loss()
            self._log_once("A record could not be understood", error)
            return None

    def expect(self, observation: Observation | None) -> int | None:
        """Expect the delivery of a record before it is written to the repository.

        Returns:
            The argument for ``export``. It never raises.
        """
        try:
            if observation is None or not self._exports(observation.event):
                return None
            if not self.pipeline.is_closed:
                self.pipeline.wake()
            return self.pipeline.worker.expect(observation.event)
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
        """Send the signals of a record; it never raises.

        Args:
            observation: The record.
            expected: The result of ``expect``.
            may_be_stored: Whether the repository has the record, as far as is known.
        """
        if observation is None:
            return
        event, step = observation
        try:
            # After a restart, Rocketry logs a crash of a run that was ended here before.
            is_late = step.change == "repeated" and event.action == CRASH
            if step.change == "repeated" and not is_late and self._exports(event):
                self._counters.add("traces", "dropped", reason="repeated_ending")
            if step.given_up is not None:
                self._counters.add("traces", "dropped", reason="never_ended")
            if self.pipeline.is_closed:
                if not self.pipeline.worker.is_durable:
                    self._counters.add("logs", "dropped", reason="closed")
                return  # the record stays expected: the next start finds it
            try:
                self._send(event, step, record_ref_of(event) if may_be_stored else None)
            finally:
                self.pipeline.worker.settle(expected)
        except Exception as error:  # noqa: BLE001  # telemetry never hurts the task
            self._counters.add("logs", "dropped", reason="error")
            self.pipeline.note_loss()
            self._log_once("The telemetry of a record could not be made", error)

    def _send(self, event: TaskEvent, step: Step, record_ref: RecordRef | None) -> None:
        if self._exports(event):
            self.pipeline.send(event, step, record_ref)
        given_up = step.given_up
        if given_up is not None and self._exports(given_up.began):
            self.pipeline.measure(lambda metrics: metrics.stopped(given_up))

    def open_runs(self) -> list[Run]:
        """Return the open runs, in the order in which they began."""
        with self._lock:
            return self._tracker.open_runs()

    def _running(self) -> list[RunningRun]:
        """Return the runs of this process that go on, with their age and progress."""
        found = []
        for run in self.open_runs():
            began = run.began
            if began is None or run in self._inherited or not self._exports(began):
                continue
            age = max(nanoseconds(_now_of(run)) - began.created, 0) / NANOSECONDS
            found.append(RunningRun(began.task_name or "", age, progress_board.of(run.ids)))
        return found

    def watch(self, watch: ScheduleWatch) -> None:
        """Show when the next runs of a session's tasks are due."""
        self._watches.add(watch)

    def _next_runs(self) -> list[tuple[str, float]]:
        return [
            (name, at)
            for watch in list(self._watches)
            for name, at in watch.next_runs()
            if self._settings.exports(name)
        ]

    def _keep_time(self, run: Run, ended: TaskEvent) -> None:
        if run.began is not None and isinstance(run.launch, Launched):
            time_of_run = _time_of(run.began, ended.created / NANOSECONDS)
            with self._lock:
                self._run_times.append((run.launch.session_key, time_of_run))

    def run_times(self, session_key: str) -> list[RunTime]:
        """Return when the runs of a session went on: those of now, and the newest that ended."""
        with self._lock:
            ended = [one for key, one in self._run_times if key == session_key]
            runs = self._tracker.open_runs()
        return ended + [
            _time_of(run.began)
            for run in runs
            if run.began is not None
            and isinstance(run.launch, Launched)
            and run.launch.session_key == session_key
        ]

    def settled_slots(self) -> dict[str, Settled]:
        """Return the settled slots of each task, as an earlier scheduler has left them."""
        return look_up(self.pipeline.worker.settled_slots.all) or {}

    def keep_settled_slots(self, settled: Mapping[str, Settled]) -> None:
        """Keep the settled slots of some tasks for the next start."""
        look_up(self.pipeline.worker.settled_slots.put, settled)

    def report_missed(self, task_name: str, reason: str, scope: str, signal: LogSignal) -> None:
        """Send and count missed slots of a task; it never raises."""
        if self._settings.exports(task_name):
            self.pipeline.send_line(scope, signal, None)
            self.pipeline.measure(lambda metrics: metrics.missed(task_name, reason))

    def crash(
        self, began: TaskEvent, ids: RunIds, created: float, exit_code: int | None = None
    ) -> None:
        """End a run that nothing works on any more; it never raises.

        Rocketry logs no ending. So the record is kept beside the repository.

        Args:
            began: The event that began the run.
            ids: The ids of the run.
            created: When this was noticed, in seconds since the epoch.
            exit_code: The exit code of its child process; ``None`` if it is not known.
        """
        fields = crash_fields(began, ids, created, exit_code)
        observation = self._observe(partial(parse_event, fields), fields, ids, began)
        if observation is None or observation.step.change != "ended":
            return
        expected = self.expect(observation)
        event = observation.event
        fields["attributes"] = attributes_as_text(event.attributes)
        fields["events"] = events_as_text(event.events)
        self._keep(fields)
        self.export(observation, expected, may_be_stored=True)

    def look_after(self, now: Callable[[], float]) -> None:
        """Note which runs may be open, and close those of processes that are dead.

        It raises nothing, and takes milliseconds: a thread reads the repository if need be.

        Args:
            now: Returns the time of the application, in seconds since the epoch.
        """
        if self._keeps_origin:
            look_up(self._look_after, now)

    def _look_after(self, now: Callable[[], float]) -> None:
        schedulers = self.pipeline.worker.schedulers
        times = [run.began.created for run in self.open_runs() if run.began is not None]
        schedulers.note(min([*times, nanoseconds(now())]) - _MARGIN)
        if not self._is_closing_runs and schedulers.has_dead():
            self._is_closing_runs = True
            if start_thread(partial(self._close_left_runs, now), "runs") is None:
                self._is_closing_runs = False

    def _close_left_runs(self, now: Callable[[], float]) -> None:
        """Close the runs that dead processes have left open."""
        try:
            # The database may still be committing what a process has sent it before its death.
            time.sleep(_SECONDS_FOR_COMMITS)
            with self.pipeline.worker.schedulers.of_dead() as dead:
                for name, since in dead:
                    self._close_runs_of(name, since, now)
        except Exception:  # the repository may be away: the next look finds them again
            _logger.debug("runs of dead processes could not be closed", exc_info=True)
        finally:
            self._is_closing_runs = False

    def _close_runs_of(self, name: str, since: int, now: Callable[[], float]) -> None:
        if since <= 0:  # a loss of power has taken it
            since = nanoseconds(now()) - int(self._settings.catch_up * 1e9)
        crash_records = self.pipeline.worker.crash_records
        reader = HistoryReader(
            self._run_lookup.repo, self._run_lookup, since, crashes=crash_records
        )
        for _ in reader:
            pass
        for run in reader.open_runs():
            if run.began is not None and is_from(run.began, host_name(), name):
                self.crash(run.began, run.ids, now())

    def leave(self) -> None:
        """Show no other process that this one has open runs, if it has none; it never raises."""
        if self._keeps_origin:
            look_up(self._leave)

    def _leave(self) -> None:
        if not self.open_runs():
            self.pipeline.worker.schedulers.leave()

    def _keep(self, fields: Mapping[str, Any]) -> None:
        try:
            self.pipeline.worker.crash_records.add(fields)
        except Exception as error:  # noqa: BLE001  # telemetry never hurts the task
            self._log_once("A crash record cannot be kept", error)

    def open_run(self, task_name: str, run_id: str | None) -> Run | None:
        """Return the open run of a task with this id; its context is made."""
        with self._lock:
            run = self._tracker.open_run(task_name, run_id)
        if run is None or run.began is None or self.pipeline.is_closed:
            return None
        self.pipeline.context_of(run, run.began)
        return run

    def knows(self, task_name: object, run_id: object) -> bool:
        """Return whether a run was launched here, or is open here."""
        if self.pending_launches.has(task_name, run_id):
            return True
        with self._lock:
            run = self._tracker.open_run(safe_text(task_name), optional_text(run_id))
        return run is not None

    def start(self, task_names: Iterable[str]) -> None:
        """Find the providers when the scheduler starts, and set each task's last success."""
        try:
            metrics = self.pipeline.connect().metrics
            self.pipeline.start_scheduler()
            for name in task_names:
                event = look_up(self._run_lookup.newest, name, SUCCESS)
                if event is not None and self._exports(event):
                    metrics.succeeded(name, event.created)
        except Exception as error:  # noqa: BLE001  # telemetry never hurts the task
            self._log_once("The providers could not be found at the start", error)

    def _completed(self, event: TaskEvent, run: Run, fields: Mapping[str, Any]) -> TaskEvent:
        """Return an ending with the annotations of the body and the user's hooks."""
        added: dict[str, Any] = dict(event.attributes)
        events, links = event.events, event.links
        if run.annotations is not None:
            added |= run.annotations.attributes
            events += tuple(run.annotations.events)
            links += tuple(run.annotations.links)
        if event.action == TERMINATE and isinstance(run.launch, Launched):
            reason = termination_of(run.launch.run)
            if reason is not None:
                added[TERMINATION_REASON] = reason
        if self._user_hooks:
            added |= self._user_hooks.of(event, fields, self._counters)
        if not (added or events or links):
            return event
        return event._replace(attributes=plain_attributes(added), events=events, links=links)

    def _exports(self, event: TaskEvent | None) -> bool:
        return event is None or event.task_name is None or self._settings.exports(event.task_name)

    def _lose(self, signal: str, error: Exception) -> None:
        self._counters.add(signal, "dropped", reason="error")
        self._log_once(f"Something could not be handed over ({signal})", error)

    def _log_once(self, what: str, error: Exception) -> None:
        """Log our own fault once: a fault at every record must not flood the log."""
        if not self._is_logged:
            self._is_logged = True
            _logger.error("%s; further ones are not reported", what, exc_info=error)


def _launched(began: TaskEvent, launch: Launch) -> TaskEvent:
    """Return a ``run`` event with the links and the attributes of its launch."""
    attributes = began.attributes
    if launch.attributes:
        # Sorted by key, as they are read again.
        attributes = tuple(sorted({**dict(launch.attributes), **dict(attributes)}.items()))
    return began._replace(links=launch.links, attributes=attributes)


def _time_of(began: TaskEvent, ended: float | None = None) -> RunTime:
    return RunTime(began.task_name or "", began.execution, began.created / NANOSECONDS, ended)


def _now_of(run: Run) -> float:
    """Return seconds since the epoch, by the clock of the application that has launched a run."""
    try:
        return run.launch.now() if isinstance(run.launch, Launched) else time.time()
    except Exception:  # noqa: BLE001  # a clock of the user's may raise anything
        return time.time()

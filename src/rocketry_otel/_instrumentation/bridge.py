"""The bridge from records to OpenTelemetry: it never raises, blocks or slows a task.

In: the fields of a record. Out: the event, the ids of its run for the repository, and the
signals, handed to the pipeline. Every record takes this one path:
record -> event -> run -> signals -> exporters.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from rocketry_otel._export.record_ref import record_ref_of
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
    parse_event,
)
from rocketry_otel._model.origin import with_origin
from rocketry_otel._model.runs import Observation
from rocketry_otel._model.signals import TERMINATION_REASON
from rocketry_otel._model.text import optional_text, safe_text
from rocketry_otel._runtime.process_name import host_name
from rocketry_otel._runtime.scope import NAME
from rocketry_otel._runtime.suppression import suppressed
from rocketry_otel._schedule.conditions import Conditions
from rocketry_otel._schedule.task_states import TaskStates
from rocketry_otel._schedule.verdicts import Moment, prepare

from .attempts import Attempts
from .child_process import DROPPED_LINES
from .latest_runs import LatestRuns, look_up
from .launched import Launched
from .left_runs import MARGIN, LeftRuns
from .open_runs import OpenRuns
from .pending_launches import Launch, PendingLaunches
from .schedule_link import ScheduleLink
from .terminations import termination_of
from .user_hooks import UserHooks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from rocketry_otel._delivery.pipeline import Pipeline
    from rocketry_otel._history.run_lookup import RunLookup
    from rocketry_otel._model.event import TaskEvent
    from rocketry_otel._model.ids import RunIds
    from rocketry_otel._model.runs import Run
    from rocketry_otel._settings import Settings
    from rocketry_otel._telemetry.running import RunningRun

    MakePipeline = Callable[[Callable[[str, Exception], None]], Pipeline]

_logger = logging.getLogger(NAME)


class Bridge:
    """Turns records into events, events into steps of runs, and hands these to the pipeline.

    Args:
        settings: Our own settings: which tasks are exported.
        run_lookup: The runs in the repository.
        make_pipeline: Makes the pipeline, from a function to call with a signal that is lost.

    Attributes:
        pipeline: The providers, and the delivery of stored records.
        open_runs: The runs that have not ended.
        left_runs: The runs that dead processes have left open.
        schedule: The link to the watches of slots.
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
        worker = self.pipeline.worker
        self.open_runs = OpenRuns(run_lookup, worker)
        self.left_runs = LeftRuns(self.open_runs, run_lookup, worker, settings.catch_up, self.crash)
        self.schedule = ScheduleLink(settings, self.pipeline, self.open_runs)
        self._counters = self.pipeline.counters
        self.keeps_run_id = run_lookup.keeps("run_id")
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
        self.pipeline.show_runs(self._running, self.schedule.next_runs)

    def _times_of(self, task_name: str, actions: tuple[str, ...], since: float) -> list[float]:
        with suppressed():
            return self._run_lookup.times_of(task_name, actions, since)

    def prepare(self, tasks: Iterable[Any]) -> None:
        """Read once what the start conditions of tasks depend on; it never raises."""
        for task in tasks:
            try:
                self.task_states.of(task)
                parsed = self.conditions.of(task)
                prepare(parsed.tree.leaves(), Moment(task, self.task_states, parsed.slots))
            except Exception:  # noqa: PERF203  # a condition of the user's may raise anything
                _logger.debug("a start condition is not known", exc_info=True)

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
        self.open_runs.adopt(other.open_runs)
        self.pipeline.replace(other.pipeline, self.open_runs.all())

    def _running(self) -> list[RunningRun]:
        return [one for one in self.open_runs.running() if self._settings.exports(one.task_name)]

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
            look_up(schedulers.prove_alive, event.created - MARGIN)
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
            step = self.open_runs.observe(event, ids, began)
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
                self.schedule.remember(run, event)
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
                if self._exports(event):
                    record_ref = record_ref_of(event) if may_be_stored else None
                    self.pipeline.send(event, step, record_ref)
                given_up = step.given_up
                if given_up is not None and self._exports(given_up.began):
                    self.pipeline.measure(lambda metrics: metrics.stopped(given_up))
            finally:
                self.pipeline.worker.settle(expected)
        except Exception as error:  # noqa: BLE001  # telemetry never hurts the task
            self._counters.add("logs", "dropped", reason="error")
            self.pipeline.note_loss()
            self._log_once("The telemetry of a record could not be made", error)

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

    def _keep(self, fields: Mapping[str, Any]) -> None:
        try:
            self.pipeline.worker.crash_records.add(fields)
        except Exception as error:  # noqa: BLE001  # telemetry never hurts the task
            self._log_once("A crash record cannot be kept", error)

    def open_run(self, task_name: str, run_id: str | None) -> Run | None:
        """Return the open run of a task with this id; its context is made."""
        run = self.open_runs.get(task_name, run_id)
        if run is None or run.began is None or self.pipeline.is_closed:
            return None
        self.pipeline.context_of(run, run.began)
        return run

    def knows(self, task_name: object, run_id: object) -> bool:
        """Return whether a run was launched here, or is open here."""
        if self.pending_launches.has(task_name, run_id):
            return True
        return self.open_runs.get(safe_text(task_name), optional_text(run_id)) is not None

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
            task = run.launch.task if isinstance(run.launch, Launched) else None
            added |= self._user_hooks.of(event, fields, self._counters, task)
        began = run.began
        if began is not None and began.execution not in (None, event.execution):
            event = event._replace(execution=began.execution)
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
    """Return a ``run`` event with the links, attributes and mode of its launch."""
    attributes = began.attributes
    if launch.attributes:
        # Sorted by key, as they are read again.
        attributes = tuple(sorted({**dict(launch.attributes), **dict(attributes)}.items()))
    execution = launch.execution or began.execution
    return began._replace(links=launch.links, attributes=attributes, execution=execution)

"""Hooks in Rocketry: around the body of each task, at each launch, start, stop and cycle.

In: calls of Rocketry's scheduler. Out: the run's span as the current one, launches with their
links, flushes and heartbeats.

Only this module imports Rocketry, and the handler imports it when an application is instrumented.
Sessions are pickled for spawned child processes, hooks included. So the hooks are one object that
can be pickled, with the few values that a child needs.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import logging
import pickle
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary, WeakValueDictionary, ref

from opentelemetry import baggage
from opentelemetry.context import attach, detach, get_current
from opentelemetry.trace import get_current_span, set_span_in_context
from rocketry.core import BaseArgument, Task
from rocketry.tasks import CommandTask

from rocketry_otel._export.run_clocks import RunClock, use_clock
from rocketry_otel._model.annotations import PARENT, Annotations
from rocketry_otel._model.text import optional_text
from rocketry_otel._runtime.scope import NAME
from rocketry_otel._runtime.sigterm import termination
from rocketry_otel._schedule.triggers import SHUTDOWN, STARTUP

from .child_process import ChildRecords, ChildSide
from .current_run import CurrentRun, _current
from .launch_attributes import launch_attributes
from .launched import GoneRuns, Launched
from .launching import Launching
from .links import dependency_links, requests
from .log_lines import Lines, log_lines
from .pending_launches import Launch
from .programs import add_context, commands
from .progress import ProgressReporter, progress_board
from .repeated_errors import RepeatedErrors
from .run_span import RunSpan
from .schedule_watch import ScheduleWatch
from .start_line import start_line
from .terminations import terminations
from .waiting import Waiting
from .watched_method import WatchedMethod

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from opentelemetry.context import Context

    from rocketry_otel._model.annotations import RunLink
    from rocketry_otel._model.ids import RunIds
    from rocketry_otel._model.plain_values import AttributeValue
    from rocketry_otel._model.signals import LogSignal
    from rocketry_otel._settings import Settings

    from .bridge import Bridge
    from .log_lines import SendLine
    from .placement import Placement

_logger = logging.getLogger(NAME)

_PROCESS_LOGGER = "._process"
_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_BETWEEN_LOOKS_AT_OTHERS = 5.0

_Hook = TypeVar("_Hook", bound="Callable[..., Any]")
_bridges: WeakValueDictionary[str, Bridge] = WeakValueDictionary()


def _with_its_signature(hook: _Hook) -> _Hook:
    """Keep the signature of a hook or its argument: Rocketry looks at it each time."""
    hook.__signature__ = inspect.signature(hook)  # type: ignore[attr-defined]
    return hook


class _TheTask(BaseArgument):  # type: ignore[misc]  # no annotations
    """The task that a hook is called for: ``rocketry.args.Task()`` in an eighth of the time."""

    @staticmethod
    @_with_its_signature
    def get_value(task: Any = None, **_: Any) -> Any:
        """Return the task that Rocketry passes."""
        return task


class SchedulerHooks:
    """The hooks of one instrumented session."""

    def __init__(
        self, bridge: Bridge, settings: Settings, session: Any, placement: Placement | None = None
    ) -> None:
        """Prepare the hooks; ``install`` puts them in place."""
        self._placement = placement
        self._key = uuid.uuid4().hex
        self._settings = settings
        self._keeps_run_id = bridge.keeps_run_id
        self._make_run_id = session.config.func_run_id
        self._loggers = [session.config.task_logger_basename]
        self.scheduler_logger: str = session.config.scheduler_logger_basename
        self._baggage: dict[str, object] = {}
        # Whether the scheduler starts or ends, when it launches tasks of a kind.
        self._phase: str | None = None
        self._waiting: Waiting | None = None
        self._gone_runs = GoneRuns()
        self._next_look = self._next_look_at_others = 0.0
        # Of the newest launch. A child process is made at once, and has that of its own run.
        self._parent: RunLink | None = None
        self._repeated_errors: RepeatedErrors | None = RepeatedErrors()
        _bridges[self._key] = bridge
        find_bridge = functools.partial(_bridges.get, self._key)
        watch = ScheduleWatch(session, find_bridge, self._key, bridge.conditions)
        self._watch: ScheduleWatch | None = watch
        bridge.schedule.watch(watch)
        self._watch_children()

    def use(self, bridge: Bridge) -> None:
        """Hand runs to another bridge from now on: the application has another repository."""
        _bridges[self._key] = bridge
        self._keeps_run_id = bridge.keeps_run_id
        self._watch_schedule(bridge.schedule.watch)

    def install(self, session: Any) -> None:
        """Put the hooks in place."""
        hooks = session.hooks
        # The first one, so that spans of other hooks are part of the run as well.
        hooks.task_execute.insert(0, self.around)
        hooks.scheduler_startup.append(self.started)
        hooks.scheduler_cycle.append(self.cycling)
        hooks.scheduler_shutdown.append(self.stopping)
        session.config.func_run_id = self.launching
        _hooks_of[session] = ref(self)
        for method, class_ in _WATCHED:
            method.watch(class_, session)
        self._session = ref(session)
        self._waiting = Waiting(session, functools.partial(_bridges.get, self._key))
        log_lines.watch(self)

    def remove(self, session: Any) -> None:
        """Take the hooks away again."""
        hooks = session.hooks
        for place, hook in (
            (hooks.task_execute, self.around),
            (hooks.scheduler_startup, self.started),
            (hooks.scheduler_startup, self.verifying),
            (hooks.scheduler_cycle, self.cycling),
            (hooks.scheduler_shutdown, self.stopping),
        ):
            if hook in place:
                place.remove(hook)
        if session.config.func_run_id == self.launching:
            session.config.func_run_id = self._make_run_id
        for method, class_ in _WATCHED:
            method.unwatch(class_, session)
        if self._waiting is not None:
            self._waiting.remove()
        log_lines.unwatch(self)
        self._watch_schedule(ScheduleWatch.stop)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state that a spawned child needs, with the baggage of its launcher."""
        state = dict(vars(self))
        state.pop("_session", None)
        state["_watch"] = state["_waiting"] = None
        state["_placement"] = state["_repeated_errors"] = None
        state["_progress_writer"] = progress_board.writer_to_pickle()
        state["_baggage"] = {
            key: value for key, value in baggage.get_all().items() if _can_be_pickled(value)
        }
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        progress_board.use_writer(state.pop("_progress_writer"))
        vars(self).update(state)
        self._watch_children()

    def _watch_children(self) -> None:
        for name in self._loggers:
            logger = logging.getLogger(name + _PROCESS_LOGGER)
            # logging.config disables loggers that it does not name. Without us Rocketry makes
            # this one anew in the child.
            logger.disabled = False
            if not any(isinstance(its, ChildRecords) for its in logger.filters):
                logger.addFilter(ChildRecords())

    def launching(self, task: Any, params: Any = None) -> Any:
        """Return the id of a run that is being launched (Rocketry's ``func_run_id``)."""
        run_id = self._make_run_id(task, params)
        self.note(task, run_id)
        return run_id

    def note(self, task: Any, run_id: Any) -> None:
        """Keep context and links of a launch until the first record of its run comes."""
        termination.hold()
        bridge = _bridges.get(self._key)
        if bridge is None:
            return
        try:
            if task.logger_name not in self._loggers:
                self._loggers.append(task.logger_name)
            self._watch_children()
            execution = task.get_execution()
            if execution == "process":
                progress_board.open_pipe()
            is_scheduled = self._waiting is None or self._waiting.is_launching(task)
            asked = requests.take(task)
            launching = Launching(task, bridge, *asked, self._phase, is_scheduled=is_scheduled)
            attributes = launch_attributes(launching)
            self._parent = self._parent_of(launching)
            if self._parent is not None:
                links: tuple[RunLink, ...] = (self._parent,)
            else:
                links = self._links(launching, attributes) if self._settings.links else ()
            launch = Launch(get_current(), links, attributes=attributes, execution=execution)
            bridge.pending_launches.put(task.name, run_id, launch)
        except Exception:  # telemetry never hurts the task
            _logger.debug("a launch could not be noted", exc_info=True)

    def follow(self, task: Any, run_id: Any, run: Any) -> None:
        """Keep Rocketry's own object of a run that is being launched."""
        bridge = _bridges.get(self._key)
        if bridge is None or run is None:
            return
        try:
            bridge.pending_launches.follow(task.name, run_id, Launched(task, run, self._key))
        except Exception:  # telemetry never hurts the task
            _logger.debug("a launch could not be followed", exc_info=True)

    def _parent_of(self, launching: Launching) -> RunLink | None:
        """Return the link to the parent of a run that is to be in the trace of its request."""
        request = launching.request
        if not (self._settings.join_traces and request and request.is_sampled):
            return None
        # By a clock of the application's, the run and the request would have other times.
        has_own_clock = launching.task.session.config.time_func is not None
        if has_own_clock or not launching.bridge.keeps_trace:
            return None
        return request.link._replace(kind=PARENT)

    @staticmethod
    def _links(
        launching: Launching, attributes: tuple[tuple[str, AttributeValue], ...]
    ) -> tuple[RunLink, ...]:
        if launching.is_requested:
            return () if launching.request is None else (launching.request.link,)
        task, bridge = launching.task, launching.bridge
        return (
            *bridge.attempts.link_of(str(task.name), attributes),
            *dependency_links(
                task.start_cond, bridge.latest_runs.beginning(task.name), launching.ending
            ),
        )

    @_with_its_signature
    def around(self, task: Any = _TheTask()) -> Generator[None, Any, None]:  # noqa: B008
        """Make the run's span the current one in the body of a task."""
        entered = None
        try:
            entered = self._enter(task)
        except Exception:  # telemetry never hurts the task
            _logger.debug("the run around a body could not be set", exc_info=True)
        try:
            yield
        except GeneratorExit:
            # Another hook failed, and Rocketry discards this one in any context: nothing to undo.
            return
        try:
            if entered is not None:
                self._leave(*entered)
        except Exception:  # telemetry never hurts the task
            _logger.debug("the run around a body could not be undone", exc_info=True)

    def _enter(self, task: Any) -> tuple[Any, Any, ChildSide | None] | None:
        name = str(task.name)
        is_child = task.logger_name.endswith(_PROCESS_LOGGER)
        if is_child:
            termination.runs_a_task()
        if not self._settings.exports(name):
            return None
        if is_child:
            return self._enter_in_child(task, name)
        bridge = _bridges.get(self._key)
        run = None if bridge is None else bridge.open_run(name, _run_id_of(task))
        if run is None or run.context is None or run.began is None:
            return None
        run.annotations = annotations = run.annotations or Annotations()
        base = get_current()
        if run.launched_in is not None and not baggage.get_all(base):
            # A new thread begins with an empty context, so the launcher's baggage is used.
            base = _with_baggage(base, baggage.get_all(run.launched_in))
        run_id, clock = run.began.run_id, _clock(task, run.ids)
        lines = self._lines_of(name, run_id, run.context, self._send_line)
        show = functools.partial(progress_board.put, run.ids)
        reporter = ProgressReporter(self._send_line, show, name, run_id, run.context)
        context = _with_span(base, run.context, annotations, clock)
        add = self._adds(context)
        current = CurrentRun(name, run_id, run.ids, annotations, clock, lines, reporter, add)
        return self._set(current, context, None)

    def _adds(self, context: Context) -> Callable[[dict[str, str]], None]:
        """Return a function that adds the context of a body to the environment of a program."""
        with_baggage = self._settings.propagate_baggage
        return functools.partial(add_context, context=context, with_baggage=with_baggage)

    def _lines_of(
        self, name: str, run_id: str | None, context: Context, send: SendLine
    ) -> Lines | None:
        if not self._settings.sends_log_lines:
            return None
        return Lines(send, self._settings.exceptions, name, run_id, context)

    def _send_line(self, logger_name: str, signal: LogSignal, context: Context | None) -> None:
        bridge = _bridges.get(self._key)
        if bridge is not None:
            bridge.pipeline.send_line(logger_name, signal, context)

    @property
    def scheduler_lines(self) -> Lines | None:
        """Where the log lines of the scheduler go; ``None`` if they are not sent."""
        if not self._settings.sends_log_lines:
            return None
        return Lines(
            self._send_line,
            self._settings.exceptions,
            repeated_errors=self._repeated_errors,
        )

    def _enter_in_child(self, task: Any, name: str) -> tuple[Any, Any, ChildSide | None] | None:
        logger = logging.getLogger(task.logger_name)
        records = next((its for its in logger.filters if isinstance(its, ChildRecords)), None)
        began = None if records is None else records.began
        if records is None or began is None:
            return None
        child = ChildSide.of(_bridges.get(self._key), self._settings)
        ids, context = child.context_of(began, self._parent, keeps_run_id=self._keeps_run_id)
        base = get_current()
        if not baggage.get_all(base):
            base = _with_baggage(base, self._baggage)
        log_lines.watch(self)
        lines = self._lines_of(name, began.run_id, context, child.send_line)
        clock = _clock(task, ids)
        show = functools.partial(progress_board.send, ids)
        reporter = ProgressReporter(
            child.send_line, show, name, began.run_id, context, is_in_child=True
        )
        context = _with_span(base, context, records.annotations, clock)
        current = CurrentRun(
            *(name, began.run_id, ids, records.annotations),
            *(clock, lines, reporter, self._adds(context)),
        )
        commands.watch(CommandTask, task.session)
        return self._set(current, context, child)

    def _set(
        self, current: CurrentRun, context: Context, child: ChildSide | None
    ) -> tuple[Any, Any, ChildSide | None]:
        return attach(context), _current.set(current), child

    @staticmethod
    def _leave(token: Any, current: Any, child: ChildSide | None) -> None:
        detach(token)
        _current.reset(current)
        if child is not None:
            child.flush()

    def started(self) -> Generator[None, Any, None]:
        """Find the providers after all hooks of the start, which may set providers."""
        log_lines.enter_scheduler(self)
        self._verify_last()
        self._phase = STARTUP
        self._watch_schedule(ScheduleWatch.start)
        yield
        self._phase = None
        bridge = _bridges.get(self._key)
        session = self._its_session()
        # Hooks with a session are in place, and those have the time of waiting.
        if bridge is not None and session is not None and self._waiting is not None:
            bridge.prepare(session.tasks)
            self._waiting.begin()
            bridge.pipeline.waiting.sources.add(self._waiting)
            bridge.start([str(task.name) for task in session.tasks])
            self._log_start(bridge)
        self._watch_schedule(ScheduleWatch.follow)
        self._look_after_others(is_start=True)

    def _watch_schedule(self, step: Callable[[ScheduleWatch], None]) -> None:
        if self._watch is None:
            return  # a copy in a spawned child
        try:
            step(self._watch)
        except Exception:  # telemetry never hurts the task
            _logger.debug("the schedule could not be watched", exc_info=True)

    def _log_start(self, bridge: Bridge) -> None:
        """Log one line that confirms that all is well."""
        handler = None if self._placement is None else self._placement.handler
        if handler is None:
            return
        try:
            pipeline = bridge.pipeline
            line = start_line(
                handler.repo,
                handler.url,
                pipeline.providers,
                sends_log_lines=pipeline.sends_log_lines,
            )
            _logger.info("%s", line)
        except Exception:  # telemetry never hurts the task
            _logger.debug("the start could not be logged", exc_info=True)

    def stopping(self) -> Generator[None, Any, None]:
        """Send the queues, and record an orderly end.

        Next the process may be replaced, or ended by a web server's signal: nothing is sent then.
        """
        self._close_gone_runs()
        self._phase = SHUTDOWN
        self._watch_schedule(ScheduleWatch.stop)
        yield
        self._phase = None
        bridge = _bridges.get(self._key)
        if bridge is None:
            return
        self._close_gone_runs(is_over=True)
        bridge.left_runs.leave()
        self._send_repeated_errors(is_end=True)
        try:
            bridge.pipeline.end_scheduler()
        except Exception:  # telemetry never hurts the task
            _logger.debug("the queues could not be sent at the shutdown", exc_info=True)

    def _verify_last(self) -> None:
        """Verify the handler's place after all hooks of the start, which may replace it."""
        session = self._its_session()
        if self._placement is None or session is None:
            return
        self._placement.begin()
        startup = session.hooks.scheduler_startup
        if self.verifying in startup:
            startup.remove(self.verifying)
        # Rocketry iterates over this list now, and reaches the appended hook, too.
        startup.append(self.verifying)

    def verifying(self) -> None:
        """Put the handler back on the task logger if other code has taken it away."""
        if self._placement is None:
            return
        try:
            if self._placement.verify():
                self._watch_children()
        except Exception:  # telemetry never hurts the task
            _logger.warning("The handler could not be put back", exc_info=True)

    def _send_repeated_errors(self, *, is_end: bool = False) -> None:
        if self._repeated_errors is not None:
            try:
                self._repeated_errors.send_due(self._send_line, is_end=is_end)
            except Exception:  # telemetry never hurts the task
                _logger.debug("repeated errors could not be sent", exc_info=True)

    @_with_its_signature
    def cycling(self) -> Generator[None, Any, None]:
        """Time a cycle, which ends after the tasks that the scheduler itself has run."""
        began = time.perf_counter()
        self.cycled()
        yield
        bridge = _bridges.get(self._key)
        if bridge is not None:
            bridge.pipeline.heartbeat.took(time.perf_counter() - began)

    def cycled(self) -> None:
        """Verify the handler's place, count the cycle, and close the runs that are gone."""
        self.verifying()
        bridge = _bridges.get(self._key)
        if bridge is not None:
            bridge.pipeline.heartbeat.beat()
        if self._waiting is not None:
            self._waiting.cycle()
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + _SECONDS_BETWEEN_LOOKS
            self._close_gone_runs()
            self._watch_schedule(ScheduleWatch.look)
            self._look_after_others()
            self._send_repeated_errors()

    def _look_after_others(self, *, is_start: bool = False) -> None:
        bridge, session = _bridges.get(self._key), self._its_session()
        if bridge is None or session is None:
            return
        if is_start or time.monotonic() >= self._next_look_at_others:
            self._next_look_at_others = time.monotonic() + _SECONDS_BETWEEN_LOOKS_AT_OTHERS
            bridge.left_runs.look_after(session.get_time)

    def _close_gone_runs(self, *, is_over: bool = False) -> None:
        """End the runs that nothing works on any more: Rocketry logs no ending of them.

        Args:
            is_over: Whether the scheduler has ended, with all that it has launched.
        """
        bridge, session = _bridges.get(self._key), self._its_session()
        if bridge is None or session is None:
            return
        try:
            # After an error of the scheduler, records of child processes may be left in its queue.
            is_drained = is_over and session.scheduler._log_queue.empty()  # noqa: SLF001  # no public way
            runs = bridge.open_runs.all()
            for run, exit_code in self._gone_runs.find(runs, self._key, is_drained=is_drained):
                if run.began is not None:  # pragma: no branch  # each open run has it
                    bridge.crash(run.began, run.ids, session.get_time(), exit_code)
        except Exception:  # telemetry never hurts the task
            _logger.debug("runs that are gone could not be ended", exc_info=True)

    def _its_session(self) -> Any:
        weak = getattr(self, "_session", None)
        return None if weak is None else weak()


_hooks_of: WeakKeyDictionary[Any, ref[SchedulerHooks]] = WeakKeyDictionary()


def _follow(task: Any, run_id: Any, run: Any = None, params: Any = None) -> Any:
    """Keep Rocketry's own object of a launched run.

    A task may have its own function for run ids, which Rocketry calls in place of the session's.
    The launches of such tasks are kept here, too.
    """
    del params
    hooks = _hooks_of[task.session]()
    if hooks is not None:
        if task.func_run_id is not None:
            hooks.note(task, run_id)
        hooks.follow(task, run_id, run)
    return run_id


# The methods of Rocketry's classes that are wrapped while a session is watched.
_WATCHED = (
    (WatchedMethod("get_run_id", _follow), Task),
    (terminations, Task),
    (commands, CommandTask),
    (requests, Task),
)


def _can_be_pickled(value: object) -> bool:
    try:
        pickle.dumps(value)
    except Exception:  # noqa: BLE001  # an object of the user may raise anything
        return False
    return True


def _with_span(
    base: Context, its: Context, annotations: Annotations, clock: Callable[[], int]
) -> Context:
    """Return a context for a body, with the span of its run from another context."""
    span = RunSpan(get_current_span(its).get_span_context(), annotations, clock)
    return set_span_in_context(span, base)


def _with_baggage(context: Context, entries: Any) -> Context:
    for key, value in entries.items():
        context = baggage.set_baggage(key, value, context)
    return context


def _clock(task: Any, ids: RunIds) -> Callable[[], int]:
    """Return the clock of the run that a task's body begins, in nanoseconds since the epoch."""
    session = task.session
    if session.config.time_func is None:
        return time.time_ns
    clock = RunClock(session.get_time, ids.span_id)
    use_clock(ids.trace_id, clock)
    return clock.now


def _run_id_of(task: Any) -> str | None:
    """Return the id of the run whose body starts here, in this process."""
    here: list[Any] = [None]
    if task.get_execution() != "main":
        here = [threading.current_thread()]
        with contextlib.suppress(RuntimeError):
            here.append(asyncio.current_task())
    for run in reversed(task._run_stack):  # noqa: SLF001  # no public way to the run of a body
        if any(run.task is one for one in here):
            return optional_text(run.run_id)
    return None

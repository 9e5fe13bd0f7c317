"""The combined handler, which connects the repository and the bridge.

In: a log record. Out: its fields in the repository, as ``RepoHandler`` stores them, with the ids
of the run; and the record's telemetry, handed to the bridge.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import contextmanager
from copy import copy
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

from redbird.logging import RepoHandler

from rocketry_otel._delivery.pipeline import GivenProviders
from rocketry_otel._export.status import combined
from rocketry_otel._history.run_lookup import RunLookup
from rocketry_otel._model.record import exact_record
from rocketry_otel._model.text import safe_text
from rocketry_otel._runtime.scope import NAME
from rocketry_otel._runtime.sigterm import termination
from rocketry_otel._runtime.suppression import suppressed
from rocketry_otel._settings import Settings

from .arguments import check_options, check_repository
from .log_lines import TaskRecordSender, log_lines, message_of
from .placement import repo_of
from .routes import Route, Routes
from .tasks import TaskDirectory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry._logs import LoggerProvider
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider
    from redbird import BaseRepo

    from rocketry_otel._delivery.pipeline import Pipeline
    from rocketry_otel._export.status import Delivery
    from rocketry_otel._model.runs import Observation

    from .bridge import Bridge
    from .hooks import SchedulerHooks
    from .placement import Placement
    from .tasks import Session
    from .user_hooks import Enrich, NameSpan

_logger = logging.getLogger(NAME)

# Log records of exporters and their libraries would come back to them without end. An exporter's
# thread that waits for this handler's lock would stop for good.
_NOT_OURS = ("opentelemetry", "urllib3", "requests", "grpc", NAME)


# The handler of each instrumented session.
_hooked_into: WeakKeyDictionary[Session, ref[OTelRepoHandler]] = WeakKeyDictionary()


class _Emitting(threading.local):
    """Whether this thread is inside ``emit``."""

    here = False


class OTelRepoHandler(TaskRecordSender, RepoHandler):  # type: ignore[misc]  # no annotations
    """Writes task records to a Red Bird repository and sends them to OpenTelemetry.

    It can replace any ``redbird.logging.RepoHandler``: the records that it writes are the same.
    An error of the repository is raised, as ``RepoHandler`` raises it. An error on the side of
    OpenTelemetry is never raised.

    Args:
        repo: The repository; ``TaskEventRecord`` is the model that keeps all of the telemetry.
        level: The lowest level of the records to handle.
        tracer_provider: The provider of spans. Without it, the handler uses the global provider
            of the application when the first record comes, else its own one. That one is made
            from the standard ``OTEL_*`` variables and is not made global.
        logger_provider: The provider of log records, with the same defaults.
        meter_provider: The provider of metrics, with the same defaults.
        settings: Our own settings; without them, those of the environment.

    Raises:
        TypeError: If an argument has another type.
        SettingsError: If ``settings`` is not given and the environment has a bad value.

    Attributes:
        repo: The repository.
    """

    repo: BaseRepo

    def __init__(
        self,
        repo: BaseRepo,
        *,
        level: int | str = 0,
        tracer_provider: TracerProvider | None = None,
        logger_provider: LoggerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        settings: Settings | None = None,
    ) -> None:
        """Connect a repository and OpenTelemetry; the arguments are those of the class."""
        check_repository(repo)
        check_options(
            settings=settings,
            tracer_provider=tracer_provider,
            logger_provider=logger_provider,
            meter_provider=meter_provider,
        )
        super().__init__(repo, level=level)
        self.settings = settings or Settings()
        self._run_lookup = RunLookup(repo)
        given = GivenProviders(tracer_provider, logger_provider, meter_provider)
        self._routes = Routes(Route(self.settings, given, repo, self._run_lookup))
        self._emitting = _Emitting()
        self._place_checked = False
        # ``instrument`` fills it; a handler that was put in place by hand knows no tasks.
        self.tasks = TaskDirectory()
        self.placement: Placement | None = None
        # The URL by which ``instrument`` has opened the repository; and whether ``instrument`` has
        # opened it in the memory of this process.
        self.url: str | None = None
        self.is_own_memory = False
        self._hooks: list[tuple[SchedulerHooks, ref[Any]]] = []

    @property
    def _bridge(self) -> Bridge:
        return self._routes.first.bridge

    @property
    def _pipeline(self) -> Pipeline:
        return self._bridge.pipeline

    def filter(self, record: logging.LogRecord) -> bool | logging.LogRecord:
        """Return whether to handle a record; those that handling itself logs are left out."""
        if self._emitting.here:
            return False
        # A record that no logger has made may have any object as its name.
        if _is_not_ours(record.name):
            return False
        return super().filter(record)  # type: ignore[no-any-return]

    def sends(self, record: logging.LogRecord) -> bool:
        """Return whether it sends a record that a logger passes to it.

        Args:
            record: The record. An excluded task's is not sent, nor is any without a provider.
        """
        if record.levelno < self.level or _is_not_ours(record.name):
            return False
        route = self._routes.of_record(record)
        name = getattr(record, "task_name", None)
        is_exported = name is None or route.settings.exports(safe_text(name))
        return is_exported and route.bridge.pipeline.sends_logs

    @property
    def sends_log_lines(self) -> bool:
        """Whether the log lines of tasks' bodies are sent, of any application on this handler."""
        return any(pipeline.sends_log_lines for pipeline in self._routes.pipelines)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record to the repository and send it to OpenTelemetry.

        Args:
            record: The record. One without an action or a task name is no task event: it is
                sent, and written if the model of the repository accepts it.

        Raises:
            Exception: The error of the repository or the formatter; the telemetry of the record
                is sent all the same.
        """
        self._emitting.here = True
        # What processors and exporters log meanwhile would be exported without end.
        was_paused = log_lines.pause(True)  # noqa: FBT003  # a value
        log_lines.keep_from_others(record)
        observation: Observation | None = None
        expected, may_be_stored = None, False
        bridge = self._routes.of_record(record).bridge
        # The body has logged it: it is sent as a line, in the trace of its run.
        is_line = log_lines.has(record)
        try:
            record = _copy(record)
            if not self._place_checked and isinstance(record.name, str):
                self._check_place(record.name)
            try:
                fields = self._formatted(record)
            finally:
                observation = bridge.observe(
                    vars(record), message_of(record), self._execution_of(record)
                )
            if observation is None or observation.event.is_task_event:
                expected = bridge.expect(observation)
                # Also if it raises: a database may lose its connection after the commit.
                may_be_stored = True
                self._store(self._completed(fields, observation))
            elif self._is_accepted(fields):
                with suppressed():
                    self.write(fields)
        finally:
            try:
                if not (is_line and observation is not None and observation.event.action is None):
                    bridge.export(observation, expected, may_be_stored=may_be_stored)
            finally:
                # After any error, even SystemExit: the next record must be handled.
                self._emitting.here = False
                log_lines.pause(was_paused)

    def flush(self, timeout: float | None = None) -> bool:
        """Send the queues.

        Args:
            timeout: Seconds to wait at most; by default the shutdown time-out of the settings.

        Returns:
            Whether everything handed over so far was really accepted in time. For a provider of
            the application, only whether its ``force_flush`` came back in time.
        """
        with self._letting_records_pass():
            limit = self.settings.shutdown_timeout if timeout is None else timeout
            deadline = time.monotonic() + limit
            flushed = [
                pipeline.flush(max(deadline - time.monotonic(), 0.0))
                for pipeline in self._routes.pipelines
            ]
            return all(flushed)

    @property
    def delivery(self) -> Delivery:
        """The status of delivery."""
        return combined([pipeline.worker.delivery for pipeline in self._routes.pipelines])

    def close(self) -> None:
        """Send the queues, within the shutdown time-out, and end threads and connections.

        A later record is handled as before, because ``logging.config`` closes handlers that stay
        in use. At the end of the program everything is closed for good.
        """
        with self._letting_records_pass():
            deadline = time.monotonic() + self.settings.shutdown_timeout
            for pipeline in self._routes.pipelines:
                pipeline.rest(max(deadline - time.monotonic(), 0.0))
            self._routes.leave()
        super().close()

    @contextmanager
    def _letting_records_pass(self) -> Iterator[None]:
        """Release the lock that ``logging`` takes to close a handler, so that tasks go on."""
        try:
            self.release()
        except RuntimeError:  # this thread does not have it
            yield
            return
        try:
            yield
        finally:
            self.acquire()

    def trace_id_of(self, record: Any) -> str | None:
        """Return the trace id of the run that a stored record belongs to.

        Args:
            record: An item of this handler's repository, of any model.

        Returns:
            32 hexadecimal digits, as Jaeger's search box takes them; ``None`` if the record is
            no task event.
        """
        with suppressed():
            return self._run_lookup.trace_id_of(record)

    def hook_into(
        self,
        session: Any,
        settings: Settings | None = None,
        given: GivenProviders | None = None,
    ) -> None:
        """Set the run's span around the body of each task of a session; see ``instrument``.

        Args:
            session: The session.
            settings: The settings of its runs, if they differ from the handler's.
            given: The providers of its runs, if ``settings`` is given.
        """
        from .hooks import SchedulerHooks  # noqa: PLC0415  # it imports Rocketry

        self._hooks = [(hooks, weak) for hooks, weak in self._hooks if weak() is not None]
        route = self._routes.first
        if settings is not None:
            given = given or GivenProviders()
            route = self._routes.find_or_add(settings, given, self.repo, self._run_lookup)
        hooks = SchedulerHooks(route.bridge, route.settings, session, self.placement)
        route.add(session, hooks)
        hooks.install(session)
        _hooked_into[session] = ref(self)
        if route.settings.global_providers:
            route.bridge.pipeline.allow_global()
        # At once: a web server takes the signal later, and restores ours when it has shut down.
        route.bridge.pipeline.handle_sigterm()
        self._hooks.append((hooks, ref(session)))

    def unhook(self) -> None:
        """Remove the hooks that ``hook_into`` has installed."""
        for hooks, weak in self._hooks:
            session = weak()
            if session is not None:
                hooks.remove(session)
                _hooked_into.pop(session, None)
        self._hooks.clear()
        for pipeline in self._routes.pipelines:
            termination.remove(pipeline)
        self._routes.leave()

    def use_repository(
        self, repo: BaseRepo, url: str | None = None, *, is_own_memory: bool = False
    ) -> None:
        """Write to another repository from now on; open runs keep their ids.

        Args:
            repo: The repository that an application has chosen meanwhile.
            url: The URL by which it was opened, if it was.
            is_own_memory: Whether ``instrument`` opened it in memory.
        """
        if repo is self.repo:
            return
        self.acquire()
        try:
            run_lookup = RunLookup(repo)
            self._routes.use_repository(repo, run_lookup)
            self.repo, self._run_lookup = repo, run_lookup
            self.url, self.is_own_memory = url, is_own_memory
        finally:
            self.release()

    def enrich(
        self, name_span: NameSpan | None, enrich: Enrich | None, session: Any = None
    ) -> None:
        """Call hooks of the user when a run of a session has ended; see ``instrument``."""
        route = self._routes.first if session is None else self._routes.of_session(session)
        route.call(name_span, enrich)

    def arguments_of(self, session: Session) -> dict[str, Any]:
        """Return the settings, providers and hooks of a session, as ``instrument`` takes them."""
        return self._routes.of_session(session).arguments

    def bridge_of(self, session: Any) -> Bridge:
        """Return the bridge of the runs of a session."""
        return self._routes.of_session(session).bridge

    def take_over(self, fields: dict[str, Any]) -> None:
        """Write a record that another repository has kept; it is not sent.

        Args:
            fields: The fields of the record.
        """
        observation = self._bridge.observe_stored(fields)
        with suppressed():
            self.write(self._completed(fields, observation))

    def _store(self, fields: dict[str, Any]) -> None:
        """Write the fields of a record, as ``write`` does, in less time."""
        run_lookup = self._run_lookup
        # The application may have replaced `write`.
        is_plain = getattr(self.write, "__func__", None) is RepoHandler.write
        record = exact_record(fields) if is_plain and run_lookup.takes_records else None
        if record is not None and run_lookup.is_in_memory:
            self.repo.add(record)
            return
        with suppressed():
            if record is None:
                self.write(fields)
            else:
                self.repo.add(record)

    def _formatted(self, record: logging.LogRecord) -> dict[str, Any]:
        """Return the fields that ``RepoHandler`` would write."""
        if self._needs_no_formatter(record):
            # As the default formatter does it, in a fifth of the time.
            record.message = record.formatted_message = record.getMessage()
            return vars(record)
        formatted = self.format(record)
        if isinstance(formatted, dict):
            return dict(formatted)
        if isinstance(formatted, logging.LogRecord):
            return vars(formatted)
        record.formatted_message = formatted
        return vars(record)

    def _needs_no_formatter(self, record: logging.LogRecord) -> bool:
        """Return whether the default formatter would return the message, and nothing more."""
        return (
            self.formatter is None
            # The application may have replaced `format`.
            and getattr(self.format, "__func__", None) is logging.Handler.format
            and not (record.exc_info or record.exc_text or record.stack_info)
        )

    def _is_accepted(self, fields: dict[str, Any]) -> bool:
        """Return whether the model of the repository accepts a record that is no task event."""
        to_item = getattr(self.repo, "to_item", None)
        try:
            return to_item is not None and to_item(fields) is not None
        except Exception:  # noqa: BLE001  # a model of the user may raise anything
            return False

    def _execution_of(self, record: logging.LogRecord) -> str | None:
        try:
            if record.name.endswith("._process"):
                return "process"
            return self.tasks.execution_of(getattr(record, "task_name", ""))
        except Exception:  # noqa: BLE001  # telemetry never hurts the task
            return None

    def _completed(self, fields: dict[str, Any], observation: Observation | None) -> dict[str, Any]:
        """Return the fields to write: those of the record, and ours that the model has room for."""
        # A child process sends its return value with its success.
        fields.pop("__return__", None)
        if observation is not None:
            self._run_lookup.complete(fields, observation)
        return fields

    def _check_place(self, logger_name: str) -> None:
        """Warn once, with the cure, if Rocketry reads another handler's repository than ours."""
        self._place_checked = True
        logger: logging.Logger | None = logging.getLogger(logger_name)
        while logger is not None:
            if self in logger.handlers:
                first = next((one for one in logger.handlers if repo_of(one) is not None), self)
                if first is not self:
                    _logger.warning(
                        "Rocketry reads its state from the first handler of the logger %r that "
                        "has a repository, and that is not this one (%r): what ran before a "
                        "restart will not count after it. The cure: rocketry_otel.instrument("
                        "app), or logging.getLogger(%r).handlers = [handler].",
                        logger.name,
                        type(self.repo).__name__,
                        logger.name,
                    )
                return
            logger = logger.parent if logger.propagate else None


def _is_not_ours(name: object) -> bool:
    return isinstance(name, str) and name.partition(".")[0] in _NOT_OURS


def _copy(record: logging.LogRecord) -> logging.LogRecord:
    """Return a copy of a record, in a third of the time of ``copy.copy``: only its fields."""
    if type(record) is not logging.LogRecord:
        return copy(record)
    copied = object.__new__(logging.LogRecord)
    vars(copied).update(vars(record))
    return copied


def handler_of(session: Session) -> OTelRepoHandler | None:
    """Return the handler that has put its hooks into a session."""
    weak = _hooked_into.get(session)
    return None if weak is None else weak()

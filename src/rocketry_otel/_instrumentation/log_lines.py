"""Log lines: what the body of a task logs, and what Rocketry's scheduler logs.

In: each record that a logger lets through, after all handlers of the application. Out: a log
signal, for the application whose run is current on this thread.

``Logger.callHandlers`` is wrapped. No handler is added to any logger, because a handler has side
effects: ``logging.basicConfig`` does nothing if the root logger has one, and the last resort of
``logging`` prints nothing. OpenTelemetry's own handlers get a filter. It keeps records of runs
from them, which are sent already, and notices the lines that they send, which are not sent again.
"""

from __future__ import annotations

import gc
import logging
import logging.handlers
import threading
from abc import abstractmethod
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary, WeakSet, ref

from opentelemetry._logs import get_logger_provider
from opentelemetry.context import get_current
from opentelemetry.trace import get_current_span

from rocketry_otel._model.event import nanoseconds
from rocketry_otel._model.log_lines import error_key, line_signal
from rocketry_otel._model.text import safe_text
from rocketry_otel._runtime.forks import after_fork_in_child
from rocketry_otel._runtime.scope import NAME
from rocketry_otel._runtime.suppression import is_suppressed

from .child_process import ChildRecords
from .current_run import _current

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from opentelemetry.context import Context

    from rocketry_otel._model.signals import ExceptionDetail, LogSignal

    from .repeated_errors import RepeatedErrors

    SendLine = Callable[[str, LogSignal, Context | None], None]

_logger = logging.getLogger(NAME)

# The packages whose handlers send log records by OpenTelemetry. Logfire's uses the SDK.
_PACKAGES = frozenset({"opentelemetry", "logfire"})
# What OpenTelemetry or this project logs while it sends a line would be the next line.
_NOT_LINES = frozenset({"opentelemetry", NAME})


class TaskRecordSender:
    """A handler that sends records of tasks, so that no other handler needs to send them."""

    @abstractmethod
    def sends(self, record: logging.LogRecord) -> bool:
        """Return whether it sends a record."""
        ...


class Lines(NamedTuple):
    """Where the log lines of a run or of a scheduler go.

    Attributes:
        send: Sends a line, from the name of its logger, the signal, and the context of its span.
        detail: How much of an exception is shown.
        task_name: The name of the run's task; ``None`` for a scheduler.
        run_id: The id of the run.
        context: The context that holds the run's span.
        repeated_errors: The errors that a scheduler has logged before.
    """

    send: SendLine
    detail: ExceptionDetail
    task_name: str | None = None
    run_id: str | None = None
    context: Context | None = None
    repeated_errors: RepeatedErrors | None = None

    def send_record(self, record: logging.LogRecord) -> None:
        """Send a record as a line of the current span, which is the run's or one inside of it."""
        fields, message, key = vars(record), message_of(record), None
        if self.repeated_errors is not None:
            key = error_key(fields, message)
            if key and self.repeated_errors.is_repeated(key, nanoseconds(record.created)):
                return
        action = fields.get("action") if self.task_name is None else None
        signal = line_signal(
            fields,
            message,
            self.detail,
            task_name=self.task_name,
            run_id=self.run_id,
            event_name=f"rocketry.scheduler.{action}" if isinstance(action, str) else None,
        )
        is_inside = get_current_span().get_span_context().is_valid
        context = get_current() if is_inside else self.context
        self.send(safe_text(record.name), signal, context)
        if key and self.repeated_errors is not None:
            self.repeated_errors.note(key, safe_text(record.name), signal)


class Scheduler(Protocol):
    """The hooks of a session, as far as its scheduler's lines need them."""

    @property
    def scheduler_logger(self) -> str:
        """The name of the scheduler's logger."""
        ...

    @property
    def scheduler_lines(self) -> Lines | None:
        """Where the scheduler's lines go; ``None`` if they are not sent."""
        ...


# The scheduler that runs in this context.
_scheduler: ContextVar[ref[Scheduler] | None] = ContextVar("rocketry_otel_scheduler", default=None)


class _Frame:
    """A line that the handlers of the application handle now, on this thread."""

    def __init__(self, record: logging.LogRecord, lines: Lines, outer: _Frame | None) -> None:
        self.record = record
        self.lines = lines
        self.outer = outer
        self.is_seen = False

    def is_about(self, record: logging.LogRecord) -> bool:
        """Return whether a record is this line; a filter may have replaced the object."""
        own = self.record
        return own is record or (own.name, own.created) == (record.name, record.created)


class _Here(threading.local):
    """The state of this thread."""

    frame: _Frame | None = None
    is_sending = False


_here = _Here()


class _Notice(logging.Filter):
    """The filter of a handler of OpenTelemetry: keeps records of runs away, and notices lines."""

    def __init__(self, handler: logging.Handler) -> None:
        super().__init__()
        self._handler = ref(handler)

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the handler shall send a record."""
        try:
            if _is_sent_already(record):
                return False
            frame = _here.frame
            if frame is not None and frame.is_about(record) and not self._sends_nowhere():
                frame.is_seen = True
        except Exception:  # telemetry never hurts the task
            _logger.debug("a record could not be compared with ours", exc_info=True)
        return True

    def _sends_nowhere(self) -> bool:
        provider = getattr(self._handler(), "_logger_provider", None)
        if _is_kind(provider, "Proxy"):
            provider = get_logger_provider()
        return _is_kind(provider, "NoOp") or _is_kind(provider, "Proxy")


def _is_kind(provider: object, kind: str) -> bool:
    return type(provider).__name__.lstrip("_").startswith(kind)


def _is_sent_already(record: logging.LogRecord) -> bool:
    """Return whether a handler of ours sends a record as one of a task."""
    return any(
        isinstance(handler, TaskRecordSender) and handler.sends(record)
        for logger in _chain_of(_logger_of(record.name))
        for handler in logger.handlers
    )


def _logger_of(name: str) -> logging.Logger:
    """Return the logger of a name, or the first one above it; makes none."""
    known = logging.Logger.manager.loggerDict
    while name:
        logger = known.get(name)
        if isinstance(logger, logging.Logger):
            return logger
        name = name.rpartition(".")[0]
    return logging.getLogger()


def _chain_of(logger: logging.Logger | None) -> Iterator[logging.Logger]:
    """Yield the loggers whose handlers get a record of a logger."""
    while logger is not None:
        yield logger
        logger = logger.parent if logger.propagate else None


class LogLines:
    """Wraps ``Logger.callHandlers`` as long as any application is instrumented."""

    def __init__(self) -> None:
        self._schedulers: list[ref[Scheduler]] = []
        self._wrapper: Any = None
        self._wrapped: Any = None
        self._noticed: WeakSet[logging.Handler] = WeakSet()
        self._listeners: WeakKeyDictionary[logging.Handler, list[Any]] = WeakKeyDictionary()
        self._types: dict[type, bool] = {}
        self._renew_lock()
        after_fork_in_child(self._renew_lock)

    def _renew_lock(self) -> None:
        # It guards the schedulers and the wrapper. No other lock of ours is taken while it is held.
        self._lock = threading.RLock()

    def watch(self, scheduler: Scheduler) -> None:
        """Send the lines of an application from now on."""
        with self._lock:
            self._schedulers = [*self._living(), ref(scheduler)]
            current: Any = logging.Logger.callHandlers
            if current is self._wrapper:
                return

            def call_handlers(logger: logging.Logger, record: logging.LogRecord) -> None:
                frame = self._begin(logger, record)
                try:
                    current(logger, record)
                finally:
                    if frame is not None:
                        self._end(frame)

            self._wrapper, self._wrapped = call_handlers, current
            _set_call_handlers(call_handlers)

    def unwatch(self, scheduler: Scheduler) -> None:
        """Send no more lines of an application; the last one undoes the wrapping."""
        with self._lock:
            self._schedulers = [one for one in self._living() if one() is not scheduler]
            if self._schedulers:
                return
            # If other code has wrapped it meanwhile, our wrapper stays and does nothing.
            if logging.Logger.callHandlers is self._wrapper:
                _set_call_handlers(self._wrapped)
            for handler in list(self._noticed):
                for notice in _notices_of(handler):
                    handler.removeFilter(notice)
            self._noticed.clear()

    def _living(self) -> list[ref[Scheduler]]:
        return [weak for weak in self._schedulers if weak() is not None]

    @staticmethod
    def enter_scheduler(scheduler: Scheduler) -> None:
        """Note that a scheduler runs in this context."""
        _scheduler.set(ref(scheduler))

    @staticmethod
    def pause(paused: bool) -> bool:  # noqa: FBT001  # a value
        """Take no lines on this thread, or take them again; return whether it was paused."""
        before, _here.is_sending = _here.is_sending, paused
        return before

    @staticmethod
    def has(record: logging.LogRecord) -> bool:
        """Return whether a record is a line, to be sent after all handlers."""
        return _here.frame is not None and _here.frame.record is record

    def keep_from_others(self, record: logging.LogRecord) -> None:
        """Keep a record of a run from OpenTelemetry's handlers; never raises.

        For a handler that was put in place by hand. An instrumented application has the wrapper.
        """
        if self._schedulers:
            return
        try:
            self._look(_logger_of(record.name), record.levelno)
        except Exception:  # telemetry never hurts the task
            _logger.debug("other handlers of a record could not be found", exc_info=True)

    def _begin(self, logger: logging.Logger, record: logging.LogRecord) -> _Frame | None:
        """Return a frame if a record is a line; never raises."""
        try:
            return self._frame_of(logger, record)
        except Exception:  # telemetry never hurts the task
            _logger.debug("a record could not be taken as a line", exc_info=True)
            return None

    def _frame_of(self, logger: logging.Logger, record: logging.LogRecord) -> _Frame | None:
        if _here.is_sending or not self._schedulers:
            return None
        fields, lines, outer = vars(record), self._lines_of(logger.name), _here.frame
        if lines is None and "task_name" not in fields:
            return None
        if outer is not None and outer.record is record:
            return None  # the method is wrapped twice
        is_ours, leads_elsewhere = self._look(logger, record.levelno)
        if (
            lines is None
            or leads_elsewhere
            or safe_text(record.name).partition(".")[0] in _NOT_LINES
        ):
            return None
        if "action" in fields and (is_ours or _is_of_child(logger)):
            return None  # a record of a run
        _here.frame = frame = _Frame(record, lines, outer)
        return frame

    @staticmethod
    def _end(frame: _Frame) -> None:
        """Send a line, unless another handler of OpenTelemetry has seen it; never raises."""
        _here.frame = frame.outer
        if frame.is_seen:
            return
        _here.is_sending = True
        try:
            # Exporters suppress instrumentation: what they log would be exported without end.
            if not is_suppressed():
                frame.lines.send_record(frame.record)
        except Exception:  # telemetry never hurts the task
            _logger.debug("a line could not be sent", exc_info=True)
        finally:
            _here.is_sending = False

    def _lines_of(self, logger_name: str) -> Lines | None:
        run = _current.get()
        if run:
            return run._lines  # noqa: SLF001  # for this module
        here = _scheduler.get()
        found: list[Scheduler] = []
        for weak in self._schedulers:
            scheduler = weak()
            if scheduler is None or not _is_below(logger_name, scheduler.scheduler_logger):
                continue
            if weak == here:
                return scheduler.scheduler_lines
            found.append(scheduler)
        # Of which application it is, is not known: none of them may have switched lines off.
        all_lines = [scheduler.scheduler_lines for scheduler in found]
        return all_lines[0] if all_lines and all(lines is not None for lines in all_lines) else None

    def _look(self, logger: logging.Logger, level: int) -> tuple[bool, bool]:
        """Put our filter on the handlers of OpenTelemetry that get the records of a logger.

        Returns:
            Whether a handler of ours gets them, and whether a handler of OpenTelemetry gets those
            of this level later, by a queue or a buffer.
        """
        is_ours = leads_elsewhere = False
        one: logging.Logger | None = logger
        while one is not None:  # each record takes this way: no generator
            for handler in tuple(one.handlers):
                if isinstance(handler, TaskRecordSender):
                    is_ours = True
                elif self._is_of_opentelemetry(handler):
                    self._notice(handler)
                elif isinstance(
                    handler, logging.handlers.QueueHandler | logging.handlers.MemoryHandler
                ):
                    for other, lowest in self._behind(handler):
                        self._notice(other)
                        leads_elsewhere = leads_elsewhere or level >= max(lowest, handler.level)
            one = one.parent if one.propagate else None
        return is_ours, leads_elsewhere

    def _notice(self, handler: logging.Handler) -> None:
        # The last filter: it sees the records that the others let through.
        if handler.filters and isinstance(handler.filters[-1], _Notice):
            return
        for notice in _notices_of(handler):
            handler.removeFilter(notice)
        handler.addFilter(_Notice(handler))
        self._noticed.add(handler)

    def _is_of_opentelemetry(self, handler: logging.Handler) -> bool:
        type_ = type(handler)
        known = self._types.get(type_)
        if known is None:
            known = self._types[type_] = any(
                class_.__module__.partition(".")[0] in _PACKAGES for class_ in type_.__mro__
            )
        return known

    def _behind(self, handler: logging.Handler) -> list[tuple[logging.Handler, int]]:
        """Return the handlers of OpenTelemetry behind a queue or a buffer, with their levels."""
        reached: list[tuple[Any, int]]
        if isinstance(handler, logging.handlers.MemoryHandler):
            reached = [(handler.target, logging.NOTSET)]
        else:
            reached = [
                (one, one.level if listener.respect_handler_level else logging.NOTSET)
                for listener in self._listeners_of(handler)
                for one in listener.handlers
            ]
        return [(one, level) for one, level in reached if self._is_of_opentelemetry(one)]

    def _listeners_of(self, handler: Any) -> list[Any]:
        """Return the listeners that empty the queue of a handler; they are looked for once."""
        known = self._listeners.get(handler)
        if known is None:
            queue = handler.queue
            # A handler does not know its listener, or knows it from Python 3.12 on, if it was made
            # by `logging.config`.
            known = self._listeners[handler] = [
                one
                for one in gc.get_objects()
                if issubclass(type(one), logging.handlers.QueueListener) and one.queue is queue
            ]
        return known


def _set_call_handlers(function: Any) -> None:
    logging.Logger.callHandlers = function  # type: ignore[method-assign]


def _notices_of(handler: logging.Handler) -> list[_Notice]:
    return [one for one in handler.filters if isinstance(one, _Notice)]


def _is_below(name: str, base: str) -> bool:
    return name == base or name.startswith(f"{base}.")


def _is_of_child(logger: logging.Logger) -> bool:
    """Return whether a logger sends the records of a child process to its parent."""
    return any(isinstance(one, ChildRecords) for one in logger.filters)


def message_of(record: logging.LogRecord) -> object:
    """Return the message of a record, without the traceback that a formatter adds."""
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001  # arguments that do not fit the message
        return record.msg


log_lines = LogLines()

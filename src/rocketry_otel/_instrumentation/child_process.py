"""The child process of a task: its body runs there, and the parent handles its records.

In: the records that the child sends to its parent. Out: the ids and the context of the run, and an
ending with the annotations of the body. The parent makes the span from them.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from opentelemetry import _logs, trace

from rocketry_otel._export.counters import Counters
from rocketry_otel._export.global_providers import make_global
from rocketry_otel._export.outage import Outage
from rocketry_otel._export.providers import Providers, is_placeholder, resolve
from rocketry_otel._model.annotations import (
    Annotations,
    attributes_as_text,
    events_as_text,
    links_as_text,
    plain_attributes,
)
from rocketry_otel._model.event import ENDINGS, FROM_CHILD, RUN, TaskEvent, live_event
from rocketry_otel._model.ids import RunIds, ids_of_run
from rocketry_otel._model.signals import beginning_attributes, span_name
from rocketry_otel._model.tracebacks import exception_of
from rocketry_otel._runtime import shutdown
from rocketry_otel._runtime.scope import NAME
from rocketry_otel._telemetry.logs import LineLogger
from rocketry_otel._telemetry.tracing import RunTracer

_logger = logging.getLogger(NAME)

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from rocketry_otel._model.annotations import RunLink
    from rocketry_otel._model.signals import LogSignal
    from rocketry_otel._settings import Settings

    from .bridge import Bridge


# The most seconds that the end of a child waits for log lines.
_LONGEST_FOR_LINES = 1.0

# Under this name a child sends along how many log lines its queue had no room for.
DROPPED_LINES = "dropped_lines"

# The fields before this module has added its own.
_NO_FIELDS: dict[str, Any] = {}


class ChildRecords(logging.Filter):
    """Sees the records that a child sends to its parent.

    The record that begins the run yields its ids. The record that ends it takes the annotations
    of the body along, because the parent makes the span.

    Attributes:
        began: The event that began the run of this child; ``None`` before it, and in the parent.
        annotations: The annotations of the body.
    """

    def __init__(self) -> None:
        """Begin with nothing seen."""
        super().__init__()
        self.began: TaskEvent | None = None
        self.annotations = Annotations()

    def filter(self, record: logging.LogRecord) -> bool:
        """Let a record through; remember a beginning, and complete an ending."""
        try:
            self._note(record)
        except Exception:  # telemetry never hurts the task
            _logger.debug("a record of a child could not be noted", exc_info=True)
        return True

    def _note(self, record: logging.LogRecord) -> None:
        action = getattr(record, "action", None)
        if action == RUN:
            self.began = live_event(vars(record), record.getMessage(), "process")
            self.annotations = Annotations()
        elif action in ENDINGS:
            exception = exception_of(vars(record), _NO_FIELDS)
            added = {
                "attributes": attributes_as_text(plain_attributes(self.annotations.attributes)),
                "events": events_as_text(tuple(self.annotations.events)),
                "links": links_as_text(tuple(self.annotations.links)),
                "exc_type": exception and exception.type,
                "exc_message": exception and exception.message,
                "exc_text": exception and exception.stacktrace,
                DROPPED_LINES: ChildSide.dropped_lines() or None,
            }
            known = {name: value for name, value in added.items() if value is not None}
            if known:
                vars(record)[FROM_CHILD] = known


class ChildSide:
    """The providers of a child process, for the telemetry of its task's body."""

    _only: ChildSide | None = None

    def __init__(
        self, providers: Providers, settings: Settings, counters: Counters | None = None
    ) -> None:
        """Use providers, which count in ``counters``."""
        self.counters = counters or Counters()
        self._providers = providers
        self._tracer = RunTracer(providers.tracer, settings.span_kind)
        self._lines = LineLogger(providers.logger)
        self._left = settings.shutdown_timeout

    @classmethod
    def of(cls, bridge: Bridge | None, settings: Settings) -> ChildSide:
        """Return the only one of this child, made at the first call.

        Args:
            bridge: The parent's bridge in a forked child; ``None`` in a spawned child, which finds
                its own providers.
            settings: Our own settings.
        """
        if cls._only is None:
            if bridge is not None and bridge.pipeline.providers is not None:
                counters = bridge.pipeline.counters
                providers = _inherited(bridge.pipeline.providers)
                # This object closes the parent's providers too, within one time limit.
                shutdown.forget(bridge.pipeline)
            else:
                counters = Counters()
                providers = resolve(None, None, None, counters, Outage(counters))
                if settings.global_providers:
                    make_global(providers)
            cls._only = cls(providers, settings, counters)
            shutdown.remember(cls._only)
        return cls._only

    @classmethod
    def dropped_lines(cls) -> int:
        """Return how many log lines of the body the queue had no room for."""
        if cls._only is None:
            return 0
        return cls._only.counters.of("logs", "dropped").get("line_queue_full", 0)

    def context_of(
        self, began: TaskEvent, parent: RunLink | None = None, *, keeps_run_id: bool
    ) -> tuple[RunIds, Context]:
        """Return the ids and the context of the run that an event began.

        Those in the scheduler's process are equal.

        Args:
            began: The event.
            parent: The link to the parent of the run, if it is in the trace of a request.
            keeps_run_id: Whether the repository keeps run ids.
        """
        if parent is not None:
            began = began._replace(links=(parent,))
        ids = ids_of_run(began, keeps_run_id=keeps_run_id)
        sampling = self._tracer.sampling_of(
            ids, span_name(began.task_name or ""), beginning_attributes(began), parent
        )
        return ids, self._tracer.context_of(ids, sampling)

    def send_line(self, logger_name: str, signal: LogSignal, context: Context | None) -> None:
        """Hand over a log line of the body."""
        if self._providers.sends_logs:
            self._lines.record(logger_name, signal, context)

    @property
    def shutdown_timeout(self) -> float:
        """The most seconds that the child's end may wait: the rest that flushes have not used."""
        return self._left

    def flush(self) -> None:
        """Send the telemetry of the body, within the shutdown time-out.

        In an outage the child does not wait for log lines as long as for spans: most bodies log,
        and Rocketry counts the child as a running task meanwhile.
        """
        began = time.monotonic()
        try:
            self._borrow_globals()
            for_lines = min(self._left, _LONGEST_FOR_LINES)
            self._providers.flush(began + self._left, began + for_lines)
        finally:
            self._left = max(self._left - (time.monotonic() - began), 0.0)

    def begin_closing(self, deadline: float) -> None:
        """Begin to send the rest, until ``deadline`` (``time.monotonic()``)."""
        self._providers.begin_closing(deadline)

    def close(self, timeout: float) -> None:
        """Send the rest, within ``timeout`` seconds, and end."""
        self._providers.close(time.monotonic() + timeout)
        shutdown.forget(self)

    def _borrow_globals(self) -> None:
        """Add global providers that were set late, or beside the given ones, to the flush."""
        providers = self._providers
        known = [providers.tracer, providers.logger, *providers.borrowed]
        for provider in (trace.get_tracer_provider(), _logs.get_logger_provider()):
            if not any(provider is one for one in known) and not is_placeholder(provider):
                providers.borrowed.append(provider)


def _inherited(providers: Providers) -> Providers:
    """Return the parent's providers that a forked child flushes.

    The application's meter provider is not among them. A child that sent its copy of the sums
    would make the parent's counters jump back and forth.
    """
    borrowed = [one for one in providers.borrowed if one is not providers.meter]
    return replace(providers, borrowed=borrowed)

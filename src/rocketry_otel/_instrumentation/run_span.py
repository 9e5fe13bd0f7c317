"""The current span in the body of a task.

In: calls of any library on the current span. Out: annotations, for the run's own span, which is
made when the run ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.semconv.attributes.exception_attributes import (
    EXCEPTION_MESSAGE,
    EXCEPTION_STACKTRACE,
    EXCEPTION_TYPE,
)
from opentelemetry.trace import Span, SpanContext, Status, StatusCode

from rocketry_otel._model.signals import EXCEPTION_EVENT, LONGEST_MESSAGE, LONGEST_STACKTRACE
from rocketry_otel._model.text import shortened
from rocketry_otel._model.tracebacks import exception_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.util.types import Attributes

    from rocketry_otel._model.annotations import Annotations


class RunSpan(Span):
    """The span of a run that goes on, as its body sees it; it never raises.

    Args:
        context: The ids and flags of the span.
        annotations: What the body adds.
        clock: Returns nanoseconds since the epoch, by the application's clock.
    """

    def __init__(
        self, context: SpanContext, annotations: Annotations, clock: Callable[[], int]
    ) -> None:
        self._context = context
        self._annotations = annotations
        self._clock = clock
        self._is_ok = False

    def get_span_context(self) -> SpanContext:
        """Return the ids and flags of the span."""
        return self._context

    def is_recording(self) -> bool:
        """Return whether the run is sampled."""
        return self._context.trace_flags.sampled

    def end(self, end_time: int | None = None) -> None:
        """Do nothing: the span ends with its run."""

    def set_attributes(self, attributes: Mapping[str, object]) -> None:
        """Add or change attributes."""
        for key, value in _mapping(attributes).items():
            self._annotations.set_attribute(key, value)

    def set_attribute(self, key: str, value: object) -> None:
        """Add or change an attribute."""
        self._annotations.set_attribute(key, value)

    def add_event(
        self,
        name: str,
        attributes: Mapping[str, object] | None = None,
        timestamp: int | None = None,
    ) -> None:
        """Add an event, by default with the time of now by the application's clock."""
        time = timestamp if isinstance(timestamp, int) else self._clock()
        self._annotations.add_event(name, time, {} if attributes is None else attributes)

    def add_link(self, context: SpanContext, attributes: Attributes = None) -> None:
        """Add a link; one without a span and without attributes is left out."""
        if isinstance(context, SpanContext) and (context.is_valid or attributes):
            self._annotations.add_link(context.trace_id, context.span_id, attributes or {})

    def update_name(self, name: str) -> None:
        """Set the attribute ``rocketry.name``; the span's own name is a dimension of metrics."""
        self._annotations.set_name(name)

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Keep an error for a run that succeeds; ``OK`` takes it back for good.

        The rules are those of the specification: ``UNSET`` changes nothing, and nothing changes
        ``OK``. A run that fails has its own status.
        """
        code: object = status
        if isinstance(status, Status):
            code, description = status.status_code, status.description
        if self._is_ok or code not in {StatusCode.OK, StatusCode.ERROR}:
            return
        self._is_ok = code is StatusCode.OK
        self._annotations.set_error(None if self._is_ok else description or "")

    def record_exception(
        self,
        exception: BaseException,
        attributes: Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,  # noqa: FBT001, FBT002  # the signature of OpenTelemetry
    ) -> None:
        """Add an ``exception`` event; that of the exception that ends the run is sent once."""
        del escaped  # deprecated
        exc_info = (type(exception), exception, getattr(exception, "__traceback__", None))
        found = exception_of({"exc_info": exc_info}, {})
        if found is None:
            return  # it is no exception
        # No more is kept than is sent: a body may record many.
        own = {
            EXCEPTION_TYPE: found.type,
            EXCEPTION_MESSAGE: found.message and shortened(found.message, LONGEST_MESSAGE),
            EXCEPTION_STACKTRACE: found.stacktrace
            and shortened(found.stacktrace, LONGEST_STACKTRACE),
        }
        known = {key: value for key, value in own.items() if value is not None}
        self.add_event(EXCEPTION_EVENT, {**known, **_mapping(attributes)}, timestamp)


def _mapping(attributes: object) -> dict[str, object]:
    try:
        return dict(attributes or {})  # type: ignore[call-overload, no-any-return]
    except Exception:  # noqa: BLE001  # the task shall go on, whatever it has handed over
        return {}

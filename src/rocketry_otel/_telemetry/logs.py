"""Makes the log record of an event.

In: a log signal, and the context of its run. Out: a log record for the application's provider or
our own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry._logs import LogRecord
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, set_span_in_context

from rocketry_otel._runtime.scope import NAME, VERSION

if TYPE_CHECKING:
    from opentelemetry._logs import LoggerProvider

    from rocketry_otel._model.signals import LogSignal

# An empty context is falsy, and the SDK then takes the current span: name "no span" outright.
_NO_TRACE = set_span_in_context(INVALID_SPAN, Context())


class EventLogger:
    """Sends events as log records.

    Args:
        provider: The provider of the logger.
    """

    def __init__(self, provider: LoggerProvider) -> None:
        self._logger = provider.get_logger(NAME, VERSION)

    def record(self, signal: LogSignal, context: Context | None) -> None:
        """Send a log record of the run whose span is in ``context``."""
        # Made here, not by the logger: this way through the SDK is shorter.
        record = LogRecord(
            timestamp=signal.timestamp,
            observed_timestamp=signal.timestamp,
            context=_NO_TRACE if context is None else context,
            severity_number=signal.severity,
            severity_text=signal.severity_text,
            body=signal.body,
            attributes=signal.attributes,
            event_name=signal.event_name,
        )
        self._logger.emit(record)

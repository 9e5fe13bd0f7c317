"""Makes the log records of events, and of the lines that a task's body logs.

In: a log signal, and the context of its run. Out: a log record for the application's provider or
our own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry._logs import LogRecord
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, set_span_in_context

from rocketry_otel._export.encoded import Encoded
from rocketry_otel._export.encoding import encode_log
from rocketry_otel._export.own_providers import scope_of
from rocketry_otel._runtime.scope import NAME, SCHEMA_URL, VERSION

if TYPE_CHECKING:
    from opentelemetry._logs import Logger, LoggerProvider

    from rocketry_otel._model.ids import RunIds
    from rocketry_otel._model.signals import LogSignal

# An empty context is falsy, and the SDK then takes the current span: name "no span" outright.
_NO_TRACE = set_span_in_context(INVALID_SPAN, Context())
# An application may make loggers without end.
_MOST_LOGGERS = 1_000


class EventLogger:
    """Sends events as log records.

    Args:
        provider: The provider of the logger.
    """

    def __init__(self, provider: LoggerProvider) -> None:
        self._logger = provider.get_logger(NAME, VERSION, SCHEMA_URL)
        self._scope = scope_of(provider, self._logger)

    def encode(self, signal: LogSignal, ids: RunIds | None, flags: int) -> Encoded | None:
        """Return the log record that ``record`` makes as bytes.

        Args:
            signal: The log record.
            ids: The ids of its run; ``None`` if it belongs to none.
            flags: The trace flags of the run.

        Returns:
            The log record; ``None`` if only the SDK can make it.
        """
        scope = self._scope
        if scope is None or not scope.limits.allow_log(signal):
            return None
        return Encoded(scope, encode_log(signal, ids, flags))

    def record(self, signal: LogSignal, context: Context | None) -> None:
        """Send a log record of the run whose span is in ``context``."""
        self._logger.emit(_record(signal, context))


class LineLogger:
    """Sends log lines as log records; their scope is the name of the logger, as is usual.

    Args:
        provider: The provider of the loggers.
    """

    def __init__(self, provider: LoggerProvider) -> None:
        self._provider = provider
        self._loggers: dict[str, Logger] = {}

    def record(self, logger_name: str, signal: LogSignal, context: Context | None) -> None:
        """Send a line of a logger as a log record of the span in ``context``."""
        logger = self._loggers.get(logger_name)
        if logger is None:
            logger = self._provider.get_logger(logger_name, schema_url=SCHEMA_URL)
            if len(self._loggers) < _MOST_LOGGERS:
                self._loggers[logger_name] = logger
        logger.emit(_record(signal, context))


def _record(signal: LogSignal, context: Context | None) -> LogRecord:
    # Made here, not by the logger: this way through the SDK is shorter.
    return LogRecord(
        timestamp=signal.timestamp,
        observed_timestamp=signal.timestamp,
        context=_NO_TRACE if context is None else context,
        severity_number=signal.severity,
        severity_text=signal.severity_text,
        body=signal.body,
        attributes=signal.attributes,
        event_name=signal.event_name,
    )

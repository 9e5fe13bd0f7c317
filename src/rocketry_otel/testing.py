"""Tools for tests of your own tasks: telemetry captured in memory, and a clock.

No collector, no network, no mock: the providers are the OpenTelemetry SDK's own.

Example::

    def test_etl_is_traced():
        app = Rocketry(execution="main")
        ...
        with capture_telemetry(app) as telemetry:
            app.session.run("etl")
        assert telemetry.span("etl").attributes["rocketry.action"] == "success"

With pytest the fixture ``capture_rocketry`` does the same until the end of a test.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from opentelemetry.sdk._logs import LoggerProvider, LogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

from ._export.run_clocks import in_run_time, note_start, set_run_time
from ._instrumentation.instrument import arguments_of, instrument, uninstrument

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry._logs import LogRecord
    from opentelemetry.context import Context
    from opentelemetry.sdk._logs import ReadWriteLogRecord
    from opentelemetry.sdk.trace import ReadableSpan, Span
    from opentelemetry.sdk.trace.sampling import Sampler

__all__ = ["CaptureRocketry", "ManualClock", "TelemetryCapture", "capture_telemetry"]


class TelemetryCapture:
    """Spans, log records and metrics, as they would have been exported.

    Args:
        sampler: Decides which spans are kept; by default all are.

    Attributes:
        tracer_provider: The provider whose spans are captured.
        logger_provider: The provider whose log records are captured.
        meter_provider: The provider whose metrics are captured.
    """

    def __init__(self, sampler: Sampler | None = None) -> None:
        """Start without any telemetry."""
        resource = Resource({"service.name": "test"})
        self._spans = _Spans()
        self._log_records = _LogRecords()
        self._reader = InMemoryMetricReader()
        self.tracer_provider = TracerProvider(
            sampler=sampler, resource=resource, shutdown_on_exit=False
        )
        self.tracer_provider.add_span_processor(self._spans)
        self.logger_provider = LoggerProvider(resource=resource, shutdown_on_exit=False)
        self.logger_provider.add_log_record_processor(self._log_records)
        self.meter_provider = MeterProvider(
            [self._reader], resource=resource, shutdown_on_exit=False
        )

    @property
    def providers(self) -> dict[str, Any]:
        """The providers as keyword arguments of ``instrument`` and ``OTelRepoHandler``."""
        return {
            "tracer_provider": self.tracer_provider,
            "logger_provider": self.logger_provider,
            "meter_provider": self.meter_provider,
        }

    @property
    def spans(self) -> list[ReadableSpan]:
        """The spans that have ended, in the order in which they ended."""
        return list(self._spans.ended)

    @property
    def log_records(self) -> list[LogRecord]:
        """The log records, in their order."""
        return list(self._log_records.emitted)

    def span(self, task_name: str) -> ReadableSpan:
        """Return the one span of a run of ``task_name``.

        Raises:
            LookupError: If no span, or more than one, was captured.
        """
        found = [
            span
            for span in self._spans.ended
            if (span.attributes or {}).get("task_name") == task_name
        ]
        if len(found) != 1:
            names = [span.name for span in self._spans.ended]
            raise LookupError(f"{len(found)} spans of {task_name!r} were captured, among {names}")
        return found[0]

    def metric_points(self, name: str) -> list[Any]:
        """Return the data points of a metric of this name, of all scopes, as of now."""
        data = self._reader.get_metrics_data()
        if data is None:
            return []
        return [
            point
            for of_resource in data.resource_metrics
            for of_scope in of_resource.scope_metrics
            for metric in of_scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]

    def clear(self) -> None:
        """Forget the spans and the log records captured so far."""
        self._spans.ended.clear()
        self._log_records.emitted.clear()

    def shutdown(self) -> None:
        """End the providers."""
        self.tracer_provider.shutdown()
        self.logger_provider.shutdown()
        self.meter_provider.shutdown()


@contextmanager
def capture_telemetry(
    app: Any = None, *, sampler: Sampler | None = None
) -> Iterator[TelemetryCapture]:
    """Capture telemetry within a ``with`` block; you can read it during the block and after it.

    Args:
        app: A ``rocketry.Rocketry`` or a ``rocketry.Session`` to instrument for the block,
            however it ends. If it is instrumented, its repository, settings and hooks stay,
            and nothing is sent during the block. Without an application, give the capture's
            ``providers`` to ``instrument`` or to ``OTelRepoHandler``.
        sampler: Decides which spans are kept; by default all are.

    Yields:
        The capture.
    """
    capture = TelemetryCapture(sampler)
    before = None if app is None else arguments_of(app)
    try:
        if before is not None:
            uninstrument(app)
        if app is not None:
            instrument(app, **{**(before or {}), **capture.providers})
        yield capture
    finally:
        if app is not None:
            uninstrument(app)
        capture.shutdown()
        if before is not None:
            instrument(app, **before)


class CaptureRocketry(Protocol):
    """The type of the pytest fixture ``capture_rocketry``."""

    def __call__(self, app: Any = None, *, sampler: Sampler | None = None) -> TelemetryCapture:
        """Capture the telemetry of an application until the test ends.

        Args:
            app: See ``capture_telemetry``.
            sampler: Decides which spans are kept; by default all are.

        Returns:
            The capture.
        """
        ...


class ManualClock:
    """A clock that moves only when a test moves it, for ``Session(time_func=clock)``.

    Args:
        now: Where it starts, in seconds since the epoch.
    """

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        """Start at ``now``."""
        self._now = now
        self._lock = threading.Lock()

    def __call__(self) -> float:
        """Return the time, in seconds since the epoch."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move the clock on; a negative number sets it back.

        Args:
            seconds: By how much.
        """
        with self._lock:
            self._now += seconds


class _Spans(SpanProcessor):
    def __init__(self) -> None:
        self.ended: list[ReadableSpan] = []

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        del parent_context
        note_start(span)

    def on_end(self, span: ReadableSpan) -> None:
        self.ended.append(in_run_time(span))

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Do nothing: the telemetry is captured already."""
        del timeout_millis
        return True


class _LogRecords(LogRecordProcessor):
    def __init__(self) -> None:
        self.emitted: list[LogRecord] = []

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        set_run_time(log_record.log_record, log_record.instrumentation_scope)
        self.emitted.append(log_record.log_record)

    def shutdown(self) -> None:
        """Do nothing: the telemetry stays."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Do nothing: the telemetry is captured already."""
        del timeout_millis
        return True

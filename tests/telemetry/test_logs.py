from typing import Any

import pytest
from opentelemetry._logs import SeverityNumber
from opentelemetry.context import Context
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from rocketry_otel._model.signals import LogSignal
from rocketry_otel._telemetry import logs
from rocketry_otel._telemetry.logs import EventLogger, LineLogger
from rocketry_otel.testing import TelemetryCapture

SIGNAL = LogSignal(5, SeverityNumber.WARN, "WARN", "body", {"task_name": "etl"}, "rocketry.task.x")


def test_log_record_has_all_of_the_signal(telemetry: TelemetryCapture) -> None:
    """Every part is there, with the ids of the context's span."""
    span = NonRecordingSpan(SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(1)))
    EventLogger(telemetry.logger_provider).record(SIGNAL, set_span_in_context(span, Context()))
    (record,) = telemetry.log_records
    assert (record.timestamp, record.observed_timestamp) == (5, 5)
    assert (record.severity_number, record.severity_text) == (SeverityNumber.WARN, "WARN")
    assert (record.body, record.event_name) == ("body", "rocketry.task.x")
    assert dict(record.attributes) == {"task_name": "etl"}
    assert (record.trace_id, record.span_id, record.trace_flags) == (1, 2, 1)


def test_record_without_run_has_no_trace(telemetry: TelemetryCapture) -> None:
    """It does not take the current span as its parent."""
    logger = EventLogger(telemetry.logger_provider)
    with telemetry.tracer_provider.get_tracer("app").start_as_current_span("outer"):
        logger.record(SIGNAL, None)
    (record,) = telemetry.log_records
    assert (record.trace_id, record.span_id, record.trace_flags) == (0, 0, 0)


def test_line_has_the_scope_of_its_logger(monkeypatch: pytest.MonkeyPatch) -> None:
    """An application may make loggers without end: not all are remembered."""
    asked: list[str] = []

    class Provider(LoggerProvider):
        def get_logger(self, name: str, *args: Any, **kwargs: Any) -> Any:
            asked.append(name)
            return super().get_logger(name, *args, **kwargs)

    monkeypatch.setattr(logs, "_MOST_LOGGERS", 1)
    lines = LineLogger(Provider(shutdown_on_exit=False))
    for name in ("a", "b", "a", "b"):
        lines.record(name, SIGNAL, None)
    assert asked == ["a", "b", "b"]

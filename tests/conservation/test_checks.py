"""What the conservation tests would see of deliveries that are not as they should be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.arrivals import Arrivals
from tests.support.committed import Committed
from tests.support.otlp_receiver import Arrival

RUN = Committed("etl", "run", 1_700_000_000.25, "r1", "ab" * 16, "cd" * 8)
CRASH = replace(RUN, action="crash", created=1_700_000_001.5, run_id=None)
OPEN = replace(RUN, created=1_700_000_002.5, run_id="r2", trace_id="12" * 16, span_id="34" * 8)
COMMITTED = [RUN, CRASH, OPEN]


def attributes(**values: str | bool | None) -> list[KeyValue]:
    """Return attributes of a log record or a span."""
    return [
        KeyValue(
            key=key if key == "task_name" else f"rocketry.{key}",
            value=AnyValue(bool_value=value)
            if isinstance(value, bool)
            else AnyValue(string_value=value),
        )
        for key, value in values.items()
        if value is not None
    ]


def log_record(one: Committed) -> LogRecord:
    """Return the log record of a committed record."""
    return LogRecord(
        time_unix_nano=one.nanoseconds,
        trace_id=bytes.fromhex(one.trace_id),
        span_id=bytes.fromhex(one.span_id),
        attributes=attributes(task_name=one.task_name, action=one.action, run_id=one.run_id),
    )


def span() -> Span:
    """Return the span of the one run that has ended."""
    return Span(
        name="run etl",
        trace_id=bytes.fromhex(RUN.trace_id),
        span_id=bytes.fromhex(RUN.span_id),
        start_time_unix_nano=RUN.nanoseconds,
        end_time_unix_nano=CRASH.nanoseconds,
        attributes=attributes(task_name="etl", run_id="r1", action="crash", end_estimated=True),
    )


def delivered(spans: Sequence[Span], log_records: Sequence[LogRecord]) -> Arrivals:
    """Return the findings about a delivery."""
    traces, logs = ExportTraceServiceRequest(), ExportLogsServiceRequest()
    traces.resource_spans.add().scope_spans.add().spans.extend(spans)
    logs.resource_logs.add().scope_logs.add().log_records.extend(log_records)
    found = Arrivals()
    arrivals = [
        Arrival("http", "traces", traces, {}, taken=True),
        Arrival("http", "logs", logs, {}, taken=True),
        Arrival("http", "logs", logs, {}, taken=False),
    ]
    for _ in range(2):
        found.add(arrivals)
    return found


def test_correct_delivery_has_no_findings() -> None:
    """Items may arrive twice if they are equal."""
    for times in (1, 2):
        found = delivered([span()] * times, [log_record(one) for one in COMMITTED] * times)
        assert found.missing(COMMITTED) == []
        assert found.untrue(COMMITTED) == []
        assert found.sent_again == 4 * (times - 1)


def test_missing_items_are_found() -> None:
    """A log record is due for each committed record, a span for each ended run."""
    found = delivered([], [log_record(RUN)])
    assert found.missing(COMMITTED) == [("logs", CRASH), ("logs", OPEN), ("traces", CRASH)]


def _renamed(one: Span) -> None:
    one.name = "run other"


def _later(one: Span) -> None:
    one.end_time_unix_nano += 1


def _not_estimated(one: Span) -> None:
    del one.attributes[-1]


def _of_an_open_run(one: Span) -> None:
    one.trace_id, one.span_id = bytes.fromhex(OPEN.trace_id), bytes.fromhex(OPEN.span_id)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (_renamed, "name 'run other' in place of 'run etl'"),
        (_later, f"end {CRASH.nanoseconds + 1} in place of {CRASH.nanoseconds}"),
        (_not_estimated, "rocketry.end_estimated None in place of True"),
        (_of_an_open_run, "of a run that has not ended"),
    ],
)
def test_wrong_span_is_found(change: Callable[[Span], None], expected: str) -> None:
    """A span that differs from the committed record is reported."""
    wrong = span()
    change(wrong)
    (line,) = delivered([wrong], []).untrue(COMMITTED)
    assert expected in line


def test_differing_spans_are_found() -> None:
    """Two spans of one id that differ in a byte are reported, with the difference."""
    other = span()
    other.attributes.extend(attributes(more="x"))
    (line,) = delivered([span(), span(), other], []).untrue(COMMITTED)
    assert line.startswith(f"span ('{RUN.trace_id}', '{RUN.span_id}') is not equal each time")
    assert '+  key: "rocketry.more"' in line


def test_wrong_log_record_is_found() -> None:
    """A log record that was never committed, or has other ids, is reported."""
    stranger = log_record(replace(RUN, created=1.0))
    (line,) = delivered([], [stranger]).untrue(COMMITTED)
    assert line == "log record ('etl', 'run', 1000000000) is there, and was never committed"
    other = log_record(replace(RUN, span_id="99" * 8))
    (line,) = delivered([], [other]).untrue(COMMITTED)
    assert "has the ids" in line

"""Telemetry at a receiver, compared with the records of a repository."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tests.support.committed import NO_SPAN, Committed
from tests.support.otlp_receiver import (
    Arrival,
    ReceivedLogRecord,
    ReceivedSpan,
    attributes_of,
)

RecordKey = tuple[str, str, int]
SpanKey = tuple[str, str]


def record_key(record: Committed) -> RecordKey:
    """Return the key of the log record of a committed record."""
    return record.task_name, record.action, record.nanoseconds


def span_key(record: Committed) -> SpanKey:
    """Return the trace id and span id that a committed record bears."""
    return record.trace_id, record.span_id


@dataclass
class Arrivals:
    """Spans and log records by their keys, each as often as it was sent.

    Attributes:
        spans: By trace id and span id, in hexadecimal digits.
        log_records: By task name, action and time; those without an action are left out, for no
            repository keeps them.
    """

    spans: dict[SpanKey, list[ReceivedSpan]] = field(default_factory=lambda: defaultdict(list))
    log_records: dict[RecordKey, list[ReceivedLogRecord]] = field(
        default_factory=lambda: defaultdict(list)
    )
    _looked_at: dict[int, Arrival] = field(default_factory=dict)

    def add(self, arrivals: Iterable[Arrival]) -> None:
        """Take into account more requests, those taken in that were not looked at before."""
        for arrival in arrivals:
            if not arrival.taken or id(arrival) in self._looked_at:
                continue
            # The arrival is kept: its number is to stay its own.
            self._looked_at[id(arrival)] = arrival
            if arrival.signal == "traces":
                self._add_spans(arrival)
            elif arrival.signal == "logs":
                self._add_log_records(arrival)

    def _add_spans(self, arrival: Arrival) -> None:
        for of_resource in arrival.message.resource_spans:
            for of_scope in of_resource.scope_spans:
                for span in of_scope.spans:
                    key = span.trace_id.hex(), span.span_id.hex()
                    one = ReceivedSpan(of_resource.resource, of_scope.scope, span)
                    self.spans[key].append(one)

    def _add_log_records(self, arrival: Arrival) -> None:
        for of_resource in arrival.message.resource_logs:
            for of_scope in of_resource.scope_logs:
                for record in of_scope.log_records:
                    attributes = attributes_of(record.attributes)
                    action = attributes.get("rocketry.action")
                    if action is not None:
                        key = attributes["task_name"], action, record.time_unix_nano
                        one = ReceivedLogRecord(of_resource.resource, of_scope.scope, record)
                        self.log_records[key].append(one)

    @property
    def sent_again(self) -> int:
        """How many items came more than once."""
        lists = (*self.spans.values(), *self.log_records.values())
        return sum(len(copies) - 1 for copies in lists)

    def missing(self, committed: Sequence[Committed]) -> list[tuple[str, Committed]]:
        """Return committed records that have not arrived, each with the missing signal."""
        logs = [("logs", one) for one in committed if record_key(one) not in self.log_records]
        spans = [
            ("traces", one)
            for one in committed
            if one.action != "run" and one.span_id != NO_SPAN and span_key(one) not in self.spans
        ]
        return logs + spans

    def untrue(self, committed: Sequence[Committed]) -> list[str]:
        """Return the errors in the telemetry so far, one line each."""
        return [
            *self._unequal(),
            *self._unknown(committed),
            *self._wrong_records(committed),
            *self._wrong_spans(committed),
        ]

    def _unequal(self) -> Iterable[str]:
        for kind, by_key in (("span", self.spans), ("log record", self.log_records)):
            for key, copies in by_key.items():
                if len({_bytes(one) for one in copies}) > 1:
                    shown = [_readable(one) for one in copies]
                    first, other = (
                        next((shown[0], one) for one in [*shown[1:], shown[0]] if one != shown[0])
                        if len(set(shown)) > 1
                        else (shown[0], "the same to read, not to the byte")
                    )
                    yield f"{kind} {key} is not equal each time:\n{_difference(first, other)}"

    def _unknown(self, committed: Sequence[Committed]) -> Iterable[str]:
        ended = {span_key(one) for one in committed if one.action != "run"}
        begun = {span_key(one): one for one in committed}
        for key in self.spans.keys() - ended:
            yield f"span {key} is there, of a run that has not ended: {begun.get(key)}"
        for key in self.log_records.keys() - {record_key(one) for one in committed}:
            yield f"log record {key} is there, and was never committed"

    def _wrong_records(self, committed: Sequence[Committed]) -> Iterable[str]:
        for one in committed:
            for received in self.log_records.get(record_key(one), ()):
                record = received.log_record
                ids = record.trace_id.hex(), record.span_id.hex()
                run_id = attributes_of(record.attributes).get("rocketry.run_id")
                # A record that belongs to no run is sent without ids.
                expected = ("", "") if one.span_id == NO_SPAN else span_key(one)
                if ids != expected or run_id != one.run_id:
                    yield f"the log record of {one} has the ids {ids} and the run id {run_id}"
                    break

    def _wrong_spans(self, committed: Sequence[Committed]) -> Iterable[str]:
        runs: dict[SpanKey, list[Committed]] = defaultdict(list)
        for one in committed:
            runs[span_key(one)].append(one)
        for key, records in runs.items():
            began = next((one for one in records if one.action == "run"), None)
            ended = next((one for one in records if one.action != "run"), None)
            for received in self.spans.get(key, ()) if ended else ():
                assert ended is not None
                wrong = _differences(received, began, ended)
                if wrong:
                    yield f"the span {key} of {ended}, begun by {began}, has {wrong}"
                    break


def _differences(received: ReceivedSpan, began: Committed | None, ended: Committed) -> str:
    span, attributes = received.span, attributes_of(received.span.attributes)
    start = (began or ended).nanoseconds
    expected = {
        "name": f"run {ended.task_name}",
        "start": start,
        "end": max(start, ended.nanoseconds),
        "rocketry.action": ended.action,
        "rocketry.run_id": (began or ended).run_id,
        "rocketry.end_estimated": True if began and ended.action == "crash" else None,
    }
    found = {
        "name": span.name,
        "start": span.start_time_unix_nano,
        "end": span.end_time_unix_nano,
        **{name: attributes.get(name) for name in expected if name.startswith("rocketry.")},
    }
    return ", ".join(
        f"{name} {found[name]!r} in place of {value!r}"
        for name, value in expected.items()
        if found[name] != value
    )


def _bytes(one: ReceivedSpan | ReceivedLogRecord) -> bytes:
    return b"\0".join(part.SerializeToString(deterministic=True) for part in one)


def _readable(one: ReceivedSpan | ReceivedLogRecord) -> str:
    return "\n".join(str(part) for part in one)


def _difference(one: str, other: str) -> str:
    import difflib  # noqa: PLC0415  # only for a failure

    lines = difflib.unified_diff(one.splitlines(), other.splitlines(), n=2, lineterm="")
    return "\n".join([*lines][2:40])

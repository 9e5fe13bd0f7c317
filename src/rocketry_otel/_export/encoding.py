"""OTLP bytes of the span of a run and of the log record of an event.

In: a signal and the ids of its run. Out: a part of a request, in the wire format of protobuf, byte
for byte as the SDK's encoder makes it. The SDK would make five objects for each attribute.

The numbers are those of the fields in OTLP's ``trace.proto``, ``logs.proto`` and ``common.proto``.
A field with the default value of its type is left out, as protobuf does.
"""

from __future__ import annotations

from functools import cache, lru_cache
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from rocketry_otel._model.signals import EXCEPTION_EVENT, link_attributes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opentelemetry.sdk._logs import LogRecordLimits
    from opentelemetry.sdk.trace import SpanLimits
    from opentelemetry.trace import SpanKind

    from rocketry_otel._model.annotations import RunLink
    from rocketry_otel._model.ids import RunIds
    from rocketry_otel._model.plain_values import AttributeValue
    from rocketry_otel._model.signals import LogSignal, SpanSignal

    Pairs = Iterable[tuple[str, AttributeValue]]

_UNLIMITED = 2**31
# In characters, of a text that is kept to be sent again.
_SHORT = 64
_64_BITS = 2**64 - 1

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_fixed32 = Struct("<I").pack
_fixed64 = Struct("<Q").pack
_double = Struct("<d").pack

# The parent of a span, and the span of a link, are known to be here or elsewhere.
_IS_REMOTE_KNOWN, _IS_REMOTE = 0x100, 0x200
_STATUS_ERROR = 2


class Limits(NamedTuple):
    """The most attributes, events and links that the SDK keeps.

    The SDK cuts a signal that exceeds them: then it makes the item, and encodes it.
    """

    attributes: int
    events: int = 0
    links: int = 0
    event_attributes: int = 0
    link_attributes: int = 0

    def allow_span(self, signal: SpanSignal) -> bool:
        """Return whether the SDK keeps all of a span."""
        exception = signal.exception or ()
        return (
            len(signal.attributes) <= self.attributes
            and len(signal.events) + (signal.exception is not None) <= self.events
            and len(signal.links) <= self.links
            and len(exception) <= self.event_attributes
            and all(len(one.attributes) <= self.event_attributes for one in signal.events)
            and all(len(link_attributes(one)) <= self.link_attributes for one in signal.links)
        )

    def allow_log(self, signal: LogSignal) -> bool:
        """Return whether the SDK keeps all of a log record."""
        return len(signal.attributes) <= self.attributes


def limits_of_spans(limits: SpanLimits) -> Limits | None:
    """Return the limits of spans; ``None`` if texts are cut too, which the SDK does."""
    if limits.max_attribute_length is not None or limits.max_span_attribute_length is not None:
        return None
    return Limits(
        _number(limits.max_span_attributes),
        _number(limits.max_events),
        _number(limits.max_links),
        _number(limits.max_event_attributes),
        _number(limits.max_link_attributes),
    )


def limits_of_log_records(limits: LogRecordLimits) -> Limits | None:
    """Return the limits of log records; ``None`` if texts are cut too, which the SDK does."""
    # Older SDKs have only the limits of all signals.
    length = getattr(limits, "max_log_record_attribute_length", limits.max_attribute_length)
    if length is not None:
        return None
    return Limits(_number(getattr(limits, "max_log_record_attributes", limits.max_attributes)))


def _number(limit: int | None) -> int:
    return _UNLIMITED if limit is None else limit


def encode_span(signal: SpanSignal, ids: RunIds, kind: SpanKind) -> bytes:
    """Return the span of a run, which is the root of its trace, as a field of ``ScopeSpans``.

    Args:
        signal: The span; its attributes have been cleaned.
        ids: The ids of the run.
        kind: The kind of the span.

    Raises:
        Exception: A value is not of a plain type, or a link is to no span.
    """
    events = [_event(one.name, one.time, one.attributes) for one in signal.events]
    if signal.exception is not None:
        events.append(_event(EXCEPTION_EVENT, signal.exception_time, signal.exception.items()))
    return _message(
        2,
        (
            _ids(ids, 1, 2),
            text(5, signal.name),
            # OTLP has a kind more, the first one: unspecified.
            _tag(6, _VARINT) + _varint(kind.value + 1),
            _time(7, signal.start),
            _time(8, signal.end),
            *_attributes(9, signal.attributes.items()),
            *(_message(11, event) for event in events),
            *(_message(13, _link(one)) for one in signal.links),
            _message(15, _status(signal.error)),
            _tag(16, _FIXED32) + _fixed32(_IS_REMOTE_KNOWN),
        ),
    )


def encode_log(signal: LogSignal, ids: RunIds | None, flags: int) -> bytes:
    """Return the log record of an event as a field of ``ScopeLogs``.

    Args:
        signal: The log record; its attributes have been cleaned.
        ids: The ids of its run; ``None`` if it belongs to none.
        flags: The trace flags of the run; not used without a run.

    Raises:
        Exception: A value is not of a plain type.
    """
    return _message(
        2,
        (
            _time(1, signal.timestamp),
            _severity(signal.severity.value, signal.severity_text),
            field(5, _value(signal.body)),
            *_attributes(6, signal.attributes.items()),
            b"" if ids is None else _tag(8, _FIXED32) + _fixed32(flags) + _ids(ids, 9, 10),
            _time(11, signal.timestamp),
            text(12, signal.event_name or ""),
        ),
    )


@cache
def _severity(number: int, name: str) -> bytes:
    return _tag(2, _VARINT) + _varint(number) + text(3, name)


def _event(name: str, time: int, attributes: Pairs) -> tuple[bytes, ...]:
    return (_time(1, time), text(2, name), *_attributes(3, attributes))


def _link(link: RunLink) -> tuple[bytes, ...]:
    if not link.trace_id or not link.span_id:
        raise ValueError("a link to no span: the SDK decides whether it is kept")
    return (
        field(1, link.trace_id.to_bytes(16, "big")),
        field(2, link.span_id.to_bytes(8, "big")),
        *_attributes(4, link_attributes(link).items()),
        _tag(6, _FIXED32) + _fixed32(_IS_REMOTE_KNOWN | _IS_REMOTE),
    )


def _status(error: str | None) -> tuple[bytes, ...]:
    return () if error is None else (text(2, error), _tag(3, _VARINT) + _varint(_STATUS_ERROR))


def _ids(ids: RunIds, trace_field: int, span_field: int) -> bytes:
    trace_id, span_id = ids.trace_id.to_bytes(16, "big"), ids.span_id.to_bytes(8, "big")
    return field(trace_field, trace_id) + field(span_field, span_id)


def _attributes(number: int, attributes: Pairs) -> list[bytes]:
    return [field(number, _pair(key, value)) for key, value in attributes]


def _pair(key: str, value: AttributeValue) -> bytes:
    if type(value) is str and len(value) <= _SHORT:
        return _text_pair(key, value)
    return _key(key) + field(2, _value(value))


# A task has the same in each run, and the records of a run have the same run id.
@lru_cache(maxsize=1024)
def _text_pair(key: str, value: str) -> bytes:
    return _key(key) + field(2, field(1, value.encode()))


def _value(value: AttributeValue) -> bytes:
    """Return an ``AnyValue``, which has a field for each type."""
    if isinstance(value, str):
        return field(1, value.encode())
    if isinstance(value, bool):
        return _tag(2, _VARINT) + _varint(value)
    if isinstance(value, int):
        return _tag(3, _VARINT) + _varint(value & _64_BITS)
    if isinstance(value, float):
        return _tag(4, _FIXED64) + _double(value)
    if not isinstance(value, tuple):
        # A sampler may have added any value.
        raise TypeError(f"{type(value).__name__} is no plain value")
    return _message(5, [field(1, _value(one)) for one in value])


def text(number: int, text: str) -> bytes:
    return field(number, text.encode()) if text else b""


def _time(number: int, nanoseconds: int) -> bytes:
    return _tag(number, _FIXED64) + _fixed64(nanoseconds) if nanoseconds else b""


def _message(number: int, fields: Iterable[bytes]) -> bytes:
    return field(number, b"".join(fields))


def field(number: int, content: bytes) -> bytes:
    return _BYTES_TAGS[number] + _varint(len(content)) + content


@lru_cache(maxsize=1024)
def _key(key: str) -> bytes:
    return field(1, key.encode())


@cache
def _tag(number: int, wire_type: int) -> bytes:
    return _varint(number << 3 | wire_type)


def _varint(number: int) -> bytes:
    """Return a number of 64 bits in groups of seven, the lowest first."""
    if number < _MORE:
        return _ONE_BYTE[number]
    groups = bytearray()
    while number >= _MORE:
        groups.append(number % _MORE | _MORE)
        number >>= 7
    groups.append(number)
    return bytes(groups)


# The bit of a group that another one follows.
_MORE = 0x80
_ONE_BYTE = tuple(bytes((number,)) for number in range(_MORE))
# Of the fields up to the last one that is used.
_BYTES_TAGS = tuple(_varint(number << 3 | _BYTES) for number in range(16))

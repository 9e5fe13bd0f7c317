"""Jaeger's query API, version 3: over HTTP it answers in OTLP's JSON, over gRPC in OTLP.

Version 2.13 takes no tags over HTTP. Its search by tags is that of the same API over gRPC.
"""

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.json_format import ParseDict
from google.protobuf.timestamp_pb2 import Timestamp
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from tests.support.otlp_receiver import ReceivedSpan

# The part of Jaeger's query_service.proto that a search by tags needs.
_PROTO = """
name: "query_service.proto"
package: "jaeger.api_v3"
syntax: "proto3"
dependency: "google/protobuf/timestamp.proto"
message_type {
  name: "Query"
  field { name: "service_name" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
  field {
    name: "attributes" number: 3 label: LABEL_REPEATED
    type: TYPE_MESSAGE type_name: ".jaeger.api_v3.Query.AttributesEntry"
  }
  field {
    name: "start_time_min" number: 4 label: LABEL_OPTIONAL
    type: TYPE_MESSAGE type_name: ".google.protobuf.Timestamp"
  }
  field {
    name: "start_time_max" number: 5 label: LABEL_OPTIONAL
    type: TYPE_MESSAGE type_name: ".google.protobuf.Timestamp"
  }
  field { name: "search_depth" number: 8 label: LABEL_OPTIONAL type: TYPE_INT32 }
  nested_type {
    name: "AttributesEntry"
    field { name: "key" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
    field { name: "value" number: 2 label: LABEL_OPTIONAL type: TYPE_STRING }
    options { map_entry: true }
  }
}
message_type {
  name: "FindTracesRequest"
  field {
    name: "query" number: 1 label: LABEL_OPTIONAL
    type: TYPE_MESSAGE type_name: ".jaeger.api_v3.Query"
  }
}
"""
_IDS = ("traceId", "spanId", "parentSpanId")


def spans_of(answers: Iterable[TracesData]) -> list[ReceivedSpan]:
    """Return the spans of answers, each with its resource and scope."""
    return [
        ReceivedSpan(resource_spans.resource, scope_spans.scope, span)
        for answer in answers
        for resource_spans in answer.resource_spans
        for scope_spans in resource_spans.scope_spans
        for span in scope_spans.spans
    ]


def from_json(answer: Mapping[str, Any]) -> list[ReceivedSpan]:
    """Return the spans of an answer over HTTP."""
    return spans_of([ParseDict(_with_bytes(answer["result"]), TracesData())])


def find_by_tags(
    address: str,
    service: str,
    tags: Mapping[str, str],
    times: tuple[dt.datetime, dt.datetime],
    limit: int,
) -> list[ReceivedSpan]:
    """Return the spans of all traces with a span that has these tags.

    Args:
        address: Of the API over gRPC.
        service: The service.
        tags: The tags, and the text of their values.
        times: The first and the last time at which a trace may begin.
        limit: How many traces are searched.
    """
    file = descriptor_pb2.FileDescriptorProto()
    text_format.Parse(_PROTO, file)
    pool = descriptor_pool.DescriptorPool()
    timestamp = descriptor_pb2.FileDescriptorProto()
    Timestamp.DESCRIPTOR.file.CopyToProto(timestamp)
    pool.Add(timestamp)
    pool.Add(file)
    kind = pool.FindMessageTypeByName("jaeger.api_v3.FindTracesRequest")
    request = message_factory.GetMessageClass(kind)()
    query = request.query
    query.service_name = service
    query.attributes.update(tags)
    query.start_time_min.FromDatetime(times[0])
    query.start_time_max.FromDatetime(times[1])
    query.search_depth = limit
    with grpc.insecure_channel(address) as channel:
        find = channel.unary_stream(
            "/jaeger.api_v3.QueryService/FindTraces",
            request_serializer=_to_bytes,
            response_deserializer=TracesData.FromString,
        )
        return spans_of(find(request, timeout=30))


def _to_bytes(message: Any) -> bytes:
    return message.SerializeToString()


def _with_bytes(value: Any, key: str = "") -> Any:
    """OTLP's JSON has ids in hex, where that of Protocol Buffers has base64."""
    if isinstance(value, dict):
        return {name: _with_bytes(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [_with_bytes(item) for item in value]
    return base64.b64encode(bytes.fromhex(value)).decode() if key in _IDS else value

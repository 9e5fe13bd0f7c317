"""What an application does is in Jaeger and in the logs, with the names of the contract."""

from __future__ import annotations

import re
import socket
import sys
from collections import Counter
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.support.otlp_receiver import ReceivedSpan, attributes_of
from tests.support.processes import run_command

from .conftest import NUMBERS_APP, arrive
from .dashboard import targets
from .servers import eventually

STATUS = {
    "success": Status.STATUS_CODE_UNSET,
    "inaction": Status.STATUS_CODE_UNSET,
    "fail": Status.STATUS_CODE_ERROR,
    "terminate": Status.STATUS_CODE_ERROR,
}
ENDS = {
    "clock": "success",
    "extract": "success",
    "fail": "fail",
    "hang": "terminate",
    "idle": "inaction",
    "load": "success",
}
EXECUTION = {
    "clock": "main",
    "extract": "thread",
    "fail": "async",
    "hang": "process",
    "idle": "thread",
    "load": "main",
}


def tags_of(span: Span) -> dict[str, Any]:
    """Return the tags, with values of the types that they have on the wire."""
    return attributes_of(span.attributes)


def root_of(trace: list[ReceivedSpan]) -> Span:
    """Return the span of the run."""
    (root,) = (it.span for it in trace if not it.span.parent_span_id)
    return root


def test_each_run_is_one_trace(stack, shop):
    """There are as many traces as runs in the repository, with the same ids, and each ended so."""
    assert shop.flushed
    assert shop.stderr == ""
    found = Counter()
    for trace in stack.jaeger.traces("shop").values():
        root = root_of(trace)
        found[root.name, tags_of(root)["rocketry.action"]] += 1
    stored = Counter(
        (f"run {record['task_name']}", record["action"])
        for record in shop.records
        if record["action"] != "run"
    )
    assert found == stored
    assert set(found) == {(f"run {task}", action) for task, action in ENDS.items()}


@pytest.mark.parametrize("task_name", ENDS)
def test_stored_trace_id_finds_the_run(stack, shop, task_name):
    """Jaeger's search box takes the id of the record, and shows the same run."""
    for record in shop.endings(task_name):
        trace = stack.jaeger.trace(record["trace_id"])
        root = root_of(trace)
        (began,) = [
            it for it in shop.records if it["run_id"] == record["run_id"] and it["action"] == "run"
        ]
        assert root.span_id.hex() == record["span_id"]
        assert root.name == f"run {task_name}"
        assert root.start_time_unix_nano // 1000 == int(round(began["created"] * 1e9) // 1000)
        microseconds = (record["created"] - began["created"]) * 1e6
        duration = root.end_time_unix_nano - root.start_time_unix_nano
        assert duration / 1000 == pytest.approx(microseconds, abs=2)
        tags = tags_of(root)
        assert tags["task_name"] == task_name
        assert tags["rocketry.run_id"] == record["run_id"]
        assert tags["rocketry.action"] == ENDS[task_name]
        assert tags["rocketry.execution"] == EXECUTION[task_name]
        assert root.kind == Span.SPAN_KIND_INTERNAL
        assert root.status.code == STATUS[ENDS[task_name]]
        for it in trace:
            assert attributes_of(it.resource.attributes)["service.name"] == "shop"


def test_failure_shows_its_exception(stack, shop):
    """Its span has the event, with type, message and traceback; its tag the type."""
    for record in shop.endings("fail"):
        root = root_of(stack.jaeger.trace(record["trace_id"]))
        (event,) = root.events
        assert event.name == "exception"
        fields = attributes_of(event.attributes)
        assert fields.pop("exception.stacktrace").rstrip().endswith("ValueError: boom")
        assert fields == {"exception.type": "ValueError", "exception.message": "boom"}
        assert tags_of(root)["error.type"] == "ValueError"


def test_exceptions_of_many_runs_are_inside_their_spans(stack, run_app):
    """As Jaeger's page shows them: it cuts times and durations to microseconds, each on its own."""
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": stack.collector.http_endpoint, "RUNS": "300"}
    ran = run_app("failures", env, app=NUMBERS_APP, args=["1"])
    assert len(ran.trace_ids) == 300
    arrive(stack.jaeger, ran)
    traces = stack.jaeger.traces("failures")
    assert set(traces) == ran.trace_ids
    for trace in traces.values():
        root = root_of(trace)
        (event,) = root.events
        begin = root.start_time_unix_nano // 1000
        duration = (root.end_time_unix_nano - root.start_time_unix_nano) // 1000
        assert begin <= event.time_unix_nano // 1000 <= begin + duration


def test_who_ran_it_is_shown(stack, run_app):
    """Host, process and version of the application are tags of the run."""
    env = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": stack.collector.http_endpoint,
        "OTEL_RESOURCE_ATTRIBUTES": "service.version=1.2.3",
    }
    ran = run_app("versioned", env, app=NUMBERS_APP, args=["1"])
    arrive(stack.jaeger, ran)
    (began,) = (record for record in ran.records if record["action"] == "run")
    tags = tags_of(root_of(stack.jaeger.trace(began["trace_id"])))
    assert tags["host.name"] == socket.gethostname()
    assert tags["process.pid"] == began["process"]
    assert tags["service.version"] == "1.2.3"


def test_timeout_is_shown(stack, shop):
    """It is an error of that type, with no exception."""
    assert shop.endings("hang")
    for record in shop.endings("hang"):
        root = root_of(stack.jaeger.trace(record["trace_id"]))
        assert tags_of(root)["error.type"] == "timeout"
        assert not root.events


def test_spans_of_the_body_are_children_of_the_run(stack, shop):
    """What the body did is in the run's trace, nested as it was; what it set is on the run."""
    for record in shop.endings("extract"):
        trace = stack.jaeger.trace(record["trace_id"])
        spans = {it.span.name: it.span for it in trace}
        assert len(trace) == len(spans)
        assert {name: span.parent_span_id for name, span in spans.items()} == {
            "run extract": b"",
            "download": spans["run extract"].span_id,
            "unpack": spans["download"].span_id,
        }
        assert tags_of(spans["download"])["rows"] == 3
        assert tags_of(spans["run extract"])["rows"] == 3


def test_run_links_to_the_run_that_it_waited_for(stack, shop):
    """Each run of load refers to a run of extract, each to another."""
    extracts = {(it["trace_id"], it["span_id"]) for it in shop.endings("extract")}
    linked = []
    for record in shop.endings("load"):
        (link,) = root_of(stack.jaeger.trace(record["trace_id"])).links
        linked.append((link.trace_id.hex(), link.span_id.hex()))
    assert set(linked) <= extracts
    assert len(set(linked)) == len(linked) > 0


def test_log_records_arrive_with_the_ids_of_the_runs(stack, shop):
    """Every stored record is one log record behind the collector, and there is no other."""
    stored = Counter(
        (f"rocketry.task.{record['action']}", record["trace_id"], record["span_id"])
        for record in shop.records
    )

    def arrived() -> Counter:
        return Counter(
            (it.log_record.event_name, it.log_record.trace_id.hex(), it.log_record.span_id.hex())
            for it in stack.loki.log_records
            if attributes_of(it.resource.attributes)["service.name"] == "shop"
        )

    assert stack.loki.wait_for(lambda _: arrived().total() >= stored.total(), 30)
    assert arrived() == stored


def test_loki_is_sent_what_the_dashboard_asks_it_for(stack, shop):
    """The attributes have the names that are its labels once dots have become underscores."""
    queries = " ".join(target["expr"] for target in targets("loki"))
    fields = set(re.findall(r"[|{] *(\w+)=", queries))
    names = {"service_name", "trace_id"}
    for it in stack.loki.log_records:
        attributes = attributes_of(it.log_record.attributes)
        names |= {name.replace(".", "_") for name in attributes}
    assert fields == {"service_name", "task_name", "rocketry_action", "trace_id"}
    shown = set(re.findall(r"\{\.(\w+)\}", queries))
    assert shown == {"exception_type", "exception_message"}
    assert fields | shown <= names


def test_jaegers_monitor_page_has_numbers(stack, shop):
    """Its API answers from what the collector counted: calls, errors and durations per run."""
    # The page asks these paths: version 3 of the API has no numbers.
    for metric in ("calls", "errors", "latencies"):
        query = {"service": "shop", "groupByOperation": "true", "spanKind": "internal"}
        query |= {"quantile": "0.95"} if metric == "latencies" else {}
        query |= {"lookback": "600000", "step": "1000", "ratePer": "2000"}

        def series(metric=metric, query=query):
            answer = stack.jaeger.get_json(f"/api/metrics/{metric}", **query)
            return {
                label["value"]
                for it in answer["metrics"]
                for label in it["labels"]
                if label["name"] == "operation"
            }

        assert {"run fail"} <= eventually(series, 30, f"Any of {metric}")


def test_demo_sends_what_its_table_shows(stack, tmp_path):
    """`rocketry-otel demo` beside the stack: each id in its table is a trace in Jaeger."""
    env = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": stack.collector.http_endpoint,
        "OTEL_SERVICE_NAME": "demo",
        "COLUMNS": "120",
    }
    command = [sys.executable, "-m", "rocketry_otel", "demo", "--seconds", "3"]
    done = run_command([*command, "--repo", f"sqlite:///{tmp_path}/tasks.db"], env)
    assert done.returncode == 0, done.stderr
    shown = dict(re.findall(r"^\S+ +(\S+) .* ([0-9a-f]{32})$", done.stdout, re.MULTILINE))
    assert set(shown) >= {"extract", "transform", "load", "send-invoices", "import-feed"}
    for task_name, trace_id in shown.items():
        trace = eventually(lambda trace_id=trace_id: stack.jaeger.trace(trace_id), 30)
        assert root_of(trace).name == f"run {task_name}"

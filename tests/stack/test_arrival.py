"""What an application does is in Jaeger and in the logs, with the names of the contract."""

from __future__ import annotations

import re
import socket
import sys
from collections import Counter

import pytest

from tests.support.otlp_receiver import attributes_of
from tests.support.processes import run_command

from .conftest import NUMBERS_APP, arrive
from .dashboard import targets
from .servers import eventually

STATUS = {
    "success": {},
    "inaction": {},
    "fail": {"error": True, "otel.status_code": "ERROR"},
    "terminate": {"error": True, "otel.status_code": "ERROR"},
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


def tags_of(span) -> dict:
    """Return the tags, after a check of their types."""
    types = {"string": str, "bool": bool, "int64": int, "float64": float}
    for tag in span["tags"]:
        assert type(tag["value"]) is types[tag["type"]], tag
    return {tag["key"]: tag["value"] for tag in span["tags"]}


def root_of(trace):
    """Return the span of the run."""
    (root,) = [
        span
        for span in trace["spans"]
        if not any(reference["refType"] == "CHILD_OF" for reference in span["references"])
    ]
    return root


def test_each_run_is_one_trace(stack, shop):
    """There are as many traces as runs in the repository, with the same ids, and each ended so."""
    assert shop.flushed
    assert shop.stderr == ""
    found = Counter()
    for trace in stack.jaeger.traces("shop"):
        root = root_of(trace)
        tags = tags_of(root)
        found[root["operationName"], tags["rocketry.action"]] += 1
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
        assert root["spanID"] == record["span_id"]
        assert root["operationName"] == f"run {task_name}"
        assert root["startTime"] == int(round(began["created"] * 1e9) // 1000)
        microseconds = (record["created"] - began["created"]) * 1e6
        assert root["duration"] == pytest.approx(microseconds, abs=2)
        tags = tags_of(root)
        assert tags["task_name"] == task_name
        assert tags["rocketry.run_id"] == record["run_id"]
        assert tags["rocketry.action"] == ENDS[task_name]
        assert tags["rocketry.execution"] == EXECUTION[task_name]
        assert tags["span.kind"] == "internal"
        assert {key: tags[key] for key in ("error", "otel.status_code") if key in tags} == STATUS[
            ENDS[task_name]
        ]
        process = trace["processes"][root["processID"]]
        assert process["serviceName"] == "shop"


def test_failure_shows_its_exception(stack, shop):
    """Its span has the event, with type, message and traceback; its tag the type."""
    for record in shop.endings("fail"):
        root = root_of(stack.jaeger.trace(record["trace_id"]))
        (event,) = root["logs"]
        fields = {field["key"]: field["value"] for field in event["fields"]}
        assert fields.pop("exception.stacktrace").rstrip().endswith("ValueError: boom")
        assert fields == {
            "event": "exception",
            "exception.type": "ValueError",
            "exception.message": "boom",
        }
        assert tags_of(root)["error.type"] == "ValueError"


def test_exceptions_of_many_runs_are_inside_their_spans(stack, run_app):
    """As Jaeger shows them, with times in microseconds: its page hides an event behind the end."""
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": stack.collector.http_endpoint, "RUNS": "300"}
    ran = run_app("failures", env, app=NUMBERS_APP, args=["1"])
    assert len(ran.trace_ids) == 300
    arrive(stack.jaeger, ran)
    for trace in stack.jaeger.traces("failures"):
        root = root_of(trace)
        (event,) = root["logs"]
        assert root["startTime"] <= event["timestamp"] <= root["startTime"] + root["duration"]


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
        assert root["logs"] == []


def test_spans_of_the_body_are_children_of_the_run(stack, shop):
    """What the body did is in the run's trace, nested as it was; what it set is on the run."""
    for record in shop.endings("extract"):
        trace = stack.jaeger.trace(record["trace_id"])
        spans = {span["operationName"]: span for span in trace["spans"]}
        assert set(spans) == {"run extract", "download", "unpack"}
        parents = {
            name: [reference["spanID"] for reference in span["references"]]
            for name, span in spans.items()
        }
        assert parents == {
            "run extract": [],
            "download": [spans["run extract"]["spanID"]],
            "unpack": [spans["download"]["spanID"]],
        }
        assert tags_of(spans["download"])["rows"] == 3
        assert tags_of(spans["run extract"])["rows"] == 3


def test_run_links_to_the_run_that_it_waited_for(stack, shop):
    """Each run of load refers to a run of extract, each to another."""
    extracts = {(it["trace_id"], it["span_id"]) for it in shop.endings("extract")}
    linked = []
    for record in shop.endings("load"):
        (reference,) = root_of(stack.jaeger.trace(record["trace_id"]))["references"]
        assert reference["refType"] == "FOLLOWS_FROM"
        linked.append((reference["traceID"], reference["spanID"]))
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
        assert root_of(trace)["operationName"] == f"run {task_name}"

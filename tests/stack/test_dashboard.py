"""Prometheus answers what the dashboard and the rules ask, and each panel has something to show."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import yaml

from .dashboard import DASHBOARD, filled_in, panel_of, panels, targets
from .programs import PROMETHEUS
from .servers import ROOT, eventually

RULES = ROOT / "stack" / "prometheus-rules.yaml"
TELEMETRY = (ROOT / "docs" / "telemetry.md").read_text(encoding="utf-8")
SUFFIX = {"`s`": "_seconds", "`1`": "_ratio"}


def rules() -> list[dict]:
    """Return all rules that are shipped."""
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def documented_metrics() -> list[set[str]]:
    """Return for each documented metric the names that its series have in Prometheus."""
    row = r"^\| `(rocketry(?:\.\w+){2,})` \| ([\w-]+)[^|]*\| (`[^`]*`)"
    found = []
    for name, instrument, unit in re.findall(row, TELEMETRY, re.MULTILINE):
        base = name.replace(".", "_") + SUFFIX.get(unit, "")
        parts = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}
        found.append({base + part for part in parts.get(instrument, [""])})
    return found


def metrics_of(query: str) -> set[str]:
    """Return our metrics in an expression, without those that rules record."""
    labels = {"rocketry_action", "rocketry_missed_reason", "rocketry_wait_reason"}
    return set(re.findall(r"\brocketry_[a-z_]+\b", query)) - labels


QUERIES = [(it["title"], it["expr"]) for it in targets("prometheus")]
EXPRESSIONS = [rule["expr"] for rule in rules()]
# What rules make is in test_alerts.py, where their time is faster.
LIVE = [(title, query) for title, query in QUERIES if not re.search(r"ALERTS|:mean7d", query)]


def test_all_documented_metrics_are_asked_for_and_no_others():
    """A panel or an alert on a metric that nobody sends would be silent for ever."""
    asked = set().union(*(metrics_of(query) for _, query in QUERIES), *map(metrics_of, EXPRESSIONS))
    documented = documented_metrics()
    assert asked <= set().union(*documented)
    assert [series for series in documented if asked.isdisjoint(series)] == []


def test_each_recorded_series_is_used_and_each_that_is_used_is_recorded():
    """Between the rules and the dashboard no name is misspelt."""
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    text = " ".join([*EXPRESSIONS, *(query for _, query in QUERIES)])
    assert set(re.findall(r"\brocketry:\w+:\w+", text)) == recorded


@contextmanager
def working(run_app, stack, service: str) -> Iterator[None]:
    """Keep an application running."""
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": stack.collector.http_endpoint}
    env |= {"PROGRESS": "1", "LATE": "1"}
    with ThreadPoolExecutor() as pool:
        ran = pool.submit(run_app, service, env, 15)
        yield
        assert ran.result().flushed


@pytest.fixture(scope="module")
def panels_with_data(stack, run_app):
    """While an application works: which queries of the dashboard have had a result."""
    seen = {}

    def all_have_data() -> bool:
        for title, query in LIVE:
            if query not in seen:
                result = stack.prometheus.query(filled_in(query, "panels"))
                if [it for it in result if it["value"][1] != "NaN"]:
                    seen[query] = title
        return set(seen) == {query for _, query in LIVE}

    with working(run_app, stack, "panels"):
        eventually(all_have_data, 60, "Data in every panel")
    return seen


@pytest.mark.parametrize(("title", "query"), LIVE)
def test_every_panel_has_data(panels_with_data, title, query):
    """With an application that works."""
    assert panels_with_data.get(query) == title


def test_exemplars_lead_to_traces(stack, panels_with_data):
    """A point of the histogram bears the ids of a run's span, and Jaeger has that trace."""
    found = stack.prometheus.get(
        "/api/v1/query_exemplars",
        query='rocketry_task_duration_seconds_bucket{job="panels"}',
        start=str(time.time() - 120),
        end=str(time.time()),
    )
    labels = [exemplar["labels"] for series in found for exemplar in series["exemplars"]]
    assert labels
    for one in labels[:10]:
        assert set(one) == {"trace_id", "span_id"}
        trace = eventually(lambda one=one: stack.jaeger.trace(one["trace_id"]))
        assert one["span_id"] in {it.span.span_id.hex() for it in trace}


def test_variables_of_the_dashboard_have_values(stack, panels_with_data):
    """The lists of services and of tasks come from metrics that are there."""
    service, task, trace = DASHBOARD["templating"]["list"]
    assert service["definition"] == "label_values(rocketry_task_active, job)"
    found = {it["metric"]["job"] for it in stack.prometheus.query("rocketry_task_active")}
    assert "panels" in found
    selector = re.fullmatch(r"label_values\((.*), task_name\)", task["definition"])[1]
    series = stack.prometheus.query(filled_in(selector, "panels"))
    tasks = {it["metric"]["task_name"] for it in series}
    assert tasks == {"blocker", "clock", "extract", "fail", "hang", "idle", "load", "ticker"}
    assert task["allValue"] == ".*"
    assert trace["type"] == "textbox"


def test_service_is_the_last_part_of_the_job():
    """With a service.namespace the job has two parts, and Loki and Jaeger know the second alone."""
    pattern = DASHBOARD["templating"]["list"][0]["regex"].strip("/").replace("\\/", "/")
    assert re.search(pattern, "shop")[1] == "shop"
    assert re.search(pattern, "europe/shop")[1] == "shop"
    for panel in panels():
        for target in panel["targets"]:
            for matcher in re.findall(r'job=~"([^"]*)"', target.get("expr", "")):
                others = "|collector|applications" if "ALERTS" in target["expr"] else ""
                assert matcher == f"(.*/)?$service{others}"


def test_jaegers_panels_find_what_they_show(stack, shop):
    """The failed runs of a service by Jaeger's search, and one run by its id."""
    (failed, one) = targets("jaeger")
    assert (failed["queryType"], failed["service"], failed["tags"]) == (
        "search",
        "$service",
        "error=true",
    )
    found = stack.jaeger.traces_with_tags("shop", {"error": "true"})
    ids = {record["trace_id"] for task in ("fail", "hang") for record in shop.endings(task)}
    assert set(found) == ids < shop.trace_ids
    assert one["query"] == "$trace"


def test_five_hundred_tasks(tmp_path):
    """Lines are drawn of ten tasks, and the table has all: it can be sorted, filtered and paged."""
    series = {}
    for number in range(500):
        labels = f'job="big",instance="i",task_name="task-{number}"'
        ended = f'{labels},rocketry_action="fail"'
        series[f"rocketry_task_active{{{labels}}}"] = "1x100"
        series[f"rocketry_task_oldest_active_seconds{{{labels}}}"] = f"{number}x100"
        series[f"rocketry_task_progress_ratio{{{labels}}}"] = "0.5x100"
        series[f"rocketry_task_last_success_seconds{{{labels}}}"] = f"{number}x100"
        series[f"rocketry:task_interval:mean7d{{{labels}}}"] = "60x100"
        series[f"rocketry_task_duration_seconds_count{{{ended}}}"] = f"0+{number + 1}x100"
        series[f"rocketry_task_next_run_seconds{{{labels}}}"] = f"{number + 100}x100"
        growing = f"0+{number + 1}x100"
        reason = f'{labels},rocketry_missed_reason="blocked"'
        series[f"rocketry_task_missed_total{{{reason}}}"] = growing
        reason = f'{labels},rocketry_wait_reason="blocked"'
        series[f"rocketry_task_waiting_seconds_total{{{reason}}}"] = growing
        series[f"rocketry_scheduler_blocked_seconds_sum{{{labels}}}"] = growing
        for bound in ("1", "10", "+Inf"):
            for histogram, its in (("duration", ended), ("schedule_delay", labels)):
                bucket = f'rocketry_task_{histogram}_seconds_bucket{{{its},le="{bound}"}}'
                series[bucket] = growing
    asked = [
        (filled_in(target["expr"], "big"), 500 if panel["type"] == "table" else 10)
        for panel in panels()
        for target in panel["targets"]
        if re.search(r"by \([^)]*task_name", target.get("expr", "")) and panel["type"] != "stat"
    ]
    assert len(asked) == 18
    # A minute of each: one failure a second of the first task, two of the second.
    asked = [(f"count({query})", count) for query, count in asked]
    for title in ("Runs", "Failed runs"):
        (target,) = panel_of(title)["targets"]
        asked.append((filled_in(target["expr"], "big"), 60 * sum(range(1, 501))))
    played = {
        "interval": "1s",
        "input_series": [{"series": name, "values": of} for name, of in series.items()],
        "promql_expr_test": [
            {
                "expr": query,
                "eval_time": "90s",
                "exp_samples": [{"labels": "{}", "value": count}],
            }
            for query, count in asked
        ],
    }
    file = tmp_path / "tests.yaml"
    file.write_text(yaml.safe_dump({"evaluation_interval": "1s", "tests": [played]}), "utf-8")
    promtool = PROMETHEUS.directory / "promtool"
    done = subprocess.run(
        [promtool, "test", "rules", file], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_run_is_in_one_bar():
    """A bar shows what its own interval brought, at least a minute, and there are at most 200.

    With 500 tasks and more bars, a query would load more samples than Prometheus allows.
    """
    counted = [
        panel
        for panel in panels()
        if any("[$__interval]" in target.get("expr", "") for target in panel["targets"])
    ]
    assert len(counted) == 11
    for panel in counted:
        assert (panel["interval"], panel["maxDataPoints"]) == ("1m", 200), panel["title"]
        assert not any("$__rate_interval" in target["expr"] for target in panel["targets"])

"""The numbers of the panels are those of the repository: every run is counted, and once."""

from __future__ import annotations

import json
import re
import sqlite3
import sys
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest

from tests.support.processes import run_command

from .conftest import LATE_APP, NUMBERS_APP, Stack
from .dashboard import filled_in, panel_of
from .servers import Collector, Prometheus, eventually

FAILURES = ("fail", "terminate", "crash")
# All of a test's runs are within it.
SHOWN = "10m"
MOST_IN_A_GRAPH = 10


class Numbers:
    """What the dashboard shows of a service."""

    def __init__(self, prometheus: Any, service: str) -> None:
        self._prometheus = prometheus
        self._service = service

    def of(self, title: str, ref: str = "A") -> list[dict[str, Any]]:
        """Return the result of a panel's query."""
        return self._prometheus.query(self._expression(title, ref, shown=SHOWN))

    def _expression(self, title: str, ref: str, **values: str) -> str:
        (target,) = (it for it in panel_of(title)["targets"] if it["refId"] == ref)
        return filled_in(target["expr"], self._service, **values)

    def number(self, title: str) -> float | None:
        """Return the number that a panel shows."""
        result = self.of(title)
        return float(result[0]["value"][1]) if result else None

    def column(self, ref: str) -> dict[str, float]:
        """Return a column of the table of all tasks."""
        return {
            it["metric"]["task_name"]: float(it["value"][1]) for it in self.of("Every task", ref)
        }

    def bars(self, title: str, label: str) -> Counter[str]:
        """Return the sum of all bars of a graph."""
        sums: Counter[str] = Counter()
        for name, values in self.points(title, label):
            sums[name] += sum(values)
        return +sums

    def values(self, title: str, label: str) -> dict[str, float]:
        """Return the newest values of a graph, by a label."""
        return {it["metric"][label]: float(it["value"][1]) for it in self.of(title)}

    def points(self, title: str, label: str) -> list[tuple[str, list[float]]]:
        """Return the points of a graph in the last five minutes, by a label."""
        end = time.time()
        found = self._prometheus.get(
            "/api/v1/query_range",
            query=self._expression(title, "A"),
            start=str(end - 300),
            end=str(end),
            step="10",
        )
        return [
            (it["metric"][label], [float(value) for _, value in it["values"]])
            for it in found["result"]
        ]


def compare(prometheus: Prometheus, service: str, actions: Iterable[tuple[str, str]]) -> Numbers:
    """Wait until each panel has the number of the repository.

    Args:
        prometheus: The server that the panels ask.
        service: The service.
        actions: The task and the action of each record in its repository.
    """
    ended = [(task, action) for task, action in actions if action != "run"]
    failed = [task for task, action in ended if action in FAILURES]
    numbers = Numbers(prometheus, service)
    expected = {
        "Tasks": len({task for task, _ in ended}),
        "Runs": len(ended),
        "Failed runs": len(failed),
    }
    columns = {"C": Counter(task for task, _ in ended), "D": Counter(failed)}

    def shown() -> tuple[dict[str, Any], dict[str, Counter[str]]]:
        return (
            {title: numbers.number(title) for title in expected},
            {ref: +Counter(numbers.column(ref)) for ref in columns},
        )

    def story() -> str:
        series = f'{{job="{service}"}}[5m]'
        names = ("rocketry_task_duration_seconds_count", "rocketry:task_runs:before_restart")
        samples = [prometheus.query(name + series) for name in names]
        return f"{shown()}, not {expected} and {columns} of {service}: {samples}; that"

    eventually(lambda: shown() == (expected, columns), 60, story)
    # The newest samples may be later than the last bar's end.
    eventually(
        lambda: (
            numbers.bars("Runs by outcome", "rocketry_action") == Counter(it for _, it in ended)
        ),
        60,
        f"Bars of {service}",
    )
    if len(set(failed)) <= MOST_IN_A_GRAPH:
        assert numbers.bars("Failures by task", "task_name") == Counter(failed)
    return numbers


def compare_delivered(numbers: Numbers, ran: Any) -> None:
    """Wait until the panel has a span for each run of an application, and each of its records."""
    expected = {"traces": len(ran.trace_ids), "logs": len(ran.records)}
    eventually(
        lambda: numbers.bars("From the applications", "signal") == expected, 60, f"{expected}"
    )


def actions_of(ran: Any) -> list[tuple[str, str]]:
    """Return the task and the action of each record of a repository."""
    return [(record["task_name"], record["action"]) for record in ran.records]


@pytest.fixture
def run(stack, run_app):
    """Run the application with a number of tasks."""

    def run(service: str, tasks: int, env: dict[str, str], **options: Any) -> Any:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": stack.collector.http_endpoint, **env}
        ran = run_app(service, env, app=NUMBERS_APP, args=[str(tasks)], **options)
        assert ran.flushed
        return ran

    return run


def test_short_demo(stack, tmp_path):
    """Which has long ended when its numbers are looked at."""
    env = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": stack.collector.http_endpoint,
        "OTEL_SERVICE_NAME": "short-demo",
    }
    command = [sys.executable, "-m", "rocketry_otel", "demo", "--seconds", "3"]
    done = run_command([*command, "--repo", f"sqlite:///{tmp_path}/tasks.db"], env)
    assert done.returncode == 0, done.stderr
    with closing(sqlite3.connect(tmp_path / "tasks.db")) as connection:
        (table,) = (
            name
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")
            if re.fullmatch(r"[a-z_]*tasks?[a-z_]*", name)
        )
        actions = connection.execute(f"SELECT task_name, action FROM {table}").fetchall()  # noqa: S608
    compare(stack.prometheus, "short-demo", actions)


def test_one_run(stack, run):
    """The only run of a process that ends at once, and it fails."""
    ran = run("one-run", 1, {})
    assert len(ran.records) == 2
    numbers = compare(stack.prometheus, "one-run", actions_of(ran))
    compare_delivered(numbers, ran)
    assert numbers.values("Waiting in the applications", "signal") == {"traces": 0, "logs": 0}
    assert numbers.values("Waiting for", "signal") == {"traces": 0, "logs": 0}


def test_what_waits_in_an_outage(stack, run_app):
    """The destination of spans does not answer: the spans of all runs wait."""
    env = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": stack.collector.http_endpoint,
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9/v1/traces",
        "FLUSH_SECONDS": "2",
        "RUNS": "3",
    }
    ran = run_app("waits", env, app=NUMBERS_APP, args=["2"])
    assert not ran.flushed
    numbers = Numbers(stack.prometheus, "waits")
    waiting = {"traces": 6.0, "logs": 0.0}
    eventually(
        lambda: numbers.values("Waiting in the applications", "signal") == waiting, 60, "Waiting"
    )
    ages = numbers.values("Waiting for", "signal")
    assert ages["logs"] == 0
    assert 2 <= ages["traces"] <= 10
    assert numbers.bars("From the applications", "signal") == {"logs": 12}


@pytest.mark.parametrize("instance", [None, "always-the-same"])
def test_restart_in_between(stack, run, tmp_path, instance):
    """The runs of both processes count, also if the second goes on with the series of the first."""
    service = f"restarted-{instance}"
    env = (
        {} if instance is None else {"OTEL_RESOURCE_ATTRIBUTES": f"service.instance.id={instance}"}
    )
    repository = f"sqlite:///{tmp_path}/tasks.db"
    first = run(service, 2, {**env, "RUNS": "3"}, repository=repository)
    compare(stack.prometheus, service, actions_of(first))
    both = run(service, 2, {**env, "RUNS": "2"}, repository=repository)
    assert len(both.trace_ids) == 10
    compare_delivered(compare(stack.prometheus, service, actions_of(both)), both)


@pytest.fixture
def large(stack, tmp_path):
    """A collector and a Prometheus with time for a large page: no other test waits for it."""
    collector = Collector(
        tmp_path / "collector", stack.jaeger.otlp_endpoint, stack.loki.http_endpoint
    )
    prometheus = Prometheus(tmp_path / "prometheus", collector, pace="5s")
    with collector, prometheus:
        yield Stack(collector, stack.jaeger, prometheus, stack.loki)


def test_five_hundred_tasks(large, run):
    """Each of them, and the failures of a third of them."""
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": large.collector.http_endpoint}
    compare(large.prometheus, "five-hundred", actions_of(run("five-hundred", 500, env)))


def test_runs_that_go_on(stack, run_app):
    """Their progress is that of the body, and their age is less than the length of a run."""
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": stack.collector.http_endpoint, "PROGRESS": "1"}
    numbers = Numbers(stack.prometheus, "goes-on")
    panels = ("Progress of runs that go on", "Oldest run that goes on", "Active runs by task")

    def hanging() -> dict[str, float]:
        values = {
            title: float(it["value"][1])
            for title in panels
            for it in numbers.of(title)
            if it["metric"]["task_name"] == "hang"
        }
        return values if len(values) == len(panels) else {}

    def are_added_up() -> bool:
        by_task = numbers.values("Active runs by task", "task_name")
        return numbers.number("Active runs") == sum(by_task.values()) > 0

    with ThreadPoolExecutor() as pool:
        running = pool.submit(run_app, "goes-on", env, 15)
        shown = eventually(hanging, 60, "A run that hangs")
        eventually(are_added_up, 10, "Active runs")
        since_cycle = numbers.number("Last cycle of the scheduler")
        successes = {
            # A value comes with the time that it is of.
            it["metric"]["task_name"]: float(it["value"][0]) - float(it["value"][1])
            for it in numbers.of("Longest without a success")
        }
        ran = running.result()
    progress, age, active = (shown[title] for title in panels)
    assert (progress, active) == (0.75, 1.0)
    # The scheduler looks fifty times a second, unless it starts a process.
    assert since_cycle is not None
    assert 0 <= since_cycle < 2
    began = {it["run_id"]: it["created"] for it in ran.records if it["action"] == "run"}
    longest = max(it["created"] - began[it["run_id"]] for it in ran.endings("hang"))
    # The record of an ending is made a moment before the run is over for the application.
    assert 0 < age < longest + 1
    assert successes
    for task, at in successes.items():
        its = [it["created"] for it in ran.endings(task) if it["action"] == "success"]
        assert min(abs(at - created) for created in its) < 1, task


def test_runs_that_are_late_or_missed(stack, run_app):
    """The numbers are those of the records: missed runs, delays, waiting, blocking."""
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": stack.collector.http_endpoint}
    ran = run_app("late", env, app=LATE_APP, args=["6"])
    assert ran.flushed
    noted = [json.loads(it["attributes"]) for it in ran.records if it["action"] == "run"]
    missed = sum(it.get("rocketry.schedule.missed", 0) for it in noted)
    assert missed >= 2
    numbers = Numbers(stack.prometheus, "late")
    eventually(
        lambda: numbers.bars("Missed runs", "task_name") == {"ticker": missed}, 60, "Missed runs"
    )
    assert numbers.bars("Missed runs", "rocketry_missed_reason") == {"blocked": missed}

    blocked = sum(it["runtime"] for it in ran.endings("blocker"))
    shown = numbers.bars("Tasks that keep the scheduler", "task_name")["blocker"]
    assert shown == pytest.approx(blocked, rel=0.05)
    waited = numbers.bars("Due and not started", "rocketry_wait_reason")
    assert set(waited) == {"blocked"}
    assert 0 < waited["blocked"] < blocked

    bounds = bounds_of(stack, "rocketry_task_schedule_delay_seconds_bucket", 'job="late"')
    longest = max(it.get("rocketry.schedule.delay", 0) for it in noted)
    (delay,) = numbers.of("How late runs begin")
    assert 0 < float(delay["value"][1]) <= bounds[bisect_left(bounds, longest)]
    # The longest cycles are those of the blocker.
    (half,), (most,) = (numbers.of("Duration of a cycle", ref) for ref in "AB")
    assert float(half["value"][1]) < 1 < float(most["value"][1])


def test_time_until_the_next_run(stack, run_app):
    """While the application runs: at most the interval of the task, which is a second."""
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": stack.collector.http_endpoint, "LATE": "1"}
    numbers = Numbers(stack.prometheus, "next")

    def next_runs() -> dict[str, float]:
        found = numbers.of("Time until the next run")
        return {it["metric"]["task_name"]: float(it["value"][1]) for it in found}

    with ThreadPoolExecutor() as pool:
        running = pool.submit(run_app, "next", env, 15)
        shown = eventually(lambda: "ticker" in (found := next_runs()) and found, 60, "A next run")
        running.result()
    # Below zero: the run is due, or the newest sample is a few seconds old.
    assert -10 < shown["ticker"] <= 1


def test_quantiles_are_those_of_the_runs(stack, run):
    """Within the bucket that the true one is in; none is NaN, also long after the last run."""
    ran = run("timed", 2, {"LENGTH": "0.11", "RUNS": "4"})
    numbers = compare(stack.prometheus, "timed", actions_of(ran))
    began = {it["run_id"]: it["created"] for it in ran.records if it["action"] == "run"}
    longest = max(it["created"] - began[it["run_id"]] for it in ran.endings("task-001"))
    bounds = bounds_of(stack, "rocketry_task_duration_seconds_bucket", 'job="timed"')
    place = bisect_left(bounds, longest)
    for ref in ("F", "G"):
        column = numbers.column(ref)
        assert set(column) == {"task-000", "task-001"}
        assert all(value == value for value in column.values())  # noqa: PLR0124  # NaN is not
        assert 0.1 <= column["task-001"] <= bounds[place]
    for ref in ("A", "B", "C"):
        assert all(it["value"][1] != "NaN" for it in numbers.of("Duration", ref))
    slowest = dict(numbers.points("Slowest tasks", "task_name"))
    assert set(slowest) == {"task-000", "task-001"}
    assert 0.1 <= max(slowest["task-001"]) <= bounds[place]


def test_monitor_shows_a_duration_within_its_bucket(stack, run):
    """The span metrics have bounds near 0.11 s: Jaeger once showed 0.48 s for it."""
    # Jaeger asks for rates, which do not count what was there at the first fetch.
    run("monitored", 2, {"LENGTH": "0.11"})
    seen = 'traces_span_metrics_calls_total{service_name="monitored", span_name="run task-001"}'
    eventually(lambda: stack.prometheus.query(seen), 30, seen)
    run("monitored", 2, {"LENGTH": "0.11", "RUNS": "4"})
    query = {"service": "monitored", "groupByOperation": "true", "spanKind": "internal"}
    query |= {"quantile": "0.95", "lookback": "600000", "step": "1000", "ratePer": "60000"}

    def shown() -> list[float]:
        answer = stack.jaeger.get_json("/api/metrics/latencies", **query)
        return [
            point["gaugeValue"]["doubleValue"]
            for it in answer["metrics"]
            if {"name": "operation", "value": "run task-001"} in it["labels"]
            for point in it["metricPoints"]
            if isinstance(point["gaugeValue"]["doubleValue"], float)
        ]

    bounds = bounds_of(stack, "traces_span_metrics_duration_milliseconds_bucket", "")
    assert [bound for bound in bounds if 100 <= bound <= 250] == [100, 150, 250]
    eventually(lambda: any(value > 0 for value in shown()), 30, "Any latency")
    assert all(100 <= value <= 250 for value in shown() if value > 0)


def bounds_of(stack: Any, metric: str, selector: str) -> list[float]:
    """Return the upper bounds of a histogram's buckets, in order."""
    found = stack.prometheus.query(f"count by (le) (last_over_time({metric}{{{selector}}}[10m]))")
    return sorted(float(it["metric"]["le"]) for it in found)

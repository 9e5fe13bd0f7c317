"""The output of the demo, from its parts."""

import sys
import time
from dataclasses import replace

import pytest

from rocketry_otel import (
    TaskEventRecord,
    open_repository,
)
from rocketry_otel._demo.delivery import Delivery
from rocketry_otel._demo.report import (
    advice,
    cut,
    links,
    query,
    repository,
    table,
    telemetry,
)
from rocketry_otel._model.annotations import RunLink, links_as_text
from rocketry_otel._model.event import parse_event
from rocketry_otel._model.ids import RunIds
from rocketry_otel._model.runs import Run
from tests.support.processes import run_command

TRACE = "0123456789abcdef0123456789abcdef"


def _unpainted(text, _colour):
    return text


def _painted(text, colour):
    return f"<{colour}>{text}</>"


def _run(action, began=0.0, ended=None, task="t", **fields):
    """Return a run; without an ending time, it has no beginning."""
    first = parse_event({"task_name": task, "action": "run", "created": began})
    last = parse_event({"task_name": task, "action": action, "created": ended or began, **fields})
    return Run(RunIds(int(TRACE, 16), 1), None if ended is None else first, last)


@pytest.fixture
def _utc(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


FAILED = _run(
    "fail", 0.0, 1.234, "send-invoices", exc_type="a.MailError", exc_message="no\n  no " * 9
)
RUNS = [FAILED, _run("terminate", 1.5, task="a-task-with-a-very-long-name-indeed")]


@pytest.mark.usefixtures("_utc")
def test_table_in_80_columns():
    """In 80 columns all ids are whole and no line is longer."""
    assert table(RUNS, 80, _unpainted) == [
        "start     task             duration  ended      trace id",
        f"00:00:00  send-invoices      1.23 s  fail       {TRACE}",
        f"00:00:01  a-task-with-...            terminate  {TRACE}",
    ]


@pytest.mark.usefixtures("_utc")
def test_table_in_120_columns():
    """A table of 120 columns shows milliseconds and exceptions."""
    assert table(RUNS[:1], 120, _unpainted) == [
        f"start         task           duration  {'ended':47}  trace id",
        f"00:00:00.000  send-invoices    1.23 s  fail: MailError: {'no ' * 9}...  {TRACE}",
    ]


@pytest.mark.usefixtures("_utc")
def test_table_in_colours():
    """Colours do not change where the columns are."""
    runs = [_run(action, 0.0, 1.0) for action in ("success", "odd")]

    assert table(runs, 80, _painted) == [
        "<bold>start     task  duration  ended    trace id</>",
        f"00:00:00  t       1.00 s  <green>success</>  <dim>{TRACE}</>",
        f"00:00:00  t       1.00 s  <bold>odd    </>  <dim>{TRACE}</>",
    ]


def test_table_of_many_runs():
    """Of very many runs, the last are shown, and the others counted."""
    lines = table([_run("success")] * 41, 80, _unpainted)

    assert lines[1] == "... 1 earlier run ..."
    assert len(lines) == 42


@pytest.mark.usefixtures("_utc")
@pytest.mark.parametrize(
    ("run_", "ended"),
    [
        (_run("terminate", message="Task 't' status: 'terminate' (timeouted)"), "timeout"),
        (_run("terminate", message="Task 't' status: 'terminate'"), "terminate"),
        (_run("fail", exc_type="ValueError", exc_message=""), "fail: ValueError"),
        (_run("fail"), "fail"),
        (replace(_run("success", 0.0, 1.0), ended=None), "running"),
    ],
)
def test_table_shows_the_ending(run_, ended):
    """The table shows how a run ended, and no duration if one of its ends is unknown."""
    _, row = table([run_], 120, _unpainted)

    assert row == f"00:00:00.000  t     {'':8}  {ended:<5}  {TRACE}"


def test_table_of_no_runs():
    """Where nothing ran there is a header alone."""
    assert table([], 80, _unpainted) == ["start     task  duration  ended  trace id"]


@pytest.mark.parametrize(
    ("records", "lines"),
    [
        ([], [">>> x", "[]"]),
        ([{"a": 1, "b": None}], [">>> x", "[TaskEventRecord(", "    a=1,", " )]"]),
        (
            [{"a": 1}, {"a": 2}, {"a": "long " * 9}],
            [
                ">>> x",
                "[... 2 earlier records ...",
                " TaskEventRecord(",
                "    a='long long...,",
                " )]",
            ],
        ),
        (
            [{"exc_text": "Traceback:\n  a very very long line"}],
            [
                ">>> x",
                "[TaskEventRecord(",
                "    exc_text='Tr...,",
                " )]",
                ">>> print(_[-1].exc_text)",
                "Traceback:",
                "  a very very lon...",
            ],
        ),
    ],
)
def test_query(records, lines):
    """The newest record is shown, without empty fields, cut to the width, with its traceback."""
    assert query("x", records, 20) == lines


@pytest.mark.parametrize(
    ("delivery", "lines"),
    [
        (
            Delivery((), 0, 0, complete=True),
            ["None was sent: OTEL_* variables turn it off, or the settings exclude the runs."],
        ),
        (
            Delivery(("http://a", "http://b"), 0, 0, complete=False),
            ["<yellow>Not delivered: no collector accepts it at http://a and http://b.</>"],
        ),
        (
            Delivery(("http://a",), 1, 2, complete=True),
            [
                "<green>Delivered to http://a: 1 span and 2 log records, and the metrics.</>",
                "Child processes send the spans and log lines of their bodies themselves.",
            ],
        ),
        (
            Delivery(("http://a",), 0, 1, complete=False),
            ["<yellow>Delivered to http://a: 0 spans and 1 log record, but not all of it.</>"],
        ),
    ],
)
def test_telemetry(delivery, lines):
    """The status of delivery has the address and the numbers."""
    assert telemetry(delivery, [], 80, _painted) == lines


def test_telemetry_shows_warnings():
    """Warnings follow, in lines that fit; addresses are not broken."""
    lines = telemetry(
        Delivery((), 0, 0, complete=True), ["to http://a-long.address: no"], 20, _painted
    )

    assert lines[1:] == ["  to", "  http://a-long.address:", "  no"]


def test_advice_with_a_collector():
    """With a collector, the advice names the places to look."""
    lines = advice(Delivery(("http://a",), 1, 2, complete=True), "python")

    assert lines == [
        "Look at a run: copy its trace id from the table, and open",
        "  http://localhost:3000   Grafana: the dashboard; the id goes into a field there",
        "  http://localhost:16686  Jaeger: the trace; the id goes into the search box",
        "Inside the run of extract is a request over HTTP, and inside that of load are",
        "SQL queries. The log lines of their bodies are in the same traces.",
    ]


@pytest.mark.parametrize(
    ("endpoints", "where"), [((), "http://localhost:4318"), (("http://a",), "http://a")]
)
def test_advice_without_a_collector(endpoints, where):
    """Without a collector, the advice names the programs to start."""
    assert advice(Delivery(endpoints, 0, 0, complete=False), "python") == [
        "To see the runs, start the programs that show them; the first command needs",
        "rocketry-otel[cli]:",
        "  python -m rocketry_otel stack init",
        "  docker compose -f rocketry-stack/docker-compose.yml up -d",
        "  python -m rocketry_otel demo",
        "and open",
        "  http://localhost:3000   Grafana: the dashboard, log lines, alerts",
        "  http://localhost:16686  Jaeger: the traces",
        "Without them, Jaeger shows the traces alone:",
        "  docker run --rm -p 16686:16686 -p 4318:4318 jaegertracing/jaeger:2.20.0",
        "  OTEL_LOGS_EXPORTER=none OTEL_METRICS_EXPORTER=none python -m rocketry_otel demo",
        "Any other OpenTelemetry Collector works as well, if it listens at",
        f"{where}; or one elsewhere:",
        "  OTEL_EXPORTER_OTLP_ENDPOINT=http://host:4318 python -m rocketry_otel demo",
    ]


def test_command_that_reads_the_repository(tmp_path):
    """The printed command works unchanged in a shell."""
    url = f"sqlite:///{tmp_path}/tasks.db"
    open_repository(url).add(
        TaskEventRecord(task_name="t", action="fail", created=1.0, exc_type="MyError")
    )
    command = "\n".join(repository(url, sys.executable)[2:])

    done = run_command(["/bin/sh", "-c", command])

    assert (done.returncode, done.stderr) == (0, "")
    assert "exc_type='MyError'" in done.stdout


def test_repository_that_is_removed():
    """A repository that is gone has no command to read it either."""
    assert repository("sqlite:////tmp/a/tasks.db", "python", removed=True) == [
        "It was temporary, and is removed. --keep leaves it, --repo chooses another."
    ]


def test_links_show_the_longest_chain():
    """The last of the longest chains is shown, from the run that waited longest."""

    def linked(task, number, *waited_for):
        text = links_as_text(tuple(RunLink(it, it, "dependency") for it in waited_for))
        event = parse_event({"task_name": task, "action": "run", "created": 1.0, "links": text})
        return Run(RunIds(number, number), event)

    runs = [
        linked("a", 1),
        linked("b", 2, 1),
        linked("long-name", 3, 99, 2),
        linked("b", 4, 1),
        linked("c", 5, 4),
    ]
    assert links(runs, _painted) == [
        "Each run of the pipeline has a link to the run that it waited for:",
        f"  c  <dim>{5:032x}</>  waited for",
        f"  b  <dim>{4:032x}</>  waited for",
        f"  a  <dim>{1:032x}</>",
    ]
    assert links(runs[:3], _unpainted)[1] == f"  long-name  {3:032x}  waited for"
    assert links(runs[:1], _unpainted) == []
    assert links([], _unpainted) == []


def test_repository_in_memory():
    """A repository in memory has no command to read it."""
    assert repository("memory://", "python") == ["memory://, which ends with this process."]


def test_cut():
    """A text that fits stays; a longer one ends in dots."""
    assert [cut("abcdef", 6), cut("abcdef", 5)] == ["abcdef", "ab..."]

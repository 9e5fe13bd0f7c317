"""The command ``rocketry-otel show``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rocketry_otel import open_repository
from rocketry_otel._cli.main import main
from rocketry_otel._history.run_lookup import RunLookup
from rocketry_otel._history.streams.base import Place, Window
from rocketry_otel._history.streams.sql_stream import SQLStream
from rocketry_otel._model.annotations import RunLink, links_as_text
from rocketry_otel._model.ids import ids_of
from tests.support.runs import START, TRACEBACK, on_terminal, record, write_runs
from tests.support.stored_states import write_state

Output = pytest.CaptureFixture[str]
IDS = ids_of("etl", "run-2", (START + 60) * 10**9)


@pytest.mark.usefixtures("_utc")
def test_failure(runs_url: str, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is known of it, without control characters."""
    monkeypatch.setenv("ROCKETRY_OTEL_TRACE_URL", "http://j/{trace_id}")
    assert main(["show", "run-2", "--repo", runs_url]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out == "\n".join(
        [
            "etl: fail",
            "  began     2023-11-14 22:14:20+00:00",
            "  took      3.5s",
            "  run id    run-2",
            f"  trace id  {IDS.trace_hex}",
            f"  span id   {IDS.span_hex}",
            f"  page      http://j/{IDS.trace_hex}",
            "Error",
            "  ValueError: no rows [31mat all",
            *(f"  {line}" for line in TRACEBACK.splitlines()),
            "Attributes",
            "  task_name        etl",
            "  rocketry.run_id  run-2",
            "  rocketry.action  fail",
            "  error.type       ValueError",
            "  rows             7",
            "Events",
            "  half  2023-11-14T22:14:21Z {'a': 1}",
            "Records",
            "  22:14:20.000000  run  run-2 run",
            "  22:14:23.500000  fail  run-2 fail",
            "Delivery",
            "  not known: there is no delivery state",
            "",
        ]
    )


@pytest.mark.parametrize("wanted", [IDS.trace_hex, IDS.trace_hex[:8], "run-2"])
def test_json(wanted: str, runs_url: str, capsys: Output) -> None:
    """By each id, one object of JSON."""
    assert main(["show", wanted, "--repo", runs_url, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["run_id"], found["span_id"], found["outcome"]) == ("run-2", IDS.span_hex, "fail")
    assert found["exception"]["exception.stacktrace"] == TRACEBACK
    assert [it["action"] for it in found["records"]] == ["run", "fail"]
    assert found["links"] == []
    assert found["events"] == [
        {"name": "half", "time": "2023-11-14T22:14:21Z", "attributes": {"a": 1}}
    ]


# These records have no ids of traces: only a reader of all of them finds one.
@pytest.mark.parametrize(
    ("wanted", "window"),
    [
        ("run-2", Window(int((START + 60) * 10**9), int((START + 63.5) * 10**9))),
        (IDS.trace_hex, Window()),
        ("nope", Window()),
    ],
)
def test_whole_id_needs_no_other_time(
    wanted: str, window: Window, runs_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database finds the records of a run, and nothing before and after them is read."""
    windows = []
    read = SQLStream.read

    def watched(stream: SQLStream, its: Window, place: Place | None = None) -> Any:
        windows.append(its)
        return read(stream, its, place)

    monkeypatch.setattr(SQLStream, "read", watched)
    main(["show", wanted, "--repo", runs_url])
    assert windows == [window]


def test_repository_that_breaks(
    runs_url: str, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The query and the reading meet one error: it is one line, with status 2."""

    def break_down(*_: object) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(RunLookup, "span_of", break_down)
    monkeypatch.setattr(SQLStream, "read", break_down)
    assert main(["show", "run-2", "--repo", runs_url]) == 2
    line = "rocketry-otel: the repository cannot be read: OSError: the disk is gone\n"
    assert capsys.readouterr() == ("", line)


@pytest.mark.parametrize("wanted", [IDS.trace_hex, "run-2"])
def test_repository_of_another_kind(wanted: str, tmp_path: Path, capsys: Output) -> None:
    """It is read whole."""
    url = f"csv://{tmp_path}/tasks.csv"
    write_runs(url)
    assert main(["show", wanted, "--repo", url]) == 0
    assert capsys.readouterr().out.startswith("etl: fail\n")


def test_crash_that_was_none_is_no_record_of_the_run(runs_url: str, capsys: Output) -> None:
    """Another process has started meanwhile: the record bears no span."""
    no_span = "0" * 16
    repo = open_repository(runs_url)
    repo.add(record("crash", 61, None, trace_id=IDS.trace_hex, span_id=no_span))
    assert main(["show", "run-2", "--repo", runs_url, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [it["action"] for it in found["records"]] == ["run", "fail"]


def test_run_that_goes_on(runs_url: str, capsys: Output) -> None:
    """It has no duration."""
    assert main(["show", "run-5", "--repo", runs_url]) == 0
    assert capsys.readouterr().out.startswith("etl: running\n")


def test_crash_that_names_no_run(runs_url: str, capsys: Output) -> None:
    """Rocketry without us stores no id with it: it ends the run that went on."""
    open_repository(runs_url).add(record("crash", 90_000, None))
    assert main(["show", "run-5", "--repo", runs_url]) == 0
    assert capsys.readouterr().out.startswith("etl: crash\n")


def test_id_that_is_none(runs_url: str, capsys: Output) -> None:
    """Status 1 and a sentence; also for a beginning that is too short."""
    assert main(["show", "nope", "--repo", runs_url]) == 1
    assert main(["show", "run", "--repo", runs_url]) == 1
    words = "rocketry-otel: no run and no trace has the id"
    assert capsys.readouterr() == ("", f"{words} 'nope'\n{words} 'run'\n")


def test_beginning_of_several(runs_url: str, capsys: Output) -> None:
    """Status 1, and the traces of the first of them."""
    assert main(["show", "run-", "--repo", runs_url]) == 1
    assert capsys.readouterr().err.startswith("rocketry-otel: 'run-' is not one run: ")
    repo = open_repository(runs_url)
    for number in range(12):
        repo.add(record("run", 8000 + number, f"run-x{number}"))
    assert main(["show", "run-", "--repo", runs_url]) == 1
    assert capsys.readouterr().err.endswith(" and 7 more\n")


def test_id_of_several(runs_url: str, capsys: Output) -> None:
    """All of them, if the id is whole."""
    repo = open_repository(runs_url)
    repo.add(record("run", 9000, "run-1"))
    repo.add(
        record("success", 9001, "run-1"),
    )
    assert main(["show", "run-1", "--repo", runs_url]) == 0
    assert capsys.readouterr().out.count("etl: success") == 2


def test_links_and_delivery(runs_url: str, capsys: Output) -> None:
    """How each record has fared on each channel."""
    repo = open_repository(runs_url)
    links = links_as_text((RunLink(1, 2, "request"),))
    repo.add(record("run", 9000, "linked", links=links))
    repo.add(record("success", 9001, "linked"))
    repo.add(record("note", 9002, "of no run"))
    second = (START + 9001) * 10**9
    write_state(
        runs_url,
        channels=["logs http://c", "traces http://c", "traces http://d"],
        backlogs=[("traces http://c", second, 1)],
        refused=[("logs http://c", second, "etl", "success", "too\nold")],
    )
    assert main(["show", "linked", "--repo", runs_url]) == 0
    out = capsys.readouterr().out
    assert "Links\n  request  00000000000000000000000000000001\n" in out
    assert out.partition("Delivery\n")[2].splitlines() == [
        "  run  logs http://c  delivered",
        "  run  traces http://c  delivered",
        "  run  traces http://d  delivered",
        "  success  logs http://c  refused: too old",
        "  success  traces http://c  may wait",
        "  success  traces http://d  delivered",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("columns", [80, 160])
def test_on_a_terminal(columns: int, runs_url: str) -> None:
    """It is readable at both widths."""
    status, written = on_terminal(["show", "run-2", "--repo", runs_url], columns)
    assert (status, written.startswith("etl: fail\n")) == (0, True)
    assert max(map(len, written.splitlines())) <= 80

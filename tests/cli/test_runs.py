"""The command ``rocketry-otel runs``."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from rocketry_otel import open_repository
from rocketry_otel._cli import run_rows, runs
from rocketry_otel._cli.main import main
from rocketry_otel._cli.run_rows import History, iso
from rocketry_otel._history.open_history import open_history
from rocketry_otel._model.ids import ids_of
from rocketry_otel._settings import Settings
from tests.support.processes import run_command
from tests.support.program import Program
from tests.support.runs import COMMAND, LONG_NAME, START, on_terminal, record
from tests.support.terminal import Terminal

Output = pytest.CaptureFixture[str]


def trace_id(run_id: str, seconds: int, task: str = "etl") -> str:
    """Return the trace id of a run."""
    return ids_of(task, run_id, (START + seconds) * 10**9).trace_hex


@pytest.mark.usefixtures("_utc")
def test_all_runs_in_a_pipe(runs_url: str, capsys: Output) -> None:
    """Each line is whole, and has no colour."""
    assert main(["runs", "--repo", runs_url]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    name, wide = "etl".ljust(len(LONG_NAME)), LONG_NAME
    ids = [
        trace_id(f"run-{number}", seconds, task)
        for number, seconds, task in (
            *((1, 0, "etl"), (2, 60, "etl"), (3, 120, wide), (4, 7400, wide), (5, 7500, "etl")),
        )
    ]
    heading = f"began                {'task'.ljust(len(wide))}  outcome     took  {'trace id':32}"
    assert out.splitlines() == [
        f"{heading}  error",
        f"2023-11-14 22:13:20  {name}  success    250ms  {ids[0]}",
        f"2023-11-14 22:14:20  {name}  fail        3.5s  {ids[1]}  ValueError: no rows [31mat all",
        f"2023-11-14 22:15:20  {wide}  terminate  2h00m  {ids[2]}  gone (timeouted)",
        f"2023-11-15 00:16:40  {wide}  inaction   1m30s  {ids[3]}",
        f"2023-11-15 00:18:20  {name}  running        -  {ids[4]}",
    ]


def outcomes(url: str, capsys: Output, *options: str) -> list[str]:
    """Return the outcomes of the runs that the options choose."""
    assert main(["runs", "--repo", url, "--json", *options]) == 0
    return [json.loads(line)["outcome"] for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), ["success", "fail", "terminate", "inaction", "running"]),
        (("--failed",), ["fail", "terminate"]),
        (("--action", "inaction"), ["inaction"]),
        (("--action", "running"), ["running"]),
        (("--task", "report*"), ["terminate", "inaction"]),
        (("--limit", "2"), ["inaction", "running"]),
        (("--since", "2023-11-14T23:00:00Z"), ["terminate", "inaction", "running"]),
    ],
)
def test_choice(
    options: tuple[str, ...], expected: list[str], runs_url: str, capsys: Output
) -> None:
    """Each option leaves out the others."""
    assert outcomes(runs_url, capsys, *options) == expected


def test_json(runs_url: str, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    """All fields, and the page of the trace."""
    monkeypatch.setenv("ROCKETRY_OTEL_TRACE_URL", "http://j/trace/{trace_id}")
    assert main(["runs", "--repo", runs_url, "--failed", "--limit", "1", "--json"]) == 0
    it = trace_id("run-3", 120, LONG_NAME)
    assert json.loads(capsys.readouterr().out) == {
        "task": LONG_NAME,
        "outcome": "terminate",
        "began": "2023-11-14T22:15:20Z",
        "ended": "2023-11-15T00:15:20Z",
        "seconds": 7200.0,
        "run_id": "run-3",
        "trace_id": it,
        "error": "gone (timeouted)",
        "trace_url": f"http://j/trace/{it}",
    }


def test_no_task_matches(runs_url: str, capsys: Output) -> None:
    """Status 1 and a sentence with the names that there are."""
    assert main(["runs", "--repo", runs_url, "--task", "nope"]) == 1
    assert capsys.readouterr() == (
        "", f"rocketry-otel: no task matches 'nope'; there are etl, {LONG_NAME}\n",
    )  # fmt: skip


def test_nothing_to_show(tmp_path: Path, capsys: Output) -> None:
    """No run, and no task: two other sentences."""
    url = f"csv://{tmp_path}/tasks.csv"
    (tmp_path / "tasks.csv").touch()
    assert main(["runs", "--repo", url]) == 0
    assert main(["runs", "--repo", url, "--task", "x"]) == 1
    assert capsys.readouterr() == (
        "", "rocketry-otel: no runs\nrocketry-otel: no task matches 'x'; there is none\n",
    )  # fmt: skip


def test_many_names_are_cut(tmp_path: Path, capsys: Output) -> None:
    """Ten names, and how many more."""
    url = f"csv://{tmp_path}/tasks.csv"
    repo = open_repository(url)
    for number in range(12):
        repo.add(record("run", number, f"r{number}", task_name=f"task-{number:02}"))
    assert main(["runs", "--repo", url, "--task", "x"]) == 1
    assert capsys.readouterr().err.endswith("task-08, task-09 and 2 more\n")


def test_unreadable_rows_are_counted(tmp_path: Path, capsys: Output) -> None:
    """The others are shown."""
    url = f"csv://{tmp_path}/tasks.csv"
    repo = open_repository(url)
    repo.add(record("run", 0, "r"))
    with (tmp_path / "tasks.csv").open("a") as file:
        file.write("etl,run,soon" + "," * 16 + "\n")
    assert main(["runs", "--repo", url]) == 0
    assert capsys.readouterr().err.endswith(
        "rocketry-otel: 1 records cannot be read, and are left out\n"
    )


@pytest.mark.usefixtures("_utc")
@pytest.mark.parametrize("columns", [80, 160])
def test_screens(columns: int, runs_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No line is longer than the terminal is wide; below the runs are bars."""
    terminal = Terminal()
    for name, value in {"COLUMNS": str(columns), "TERM": "xterm", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ROCKETRY_OTEL_TRACE_URL", "http://j/{trace_id}")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert main(["runs", "--repo", runs_url]) == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue()).splitlines()
    assert [line[:8] for line in lines[-3:]] == ["   runs ", " failed ", "        "]
    is_wide = columns == 160
    assert (f"http://j/{trace_id('run-1', 0)}" in lines[1]) is is_wide
    assert lines[3].startswith("2023-11-14 ") is is_wide
    if not is_wide:
        assert max(map(len, lines)) <= columns


def test_follow_until_interrupted(
    runs_url: str, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    """At each look, the runs that have ended since."""
    looks = []

    def sleep(_: float) -> None:
        looks.append(1)
        if len(looks) == 2:
            open_repository(runs_url).add(record("success", 8000, "run-5"))
        if len(looks) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(runs.time, "sleep", sleep)
    assert main(["runs", "--repo", runs_url, "--follow", "--json"]) == 130
    found = [json.loads(line)["outcome"] for line in capsys.readouterr().out.splitlines()]
    assert found == ["success", "fail", "terminate", "inaction", "success"]


@pytest.mark.slow
def test_terminals(runs_url: str) -> None:
    """At 80 columns no line is longer; at 160 ids and the page of the trace are whole."""
    trace_url = "http://j/{trace_id}"
    status, narrow = on_terminal(
        ["runs", "--repo", runs_url], 80, ROCKETRY_OTEL_TRACE_URL=trace_url
    )
    assert status == 0
    lines = narrow.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[2] == (
        f"11-14 22:14:20  etl                fail        3.5s  {trace_id('run-2', 60)[:12]}"
        "  ValueError: …"
    )
    assert lines[6] == ""
    assert lines[7].startswith("   runs █")
    assert lines[7].endswith("▆")
    assert lines[8].startswith(" failed ")
    assert lines[9].startswith("        11-14 22:13:20 ")
    assert lines[9].endswith(" 11-15 00:18:20")
    status, wide = on_terminal(
        ["runs", "--repo", runs_url, "--limit", "1"],
        160,
        ROCKETRY_OTEL_TRACE_URL=trace_url,
    )
    it = trace_id("run-5", 7500)
    assert status == 0
    assert wide.splitlines()[1] == f"2023-11-15 00:18:20  etl   running     -  {it}  http://j/{it}"


@pytest.mark.slow
def test_plain_terminal(runs_url: str) -> None:
    """Without UTF-8 the marks are ASCII."""
    _, written = on_terminal(["runs", "--repo", runs_url], 80, PYTHONIOENCODING="ascii")
    assert written.isascii()
    assert "report-of-the-..." in written
    assert "   runs @" in written


@pytest.mark.slow
@pytest.mark.usefixtures("_interruptible")
@pytest.mark.parametrize("kind", ["sqlite", "csv", "json"])
def test_follow(kind: str, tmp_path: Path) -> None:
    """A run that ends later is shown then; an interrupt ends it, with status 130."""
    place = {"sqlite": f"/{tmp_path}/tasks.db", "csv": f"{tmp_path}/t.csv", "json": f"{tmp_path}/j"}
    url = f"{kind}://{place[kind]}"
    repo = open_repository(url)
    repo.add(record("run", 0, "one"))
    repo.add(record("success", 1, "one"))
    repo.add(record("run", 2, "two"))
    command = [*COMMAND, "runs", "--repo", url, "--follow", "--json"]
    with Program(command, tmp_path, {}) as program:
        assert '"run_id": "one"' in program.wait_for_line("{")
        repo.add(record("fail", 3, "two"))
        assert '"run_id": "two"' in program.wait_for_line("{")
        program.process.send_signal(signal.SIGINT)
        assert program.wait() == 130
        assert len([line for line in program.lines if line]) == 2


def test_process_leaves_no_file(runs_url: str, tmp_path: Path) -> None:
    """Nothing appears, and nothing changes."""

    def files() -> list[tuple[str, int]]:
        return [(str(path), path.stat().st_mtime_ns) for path in sorted(tmp_path.rglob("*"))]

    before = files()
    for name in ("runs", "stats", "status", "export"):
        done = run_command([*COMMAND, name, "--repo", runs_url])
        assert (done.returncode, done.stderr) == (0, "")
    assert files() == before


def test_reader_that_went_away(runs_url: str, tmp_path: Path) -> None:
    """As with ``head``: status 1 and no traceback."""
    script = 'set -o pipefail; "$@" runs | true; echo "${PIPESTATUS[0]}"'
    done = run_command(
        ["bash", "-c", script, "bash", *COMMAND], {"ROCKETRY_OTEL_REPO": runs_url}, cwd=tmp_path
    )
    assert (done.stdout in {"0\n", "1\n"}, done.stderr) == (True, "")


def test_repository_that_breaks(runs_url: str, tmp_path: Path, capsys: Output) -> None:
    """A damaged database gives a sentence and status 2."""
    path = tmp_path / "repo" / "tasks.db"
    path.write_bytes(path.read_bytes()[:4096].ljust(path.stat().st_size, b"x"))
    assert main(["runs", "--repo", runs_url]) == 2
    out, err = capsys.readouterr()
    assert (out, err.startswith("rocketry-otel: ")) == ("", True)


def failing(error: Exception) -> Callable[..., object]:
    """Return a generator function that raises."""

    def read(*_: object) -> object:
        raise error
        yield

    return read


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (sqlite3.OperationalError("away"), "the repository cannot be read: OperationalError: away"),
        (run_rows.RepositoryError("known"), "known"),
    ],
)
def test_error_in_the_midst(
    error: Exception, words: str, runs_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a RepositoryError, with its own words where it is one already."""
    monkeypatch.setattr(run_rows.HistoryReader, "__iter__", failing(error))
    with open_history(runs_url) as repo, pytest.raises(run_rows.RepositoryError) as caught:
        list(History(repo, Settings()).ended())
    assert str(caught.value) == words


def test_times_out_of_range() -> None:
    """The latest is of the year 9999."""
    assert iso(2**63 - 1).startswith("2262-04-11T23:47:16.")
    assert iso(10**30) == "9999-12-31T00:00:00Z"


def test_records_without_a_task(tmp_path: Path, capsys: Output) -> None:
    """A row of another program is no run."""
    path = tmp_path / "t.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, task_name TEXT, action TEXT, created REAL)"
        )
        connection.execute("INSERT INTO t VALUES (1, '', 'note', 1.5)")
        connection.commit()
    assert main(["runs", "--repo", f"sqlite:///{path}"]) == 0
    assert capsys.readouterr().out == ""

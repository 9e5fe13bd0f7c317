"""The command ``rocketry-otel stats``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rocketry_otel import open_repository
from rocketry_otel._cli.main import main
from tests.support.runs import LONG_NAME, on_terminal, record

Output = pytest.CaptureFixture[str]


@pytest.mark.usefixtures("_utc")
def test_table(runs_url: str, capsys: Output) -> None:
    """A line for each task."""
    assert main(["stats", "--repo", runs_url]) == 0
    room = " " * (len(LONG_NAME) - 3)
    assert capsys.readouterr().out.splitlines() == [
        f"task{room[1:]}  runs  failed  running  median    p95  longest  last success",
        f"etl{room}     2       1        1   250ms   3.5s     3.5s  2023-11-14 22:13:20",
        f"{LONG_NAME}     2       1        0   1m30s  2h00m    2h00m  -",
    ]


def test_json(tmp_path: Path, capsys: Output) -> None:
    """Quantiles are durations of runs; a task without an ending has none."""
    url = f"csv://{tmp_path}/t.csv"
    repo = open_repository(url)
    for number in range(1, 21):
        repo.add(record("run", number * 100, f"r{number}"))
        repo.add(record("success", number * 100 + number, f"r{number}"))
    repo.add(record("run", 9000, "x", task_name="new"))
    assert main(["stats", "--repo", url, "--json"]) == 0
    etl, new = map(json.loads, capsys.readouterr().out.splitlines())
    assert etl == {
        "task": "etl",
        "runs": 20,
        "failures": 0,
        "running": 0,
        "median": 10.0,
        "p95": 19.0,
        "longest": 20.0,
        "last_success": "2023-11-14T22:47:00Z",
    }
    assert (new["runs"], new["running"], new["median"], new["last_success"]) == (0, 1, None, None)


def test_nothing(tmp_path: Path, runs_url: str, capsys: Output) -> None:
    """No task matches, no run is there, a row is not readable."""
    assert main(["stats", "--repo", runs_url, "--task", "nope"]) == 1
    assert "no task matches 'nope'" in capsys.readouterr().err
    path = tmp_path / "t.csv"
    path.touch()
    assert main(["stats", "--repo", f"csv://{path}"]) == 0
    assert capsys.readouterr().err == "rocketry-otel: no runs\n"
    open_repository(f"csv://{path}").add(record("run", 0, "r"))
    with path.open("a") as file:
        file.write("etl,run,soon" + "," * 16 + "\n")
    assert main(["stats", "--repo", f"csv://{path}"]) == 0
    assert capsys.readouterr().err.endswith("1 records cannot be read, and are left out\n")


@pytest.mark.slow
@pytest.mark.parametrize("columns", [80, 160])
def test_on_a_terminal(columns: int, runs_url: str) -> None:
    """The name of a task gives way at 80 columns."""
    status, written = on_terminal(["stats", "--repo", runs_url], columns)
    lines = written.splitlines()
    assert (status, max(map(len, lines)) <= columns) == (0, True)
    assert (LONG_NAME in written) is (columns == 160)

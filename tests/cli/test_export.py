"""The command ``rocketry-otel export``."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from rocketry_otel import open_repository
from rocketry_otel._cli.main import main
from tests.support.runs import record

Output = pytest.CaptureFixture[str]


def test_json_lines(runs_url: str, capsys: Output) -> None:
    """Each run as it ended, and those without an ending last."""
    assert main(["export", "--repo", runs_url]) == 0
    out = capsys.readouterr().out
    found = [json.loads(line)["run_id"] for line in out.splitlines()]
    assert found == ["run-1", "run-2", "run-3", "run-4", "run-5"]


def test_csv(tmp_path: Path, capsys: Output) -> None:
    """A heading, times in UTC, and no formula for a spreadsheet."""
    url = f"json://{tmp_path}/j"
    repo = open_repository(url)
    repo.add(record("run", 0, "r", task_name="=HYPERLINK(1)"))
    repo.add(record("fail", 1.5, "r", task_name="=HYPERLINK(1)", exc_type="E", exc_message='a,"b'))
    repo.add(record("run", 2, "s"))
    assert main(["export", "--repo", url, "--format", "csv"]) == 0
    heading, first, second = csv.reader(capsys.readouterr().out.splitlines())
    assert heading[:5] == ["task", "outcome", "began", "ended", "seconds"]
    assert first[:6] == [
        *("'=HYPERLINK(1)", "fail", "2023-11-14T22:13:20Z", "2023-11-14T22:13:21.500000Z"),
        *("1.5", "r"),
    ]
    assert first[7] == 'E: a,"b'
    assert second[1:5] == ["running", "2023-11-14T22:13:22Z", "", ""]


def test_choice(runs_url: str, tmp_path: Path, capsys: Output) -> None:
    """No task matches: status 1; a row that cannot be read is counted."""
    assert main(["export", "--repo", runs_url, "--task", "nope"]) == 1
    assert "no task matches 'nope'" in capsys.readouterr().err
    url = f"csv://{tmp_path}/t.csv"
    open_repository(url).add(record("run", 0, "r"))
    with (tmp_path / "t.csv").open("a") as file:
        file.write("etl,run,soon" + "," * 16 + "\n")
    assert main(["export", "--repo", url]) == 0
    assert capsys.readouterr().err.endswith("1 records cannot be read, and are left out\n")

"""The command ``rocketry-otel status``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rocketry_otel._cli.main import main
from tests.support.runs import START
from tests.support.stored_states import write_state

Output = pytest.CaptureFixture[str]
CHANNELS = ["logs http://c", "traces http://c"]


def test_no_state(runs_url: str, capsys: Output) -> None:
    """A sentence, and no state is made."""
    assert main(["status", "--repo", runs_url]) == 0
    assert capsys.readouterr().out == (
        "No delivery state: no process has sent records of this repository yet.\n"
    )


def test_state(runs_url: str, capsys: Output) -> None:
    """What waits and what was refused; the state stays as it is."""
    folder = write_state(
        runs_url,
        CHANNELS,
        [("traces http://c", START * 10**9, 3)],
        [("logs http://c", START * 10**9, "etl", "run", "bad\x1b[31m")],
        known=False,
    )

    def files() -> list[tuple[str, int]]:
        return sorted((path.name, path.stat().st_mtime_ns) for path in folder.iterdir())

    before = files()
    assert main(["status", "--repo", runs_url]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"  delivery state  {folder}",
        "channel          waiting  since",
        "logs http://c          0  -",
        "traces http://c        3  2023-11-14T22:13:20Z",
        "Not known: whether records before 2001-09-09T01:46:39.999999Z were delivered.",
        "Refused for good: 1",
        "refused at                   task  action  reason",
        "2023-11-15T00:59:59.500000Z  etl   run     bad [31m",
    ]
    assert main(["status", "--repo", runs_url, "--json"]) == 0
    out = capsys.readouterr().out.splitlines()[-1]
    assert json.loads(out) == {
        "folder": str(folder),
        "exists": True,
        "channels": [
            {"channel": "logs http://c", "waiting": 0, "waits_since": None},
            {
                "channel": "traces http://c",
                "waiting": 3,
                "waits_since": "2023-11-14T22:13:20Z",
            },
        ],
        "unknown_until": "2001-09-09T01:46:39.999999Z",
        "refused": 1,
        "newest_refused": [
            {
                "channel": "logs http://c",
                "task": "etl",
                "action": "run",
                "created": "2023-11-14T22:13:20Z",
                "refused_at": "2023-11-15T00:59:59.500000Z",
                "reason": "bad [31m",
            }
        ],
    }
    assert files() == before


def test_nothing_was_refused(runs_url: str, capsys: Output) -> None:
    """No table of refusals."""
    write_state(runs_url, CHANNELS)
    assert main(["status", "--repo", runs_url]) == 0
    assert capsys.readouterr().out.endswith("Refused for good: 0\n")


def test_damaged_state(runs_url: str, capsys: Output) -> None:
    """A sentence and status 2; the file stays as it is."""
    folder = write_state(runs_url, CHANNELS)
    path = Path(folder) / "delivery.db"
    path.write_bytes(b"no database" * 1000)
    assert main(["status", "--repo", runs_url]) == 2
    assert capsys.readouterr().err.startswith(
        f"rocketry-otel: the delivery state in {folder} cannot be read: "
    )
    assert path.read_bytes() == b"no database" * 1000

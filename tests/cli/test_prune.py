"""The command ``rocketry-otel prune``."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rocketry_otel import RepositoryError, open_repository
from rocketry_otel._cli import prune
from rocketry_otel._cli.main import main
from rocketry_otel._delivery.state import State
from tests.support.histories import close, red_birds_repo, write_by_red_bird
from tests.support.processes import run_command
from tests.support.runs import COMMAND, START, on_terminal, record
from tests.support.stored_states import write_state

Output = pytest.CaptureFixture[str]


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A repository of ten runs, whose delivery is over."""
    monkeypatch.setenv("ROCKETRY_OTEL_CATCH_UP", "0s")
    url = f"sqlite:///{tmp_path}/tasks.db"
    repo = open_repository(url)
    for number in range(10):
        repo.add(record("run", number * 10, f"r{number}"))
        repo.add(record("success", number * 10 + 1, f"r{number}"))
    return url


def count(url: str) -> int:
    """Return how many records are there."""
    return len(list(open_repository(url, read_only=True)))


def test_yes(url: str, capsys: Output) -> None:
    """The number of records, and they are gone; the newest of each action stays."""
    assert main(["prune", "--repo", url, "--keep", "1d", "--yes"]) == 0
    out = capsys.readouterr().out
    assert out == "18 records are to be removed.\n18 records were removed.\n"
    assert count(url) == 2
    assert main(["prune", "--repo", url, "--keep", "1", "--yes"]) == 0
    assert capsys.readouterr().out == "No record is old enough to be removed.\n"


def test_age_and_count_must_be_some(url: str, capsys: Output) -> None:
    """Anything else is refused with status 2, and so is none."""
    assert main(["prune", "--repo", url, "--keep", "0"]) == 2
    assert "'0' is neither an age such as" in capsys.readouterr().err
    assert main(["prune", "--repo", url]) == 2
    assert "--keep" in capsys.readouterr().err
    assert count(url) == 20


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "status", "left"), [(b"n\n", 1, 20), (b"\n", 1, 20), (b"y\n", 0, 10)]
)
def test_question(typed: bytes, status: int, left: int, url: str) -> None:
    """Nothing is removed without a yes."""
    found, written = on_terminal(
        ["prune", "--repo", url, "--keep", "10"], 80, typed, ROCKETRY_OTEL_CATCH_UP="0s"
    )
    assert (found, count(url)) == (status, left)
    assert "10 records are to be removed.\nRemove them? [y/N]: " in written


def test_no(url: str, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    """Status 1, and nothing is removed."""
    monkeypatch.setattr(prune.click, "confirm", lambda *_, **__: False)
    assert main(["prune", "--repo", url, "--keep", "10"]) == 1
    assert capsys.readouterr().err.endswith("rocketry-otel: nothing was removed\n")
    assert count(url) == 20


def test_nobody_answers(url: str) -> None:
    """Without a terminal, the question is not answered: nothing is removed."""
    done = run_command(
        [*COMMAND, "prune", "--repo", url, "--keep", "10"], {"ROCKETRY_OTEL_CATCH_UP": "0s"}
    )
    assert (done.returncode, count(url)) == (130, 20)
    assert "Traceback" not in done.stderr


def test_what_waits_stays(url: str, capsys: Output) -> None:
    """Records since the oldest that waits."""
    write_state(url, ["traces c"], [("traces c", (START + 55) * 10**9, 5)])
    assert main(["prune", "--repo", url, "--keep", "1", "--yes"]) == 0
    out, err = capsys.readouterr()
    assert out.endswith("12 records were removed.\n")
    assert err == ("rocketry-otel: records since 2023-11-14T22:14:15Z stay, because 5 items wait\n")
    assert count(url) == 8


def test_all_is_delivered(url: str, capsys: Output) -> None:
    """With a state in which nothing waits, nothing is held back."""
    write_state(url, ["traces c"])
    assert main(["prune", "--repo", url, "--keep", "2", "--yes"]) == 0
    assert capsys.readouterr() == (
        "18 records are to be removed.\n18 records were removed.\n", "",
    )  # fmt: skip


def test_delivery_that_is_not_known(
    url: str, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records that may be sent again stay."""
    monkeypatch.setenv("ROCKETRY_OTEL_CATCH_UP", f"{int(time.time()) - START + 1000}s")
    assert main(["prune", "--repo", url, "--keep", "1", "--yes"]) == 0
    out, err = capsys.readouterr()
    assert out == "No record is old enough to be removed.\n"
    assert "because their delivery is not known (ROCKETRY_OTEL_CATCH_UP)" in err


def test_another_process_reads(url: str, capsys: Output) -> None:
    """Its lock is respected."""
    folder = write_state(url, ["traces c"])
    with State(folder).lease() as is_ours:
        assert is_ours
        assert main(["prune", "--repo", url, "--keep", "2", "--yes"]) == 1
    assert capsys.readouterr().err == (
        "rocketry-otel: another process reads the repository at present: try again later\n"
    )
    assert count(url) == 20


@pytest.mark.parametrize("kind", ["json", "sqlite", "postgresql"])
def test_repository_of_red_bird(
    kind: str, make_url: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    """Its records are removed, its columns stay, and Red Bird goes on with it."""
    monkeypatch.setenv("ROCKETRY_OTEL_CATCH_UP", "0s")
    url = make_url(kind)
    for number in range(6):
        write_by_red_bird(url, action="inaction", created=START + number, run_id=f"r{number}")
    assert main(["prune", "--repo", url, "--keep", "2", "--yes"]) == 0
    assert capsys.readouterr().out == "4 records are to be removed.\n4 records were removed.\n"
    write_by_red_bird(url, action="inaction", created=START + 6, run_id="r6")
    repo = red_birds_repo(url)
    assert sorted(record.run_id for record in repo.filter_by().all()) == ["r4", "r5", "r6"]
    close(repo)


def test_csv_file_of_red_bird_stays(tmp_path: Path, capsys: Output) -> None:
    """Red Bird takes no lock when it adds a row: the reason, a cure and status 2."""
    url = f"csv://{tmp_path}/its"
    write_by_red_bird(url)
    assert main(["prune", "--repo", url, "--keep", "1", "--yes"]) == 2
    assert capsys.readouterr().err == (
        "rocketry-otel: records cannot be removed from a CSV file that Red Bird has made: it adds "
        "rows without a lock, and a row that it adds meanwhile would be lost. Stop the application "
        "and move the file away: it begins a new one\n"
    )


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_other_kinds(
    kind: str, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are pruned as well."""
    monkeypatch.setenv("ROCKETRY_OTEL_CATCH_UP", "0s")
    url = f"{kind}://{tmp_path}/its"
    repo = open_repository(url)
    for number in range(4):
        repo.add(record("inaction", number, f"r{number}"))
    assert main(["prune", "--repo", url, "--keep", "2", "--yes"]) == 0
    assert capsys.readouterr().out.endswith("2 records were removed.\n")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (prune.RepositoryError("known"), "known"),
        (OSError("full"), "the records cannot be removed: OSError: full"),
    ],
)
def test_error_in_the_midst(
    error: Exception, words: str, url: str, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    """A sentence and status 2."""

    def fail(*_: object, **__: object) -> None:
        raise error

    write_state(url, ["traces c"])
    monkeypatch.setattr(prune, "prune", fail)
    assert main(["prune", "--repo", url, "--keep", "2", "--yes"]) == 2
    assert capsys.readouterr().err == f"rocketry-otel: {words}\n"


def test_error_of_the_repository(url: str, monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    """One that has a message of its own is shown with it alone."""

    def fail(*_: object, **__: object) -> None:
        raise RepositoryError("another program has replaced the file")

    monkeypatch.setattr(prune, "prune", fail)
    assert main(["prune", "--repo", url, "--keep", "1d", "--yes"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "rocketry-otel: another program has replaced the file"
    assert count(url) == 20

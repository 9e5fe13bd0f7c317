"""The command ``rocketry-otel replay``."""

from __future__ import annotations

import sys
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from rocketry_otel import RepositoryError
from rocketry_otel._cli import replay
from rocketry_otel._cli.main import main
from tests.support.otlp_receiver import OTLPReceiver, PartialSuccess
from tests.support.terminal import Terminal


def test_all_is_accepted(
    url: str, receiver: OTLPReceiver, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 0, a summary, and nothing else where there is no terminal."""
    assert main(["replay", "--repo", url]) == 0
    out, err = capsys.readouterr()
    assert (len(receiver.spans), len(receiver.log_records), err) == (2, 4, "")
    first, second = out.splitlines()
    assert first.startswith(f"{url}: 4 records with the ends of 2 runs, in ")
    place = receiver.http_endpoint
    assert second == (
        f"Accepted: 2 spans and 4 log records, by {place}/v1/traces and {place}/v1/logs."
    )


def test_repository_may_be_a_setting(
    url: str,
    receiver: OTLPReceiver,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The one that the application uses; without any, an error."""
    assert main(["replay"]) == 2
    assert capsys.readouterr() == (
        "", "rocketry-otel: no repository is given: use --repo URL or ROCKETRY_OTEL_REPO\n",
    )  # fmt: skip
    monkeypatch.setenv("ROCKETRY_OTEL_REPO", url)
    assert main(["replay", "--task", "etl", "--since", "2023-11-14T22:13:20.500Z"]) == 0
    assert [it.span.name for it in receiver.spans] == ["run etl"]
    assert len(receiver.log_records) == 1


def test_refusal_gives_status_1(
    url: str, receiver: OTLPReceiver, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 1, and why."""
    receiver.behave(PartialSuccess(1, "too old"))
    assert main(["replay", "--repo", url]) == 1
    _, accepted, refused = capsys.readouterr().out.splitlines()
    assert accepted.startswith("Accepted: 1 spans and 3 log records, by ")
    assert refused == "Refused: 2, since: too old"


def test_unreadable_records_give_status_1(
    url: str, receiver: OTLPReceiver, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 1, and the summary has the number."""
    with Path(url.removeprefix("csv://")).open("a") as file:
        file.write("what is no row\r\n" * 2)
    assert main(["replay", "--repo", url]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "Left out: 2 records that cannot be read."
    assert len(receiver.spans) == 2


def test_outage_gives_status_1(
    url: str, receiver: OTLPReceiver, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 1 when patience ends, and the number of items that wait."""
    receiver.stop()
    assert main(["replay", "--repo", url, "--patience", "0s"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "Not accepted when it ended: 6 items."
    assert lines[3].startswith(f"Nothing got through to {receiver.http_endpoint}/v1/traces: ")


def test_dry_run(url: str, receiver: OTLPReceiver, capsys: pytest.CaptureFixture[str]) -> None:
    """It shows the numbers, and sends nothing."""
    assert main(["replay", "--repo", url, "--dry-run", "--until=2023-11-14T22:13:21Z"]) == 0
    assert capsys.readouterr().out == (
        f"{url}: 2 records with the ends of 1 runs would be sent; nothing was.\n"
    )
    assert receiver.requests == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--since=soon"], "argument --since: 'soon' is neither an age such as 45s, "),
        (["--since=99999999999w"], "argument --since: '99999999999w' is neither "),
        (["--until="], "argument --until: '' is neither an age "),
        (["--until=2026-13-01"], "argument --until: '2026-13-01' is neither "),
        (["--patience=5"], "argument --patience: '5' is not a duration such as 45s, "),
        (["--patience=-5s"], "argument --patience: '-5s' is not a duration "),
    ],
)
def test_bad_arguments_are_refused(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 2, and the allowed values."""
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["replay", *arguments])
    assert f"rocketry-otel replay: error: {words}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--repo=memory://"], "memory://: a repository in memory ends with its process"),
        (["--repo=csv:///no/such.csv"], "cannot open csv:///no/such.csv: there is no such file"),
        (["--repo=postgresql://u:secret@127.0.0.1:1/d"], "cannot open postgresql://u:***@127."),
        (["--since=1h", "--until=2h"], "since ("),
        (["--refused", "--task=x"], "--refused sends all dead letters, and so allows no --since, "),
        (
            ["--refused", "--since=1h"],
            "--refused sends all dead letters, and so allows no --since, ",
        ),
    ],
)
def test_impossible_requests_are_refused(
    arguments: list[str], words: str, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 2, one line with the reason, and no password."""
    assert main(["replay", "--repo", url, *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("rocketry-otel: ")) == ("", 1)
    assert err.startswith(f"rocketry-otel: {words}")
    assert "secret" not in err


@pytest.mark.parametrize(
    ("text", "ago"), [("90m", timedelta(minutes=90)), (" 2D ", timedelta(days=2))]
)
def test_age_is_a_time_before_now(text: str, ago: timedelta) -> None:
    """An age counts back from now."""
    assert abs(datetime.now(timezone.utc) - ago - replay._time(text)) < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-24T03:00Z", datetime(2026, 11, 24, 3, tzinfo=timezone.utc)),
        ("2026-11-24 03:00+02:00", datetime(2026, 11, 24, 1, tzinfo=timezone.utc)),
        ("2026-11-24T03:00", datetime(2026, 11, 23, 22, tzinfo=timezone.utc)),
        ("2026-11-24", datetime(2026, 11, 23, 19, tzinfo=timezone.utc)),
    ],
)
def test_time_has_a_zone_or_is_local(
    text: str, expected: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A date alone is its midnight."""
    monkeypatch.setenv("TZ", "UTC-5")
    time.tzset()
    try:
        assert replay._time(text) == expected
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()


def test_error_in_the_middle_shows_the_result(
    url: str,
    receiver: OTLPReceiver,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Status 2 and the summary so far, without a password in a driver's message."""

    def fail(_: Any, **how: Any) -> Any:
        how["progress"](replay.replay(_, dry_run=True))
        raise RepositoryError("the repository cannot be read: password is p4ss")

    monkeypatch.setattr(replay, "replay_refused", fail)
    monkeypatch.setattr(replay, "without_secrets", lambda words, _: words.replace("p4ss", "*"))
    assert main(["replay", "--repo", url, "--refused"]) == 2
    out, err = capsys.readouterr()
    assert out.startswith(f"{url}: 4 records with the ends of 2 runs, in ")
    assert err == "rocketry-otel: the repository cannot be read: password is *\n"


def test_interrupt_before_the_beginning(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 130, and no output."""

    def interrupt(_: str) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(replay, "open_history", interrupt)
    assert main(["replay", "--repo", url]) == 130
    assert capsys.readouterr() == ("", "")


def test_interrupt_after_the_beginning(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 130, and the last result."""

    def interrupted(repo: Any, **how: Any) -> Any:
        replay.replay_refused(repo, progress=how["progress"])
        raise KeyboardInterrupt

    monkeypatch.setattr(replay, "replay", interrupted)
    assert main(["replay", "--repo", url]) == 130
    assert capsys.readouterr().out.startswith(f"{url}: 0 records with the ends of 0 runs, in ")


@pytest.mark.usefixtures("receiver")
def test_without_any_output(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Status 0 without stdout and stderr."""
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["replay", "--repo", url]) == 0


@pytest.mark.usefixtures("receiver")
def test_bar_is_erased(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each drawing replaces the one before, and the last one is erased."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert main(["replay", "--repo", url]) == 0
    first, *drawn, last = terminal.getvalue().split("\r\x1b[K")
    assert (first, last) == ("", "")
    assert drawn[0] == "[........................]   0%  0 reco"
    assert drawn[-1] == "[########################] 100%  4 reco"

"""Sending again what was refused."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rocketry_otel import (
    Replay,
    RepositoryError,
    Settings,
    TaskEventRecord,
    open_repository,
    replay_refused,
)
from rocketry_otel._cli.main import main
from rocketry_otel._delivery.state import State
from rocketry_otel._delivery.state_path import state_folder
from rocketry_otel._history.open_history import open_history
from tests.support.histories import log_records_of, named_by_the_environment, send_live, spans_of
from tests.support.otlp_receiver import Fault, Ok, OTLPReceiver, PartialSuccess, Status

TRACES = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[OTLPReceiver]:
    """The collector."""
    with named_by_the_environment(monkeypatch) as receiver:
        yield receiver


@pytest.fixture
def url(tmp_path: Path) -> str:
    """The URL of the application's repository."""
    return f"csv://{tmp_path}/tasks.csv"


def refuse_spans(_: int, signal: str) -> Fault:
    """Reject one span of each request, as a collector does with an odd one."""
    return PartialSuccess(1, "odd") if signal == "traces" else Ok()


@pytest.fixture
def refused(url: str, receiver: OTLPReceiver) -> list[bytes]:
    """The spans of three runs, of which the collector has rejected one without naming it."""
    receiver.behave(refuse_spans)
    send_live(open_repository(url), is_accepted=False)
    spans = spans_of(receiver)
    assert len(spans) == 3
    receiver.clear()
    receiver.behave(Ok())
    return spans


def kept(url: str) -> list[tuple[str, str]]:
    """Return the channel and the task of all dead letters."""
    with open_history(url) as repo:
        folder = state_folder(repo, None)
    assert folder is not None
    return [(channel, one.task_name) for channel, one in State(folder).refused.all()]


def again(url: str, **how: Any) -> Replay:
    """Send the dead letters again."""
    with open_history(url) as repo:
        return replay_refused(repo, **how)


def test_accepted_dead_letters_are_removed(
    url: str, refused: list[bytes], receiver: OTLPReceiver
) -> None:
    """The spans are the same to the byte, and nothing else is sent."""
    channel = f"traces {receiver.http_endpoint}/v1/traces"
    assert sorted(kept(url)) == [(channel, name) for name in ("bad", "good", "idle")]
    result = again(url)
    assert spans_of(receiver) == refused
    assert (log_records_of(receiver), receiver.metric_requests) == ([], [])
    assert (result.spans, result.log_records, result.complete) == (3, 0, True)
    assert kept(url) == []
    assert again(url) == Replay(destinations=(), seconds=pytest.approx(0, abs=1))


def test_dead_letters_that_are_refused_again_stay(
    url: str, refused: list[bytes], receiver: OTLPReceiver
) -> None:
    """Any of a batch may be the refused one."""
    receiver.behave(refuse_spans)
    result = again(url)
    assert (result.refused, result.spans, result.complete) == ({"odd": 1}, 2, False)
    assert len(kept(url)) == 3


@pytest.mark.usefixtures("refused")
def test_dead_letters_stay_in_an_outage(url: str, receiver: OTLPReceiver) -> None:
    """All of them stay."""
    receiver.behave(Status(503))
    result = again(url, patience=0.2)
    assert (result.waiting, result.complete, result.left_out) == (3, False, 0)
    assert len(kept(url)) == 3


@pytest.mark.usefixtures("refused")
def test_dry_run_changes_nothing(
    url: str, receiver: OTLPReceiver, capsys: pytest.CaptureFixture[str]
) -> None:
    """It counts what would be sent, from the command line as well."""
    assert main(["replay", "--repo", url, "--refused", "--dry-run"]) == 0
    assert capsys.readouterr().out == (
        f"{url}: 3 records with the ends of 3 runs would be sent; nothing was.\n"
    )
    assert (receiver.requests, len(kept(url))) == ([], 3)
    assert main(["replay", "--repo", url, "--refused"]) == 0
    assert (len(receiver.spans), kept(url)) == (3, [])


@pytest.mark.usefixtures("refused")
def test_moved_collector_gets_the_dead_letters(
    url: str, receiver: OTLPReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of an address that is not used any more go to the new one."""
    with OTLPReceiver(grpc=False) as other:
        monkeypatch.setenv(TRACES, f"{other.http_endpoint}/v1/traces")
        assert again(url).complete
        assert (len(other.spans), receiver.requests, kept(url)) == (3, [], [])


@pytest.mark.usefixtures("refused", "receiver")
@pytest.mark.parametrize("why", ["excluded", "nowhere", "gone"])
def test_unsent_dead_letters_stay(
    why: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were not accepted: the result counts them."""
    before = kept(url)
    settings = Settings()
    if why == "excluded":
        settings = Settings(exclude=("*",))
    elif why == "nowhere":
        monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    else:
        header = ",".join(TaskEventRecord.__fields__)
        (tmp_path / "tasks.csv").write_text(f"{header}\r\n", encoding="utf-8")
    for how in ({"dry_run": True}, {}) if why != "nowhere" else ({},):
        result = again(url, settings=settings, **how)
        assert (result.left_out, result.spans, result.complete) == (3, 0, False)
    assert kept(url) == before


@pytest.mark.usefixtures("receiver")
def test_replay_without_dead_letters(url: str, tmp_path: Path) -> None:
    """Nothing was refused, or nothing was ever sent."""
    repo = open_repository(url)
    assert again(url).complete
    assert [path.name for path in tmp_path.iterdir()] == ["tasks.csv"]
    send_live(repo)
    assert again(url).complete


def test_memory_repository_has_no_dead_letters(receiver: OTLPReceiver) -> None:
    """They end with the process."""
    assert replay_refused(open_repository("memory://")).records == 0
    assert receiver.requests == []


@pytest.mark.usefixtures("refused", "receiver")
def test_unreadable_dead_letters_are_an_error(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error has the reason: here, a newer version wrote the file."""
    (database,) = tmp_path.glob("tasks.csv.delivery/*.db")
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(RepositoryError, match=r"^the dead letters cannot be read at present: .*"):
        again(url)
    assert main(["replay", "--repo", url, "--refused"]) == 2
    assert "newer version" in capsys.readouterr().err

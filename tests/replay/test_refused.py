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
    """Where an application keeps its records."""
    return f"csv://{tmp_path}/tasks.csv"


def refuse_spans(_: int, signal: str) -> Fault:
    """Leave out one span of each request, as a collector does that finds it odd."""
    return PartialSuccess(1, "odd") if signal == "traces" else Ok()


@pytest.fixture
def refused(url: str, receiver: OTLPReceiver) -> list[bytes]:
    """The spans of three runs, of which the collector has refused one, and did not say which."""
    receiver.behave(refuse_spans)
    send_live(open_repository(url), is_accepted=False)
    spans = spans_of(receiver)
    assert len(spans) == 3
    receiver.clear()
    receiver.behave(Ok())
    return spans


def kept(url: str) -> list[tuple[str, str]]:
    """Return the channel and the task of all that is set aside."""
    with open_history(url) as repo:
        folder = state_folder(repo, None)
    assert folder is not None
    return [(channel, one.task_name) for channel, one in State(folder).refused.all()]


def again(url: str, **how: Any) -> Replay:
    """Send again what was refused."""
    with open_history(url) as repo:
        return replay_refused(repo, **how)


def test_what_is_accepted_now_is_no_longer_set_aside(
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


def test_what_is_refused_again_stays_set_aside(
    url: str, refused: list[bytes], receiver: OTLPReceiver
) -> None:
    """Any of a batch may be what was refused."""
    receiver.behave(refuse_spans)
    result = again(url)
    assert (result.refused, result.spans, result.complete) == ({"odd": 1}, 2, False)
    assert len(kept(url)) == 3


@pytest.mark.usefixtures("refused")
def test_a_collector_that_is_away_changes_nothing(url: str, receiver: OTLPReceiver) -> None:
    """All of it stays set aside."""
    receiver.behave(Status(503))
    result = again(url, patience=0.2)
    assert (result.waiting, result.complete, result.left_out) == (3, False, 0)
    assert len(kept(url)) == 3


@pytest.mark.usefixtures("refused")
def test_a_dry_run_changes_nothing(
    url: str, receiver: OTLPReceiver, capsys: pytest.CaptureFixture[str]
) -> None:
    """It tells how much would be sent, from the command line as well."""
    assert main(["replay", "--repo", url, "--refused", "--dry-run"]) == 0
    assert capsys.readouterr().out == (
        f"{url}: 3 records with the ends of 3 runs would be sent; nothing was.\n"
    )
    assert (receiver.requests, len(kept(url))) == ([], 3)
    assert main(["replay", "--repo", url, "--refused"]) == 0
    assert (len(receiver.spans), kept(url)) == (3, [])


@pytest.mark.usefixtures("refused")
def test_a_collector_may_have_moved(
    url: str, receiver: OTLPReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was refused at an address that is not used any more goes to the new one."""
    with OTLPReceiver(grpc=False) as other:
        monkeypatch.setenv(TRACES, f"{other.http_endpoint}/v1/traces")
        assert again(url).complete
        assert (len(other.spans), receiver.requests, kept(url)) == (3, [], [])


@pytest.mark.usefixtures("refused", "receiver")
@pytest.mark.parametrize("why", ["excluded", "nowhere", "gone"])
def test_what_is_not_sent_stays_set_aside(
    why: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was not accepted: it is told of, and not forgotten."""
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
def test_nothing_is_set_aside(url: str, tmp_path: Path) -> None:
    """Neither where nothing was refused, nor where nothing was ever sent."""
    repo = open_repository(url)
    assert again(url).complete
    assert [path.name for path in tmp_path.iterdir()] == ["tasks.csv"]
    send_live(repo)
    assert again(url).complete


def test_a_repository_in_memory(receiver: OTLPReceiver) -> None:
    """Nothing of it outlives its process."""
    assert replay_refused(open_repository("memory://")).records == 0
    assert receiver.requests == []


@pytest.mark.usefixtures("refused", "receiver")
def test_what_was_refused_cannot_be_read(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is an error that says why: here, it was written by a version to come."""
    (database,) = tmp_path.glob("tasks.csv.delivery/*.db")
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(RepositoryError, match=r"^what was refused is not known at present: .*"):
        again(url)
    assert main(["replay", "--repo", url, "--refused"]) == 2
    assert "newer version" in capsys.readouterr().err

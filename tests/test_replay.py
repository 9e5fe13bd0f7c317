"""What a replay sends: the same as was sent live, as far as the model keeps it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from redbird.repos import MemoryRepo
from rocketry.log import (
    LogRecord,
    MinimalRecord,
    MinimalRunRecord,
    RunRecord,
    TaskLogRecord,
    TaskRunRecord,
)

from rocketry_otel import (
    Replay,
    RepositoryError,
    Settings,
    SettingsError,
    TaskEventRecord,
    open_repository,
    replay,
)
from rocketry_otel._identity import identity_of
from rocketry_otel._repositories._reading import open_history
from tests.support.histories import (
    TASKS,
    close,
    log_records_of,
    red_birds_repo,
    send_live,
    spans_of,
    write_history,
)
from tests.support.otlp_receiver import OTLPReceiver, attributes_of

NO_RUN_ID = "runs without a run id, told apart by their order and place alone: 3"
NO_TRACEBACK = "failures without a traceback: 1"
NO_MESSAGE = "records without a message, in place of which Rocketry's usual one is sent: 6"
NOTHING_ADDED = (
    "runs without mode of execution, links and attributes, which TaskEventRecord alone keeps: 3"
)
LACKING = {
    MinimalRecord: (NO_TRACEBACK, NO_MESSAGE, NOTHING_ADDED, NO_RUN_ID),
    MinimalRunRecord: (NO_TRACEBACK, NO_MESSAGE, NOTHING_ADDED),
    LogRecord: (NOTHING_ADDED, NO_RUN_ID),
    TaskLogRecord: (NOTHING_ADDED, NO_RUN_ID),
    RunRecord: (NOTHING_ADDED,),
    TaskRunRecord: (NOTHING_ADDED,),
    TaskEventRecord: (),
}


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> Iterator[OTLPReceiver]:
    """Where an application sends to."""
    with OTLPReceiver(grpc=False) as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.http_endpoint)
        yield receiver


@pytest.fixture
def later() -> Iterator[OTLPReceiver]:
    """Where a replay sends to."""
    with OTLPReceiver(grpc=False) as receiver:
        yield receiver


@pytest.fixture
def to_later(later: OTLPReceiver, monkeypatch: pytest.MonkeyPatch) -> OTLPReceiver:
    """Where a replay sends to, in a test that sends nothing live."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", later.http_endpoint)
    return later


def replayed(url: str, to: OTLPReceiver, **how: Any) -> Replay:
    """Replay a repository to a receiver."""
    with pytest.MonkeyPatch.context() as patch, open_history(url) as repo:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", to.http_endpoint)
        return replay(repo, **how)


def ids_of(receiver: OTLPReceiver) -> list[tuple[str, bytes, bytes]]:
    """Return the name, trace id and span id of every span that was taken in."""
    found = [(it.span.name, it.span.trace_id, it.span.span_id) for it in receiver.spans]
    return sorted(found)


@pytest.mark.parametrize("kind", ["csv", "json", "sqlite"])
def test_what_was_sent_live_is_sent_again_to_the_byte(
    kind: str, live: OTLPReceiver, later: OTLPReceiver, tmp_path: Path
) -> None:
    """Spans and log records are the same with their resource and scope; no metric is sent."""
    slashes = "///" if kind == "sqlite" else "//"
    url = f"{kind}:{slashes}{tmp_path}/tasks"
    repo = open_repository(url)
    send_live(repo)
    close(repo)
    result = replayed(url, later)
    assert (result.records, result.runs, result.spans, result.log_records) == (6, 3, 3, 6)
    assert (result.complete, result.read, result.waiting, result.refused) == (True, True, 0, {})
    assert (result.notes, result.unsampled, result.error) == ((), 0, None)
    assert spans_of(later) == spans_of(live)
    assert log_records_of(later) == log_records_of(live)
    assert (len(later.spans), len(later.log_records), later.metric_requests) == (3, 6, [])


def test_a_repository_that_is_open_can_be_replayed(live: OTLPReceiver) -> None:
    """That of a handler, for example, even in memory; it is sent twice, alike."""
    repo = MemoryRepo(model=TaskEventRecord)
    send_live(repo, ["bad"])
    first, records = spans_of(live), log_records_of(live)
    live.clear()
    assert replay(repo).complete
    assert (spans_of(live), log_records_of(live)) == (first, records)


@pytest.mark.parametrize("model", LACKING)
def test_ids_are_those_of_live_with_each_model(
    model: Any, live: OTLPReceiver, later: OTLPReceiver, tmp_path: Path
) -> None:
    """All runs and records are sent, and what the model does not keep is said."""
    url = f"csv://{tmp_path}/tasks.csv"
    send_live(red_birds_repo(url, model))
    result = replayed(url, later)
    assert ids_of(later) == ids_of(live)
    assert len(later.spans) == 3
    ids = [
        sorted((one.log_record.trace_id, one.log_record.event_name) for one in it.log_records)
        for it in (later, live)
    ]
    assert ids[0] == ids[1]
    assert result.notes == tuple(sorted(LACKING[model]))
    assert result.complete


@pytest.mark.parametrize("kind", ["csv", "json", "sqlite"])
def test_what_an_application_without_this_project_wrote(
    kind: str, to_later: OTLPReceiver, tmp_path: Path
) -> None:
    """Its runs become spans with the ids that they would have had, in each repository."""
    url = f"{kind}:{'///' if kind == 'sqlite' else '//'}{tmp_path}/tasks"
    repo = red_birds_repo(url, MinimalRunRecord)
    write_history(repo)
    began = [item for item in repo.filter_by().all() if item.action == "run"]
    close(repo)
    result = replayed(url, to_later)
    assert (result.records, result.runs, result.complete) == (6, 3, True)
    expected = []
    for item in began:
        identity = identity_of(item.task_name, item.run_id, int(item.created * 1e9))
        ids = (bytes.fromhex(identity.trace_hex), bytes.fromhex(identity.span_hex))
        expected.append((f"run {item.task_name}", *ids))
    assert ids_of(to_later) == sorted(expected)
    ended = {it.span.name: attributes_of(it.span.attributes) for it in to_later.spans}
    assert {name: one["rocketry.action"] for name, one in ended.items()} == {
        "run good": "success",
        "run bad": "fail",
        "run idle": "inaction",
    }


# Seconds since the epoch of the first record of a history that is made here.
START = 1_700_000_000


@pytest.fixture
def hourly(tmp_path: Path) -> str:
    """A history of four hours: a run that takes an hour, and one that begins and ends at once."""
    url = f"csv://{tmp_path}/tasks.csv"
    repo = open_repository(url)
    for name, action, hour in (
        ("etl-long", "run", 0),
        ("report", "run", 0.5),
        ("report", "success", 0.5),
        ("etl-long", "success", 1),
        ("etl-short", "run", 3),
        ("etl-short", "success", 3),
    ):
        created = START + hour * 3600
        repo.add(TaskEventRecord(task_name=name, action=action, created=created, run_id=name))
    return url


def at(hours: float) -> datetime:
    """Return a time so many hours after the first record."""
    return datetime.fromtimestamp(START, timezone.utc) + timedelta(hours=hours)


@pytest.mark.parametrize(
    ("how", "names", "records"),
    [
        ({}, {"etl-long", "report", "etl-short"}, 6),
        ({"since": at(1)}, {"etl-long", "etl-short"}, 3),
        ({"since": at(1.0001)}, {"etl-short"}, 2),
        ({"until": at(0.9999)}, {"report"}, 3),
        ({"until": at(1)}, {"etl-long", "report"}, 4),
        ({"since": at(0.5), "until": at(0.5)}, {"report"}, 2),
        ({"since": at(4)}, set(), 0),
        ({"task": "etl-*"}, {"etl-long", "etl-short"}, 4),
        ({"task": "?eport"}, {"report"}, 2),
        ({"settings": Settings(include=("etl-*",), exclude=("*-long",))}, {"etl-short"}, 2),
        ({"since": datetime.min.replace(tzinfo=timezone.utc), "task": "no"}, set(), 0),
    ],
)
def test_only_what_is_asked_for_is_sent(
    how: dict[str, Any], names: set[str], records: int, hourly: str, to_later: OTLPReceiver
) -> None:
    """Bounds belong to the time between them; a pattern and the settings choose tasks."""
    result = replayed(hourly, to_later, **how)
    assert {it.span.name for it in to_later.spans} == {f"run {name}" for name in names}
    assert (result.records, result.runs, len(to_later.log_records)) == (
        records,
        len(names),
        records,
    )
    assert result.complete


def test_a_run_that_began_before_is_whole(hourly: str, to_later: OTLPReceiver) -> None:
    """Its span begins when the run did."""
    replayed(hourly, to_later, since=at(0.75), until=at(2))
    (received,) = to_later.spans
    assert received.span.start_time_unix_nano == START * 10**9
    assert received.span.end_time_unix_nano == (START + 3600) * 10**9


def test_a_time_without_a_zone_is_local(
    hourly: str, to_later: OTLPReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it stands on the clock of whoever asks."""
    monkeypatch.setenv("TZ", "UTC-5")
    time.tzset()
    try:
        since = datetime(2023, 11, 14, 22, 13, 20) + timedelta(hours=5 + 3)  # noqa: DTZ001
        assert replayed(hourly, to_later, since=since).records == 2
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()


def test_since_later_than_until(hourly: str, to_later: OTLPReceiver) -> None:
    """It is an error that says so, and nothing is sent."""
    words = r"^since \(2023-11-15 00:13:20\+00:00\) is later than until \(2023-11-14 23:13:20"
    with pytest.raises(SettingsError, match=words):
        replayed(hourly, to_later, since=at(2), until=at(1))
    assert to_later.requests == []


def test_a_dry_run_sends_nothing(
    hourly: str, to_later: OTLPReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts what would be sent, also where nothing can be."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    result = replayed(hourly, to_later, dry_run=True, task="etl-*")
    assert (result.records, result.runs, result.spans, result.log_records) == (4, 2, 0, 0)
    assert (result.complete, result.destinations, result.waiting) == (True, (), 0)
    assert to_later.requests == []


def test_an_empty_repository(to_later: OTLPReceiver, tmp_path: Path) -> None:
    """Nothing is sent, which is all there is."""
    open_repository(f"csv://{tmp_path}/x.csv")
    result = replayed(f"csv://{tmp_path}/x.csv", to_later)
    assert (result.records, result.complete, result.fraction) == (0, True, 1.0)
    assert to_later.requests == []


def test_progress_is_shown_to_the_end(hourly: str, to_later: OTLPReceiver) -> None:
    """What is shown last is what became of it."""
    shown: list[Replay] = []
    result = replayed(hourly, to_later, progress=shown.append)
    assert shown[0].records == 0
    last = shown[-1]
    assert (last.records, last.spans, last.log_records, last.complete) == (6, 3, 6, True)
    assert (last.fraction, last.destinations) == (1.0, result.destinations)
    assert result.destinations == tuple(
        f"{to_later.http_endpoint}/v1/{signal}" for signal in ("traces", "logs")
    )


class Broken(MemoryRepo):
    """A repository whose reading fails."""

    def query_items(self, query: Any) -> Any:
        """Fail."""
        raise OSError("the disk is gone")

    collection: Any = None


def test_a_repository_that_cannot_be_read(to_later: OTLPReceiver) -> None:
    """It is an error of ours that says why, and what was sent so far is told."""
    shown: list[Replay] = []
    with pytest.raises(RepositoryError, match=r"^the repository cannot be read: .*") as caught:
        replay(Broken(model=TaskEventRecord), progress=shown.append)
    assert caught.value.__cause__ is not None
    assert (shown[-1].read, shown[-1].complete, shown[-1].records) == (False, False, 0)


def test_records_that_are_added_meanwhile_do_no_harm(
    live: OTLPReceiver, later: OTLPReceiver, tmp_path: Path
) -> None:
    """What was there when it began is sent, whole."""
    url = f"sqlite:///{tmp_path}/tasks.db"
    repo = open_repository(url)
    send_live(repo)

    def add(_: Replay) -> None:
        repo.add(TaskEventRecord(task_name="new", action="run", created=time.time()))

    result = replayed(url, later, progress=add)
    close(repo)
    assert result.complete
    assert set(spans_of(live)) <= set(spans_of(later))
    assert {it.span.name for it in later.spans} == {f"run {name}" for name in TASKS}

"""Which records of a history are sent."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from rocketry_otel import Replay, Settings, SettingsError, TaskEventRecord, open_repository
from tests.support.histories import START, named_by_the_environment, replayed
from tests.support.otlp_receiver import OTLPReceiver


@pytest.fixture
def to_later(monkeypatch: pytest.MonkeyPatch) -> Iterator[OTLPReceiver]:
    """The destination of a replay."""
    with named_by_the_environment(monkeypatch) as receiver:
        yield receiver


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
def test_only_chosen_records_are_sent(
    how: dict[str, Any], names: set[str], records: int, hourly: str, to_later: OTLPReceiver
) -> None:
    """Bounds are included; a pattern and the settings choose tasks."""
    result = replayed(hourly, to_later, **how)
    assert {it.span.name for it in to_later.spans} == {f"run {name}" for name in names}
    assert (result.records, result.runs, len(to_later.log_records)) == (
        records,
        len(names),
        records,
    )
    assert result.complete


def test_run_that_began_before_is_whole(hourly: str, to_later: OTLPReceiver) -> None:
    """Its span begins when the run did."""
    replayed(hourly, to_later, since=at(0.75), until=at(2))
    (received,) = to_later.spans
    assert received.span.start_time_unix_nano == START * 10**9
    assert received.span.end_time_unix_nano == (START + 3600) * 10**9


def test_time_without_a_zone_is_local(
    hourly: str, to_later: OTLPReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the time on the user's clock."""
    monkeypatch.setenv("TZ", "UTC-5")
    time.tzset()
    try:
        since = datetime(2023, 11, 14, 22, 13, 20) + timedelta(hours=5 + 3)  # noqa: DTZ001
        assert replayed(hourly, to_later, since=since).records == 2
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()


def test_since_later_than_until_is_an_error(hourly: str, to_later: OTLPReceiver) -> None:
    """Nothing is sent."""
    words = r"^since \(2023-11-15 00:13:20\+00:00\) is later than until \(2023-11-14 23:13:20"
    with pytest.raises(SettingsError, match=words):
        replayed(hourly, to_later, since=at(2), until=at(1))
    assert to_later.requests == []


def test_dry_run_sends_nothing(
    hourly: str, to_later: OTLPReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts what would be sent, also without a destination."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    result = replayed(hourly, to_later, dry_run=True, task="etl-*")
    assert (result.records, result.runs, result.spans, result.log_records) == (4, 2, 0, 0)
    assert (result.complete, result.destinations, result.waiting) == (True, (), 0)
    assert to_later.requests == []


def test_progress_is_shown_to_the_end(hourly: str, to_later: OTLPReceiver) -> None:
    """The last one is the result."""
    shown: list[Replay] = []
    result = replayed(hourly, to_later, progress=shown.append)
    assert shown[0].records == 0
    last = shown[-1]
    assert (last.records, last.spans, last.log_records, last.complete) == (6, 3, 6, True)
    assert (last.fraction, last.destinations) == (1.0, result.destinations)
    assert result.destinations == tuple(
        f"{to_later.http_endpoint}/v1/{signal}" for signal in ("traces", "logs")
    )


def test_unreadable_record_hides_no_other(
    hourly: str, to_later: OTLPReceiver, tmp_path: Path
) -> None:
    """All others are sent; a span without its beginning has no length.

    The result is not complete, and has the reason.
    """
    path = tmp_path / "tasks.csv"
    rows = path.read_text(encoding="utf-8").replace("report,run,", "report,run,odd")
    path.write_text(rows, encoding="utf-8")
    result = replayed(hourly, to_later)
    assert (result.records, result.runs, result.refused) == (5, 3, {})
    assert (result.unreadable, result.complete) == (1, False)
    spans = {it.span.name: it.span for it in to_later.spans}
    assert set(spans) == {"run etl-long", "run report", "run etl-short"}
    assert spans["run report"].start_time_unix_nano == spans["run report"].end_time_unix_nano

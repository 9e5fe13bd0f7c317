from __future__ import annotations

from typing import Any

import pytest
from redbird.repos import MemoryRepo
from rocketry.log import MinimalRecord, MinimalRunRecord

from rocketry_otel import OTelRepoHandler, TaskEventRecord
from rocketry_otel._history.reconstruct import HistoryReader
from rocketry_otel._history.run_lookup import NO_SPAN, RunLookup
from rocketry_otel._model.ids import RunIds, ids_of
from rocketry_otel.testing import TelemetryCapture, capture_telemetry
from tests.support.records import START, task_record

SECOND = 1_000_000_000


def nanoseconds(seconds: float) -> int:
    """Return a time of a record in nanoseconds since the epoch."""
    return int((START + seconds) * SECOND)


def history(model: Any, *rows: tuple[str, float, str | None]) -> MemoryRepo:
    """Return a repository of records: action, seconds and run id of each."""
    repo = MemoryRepo(model=model)
    for action, seconds, run_id in rows:
        fields: dict[str, Any] = {
            "task_name": "etl",
            "action": action,
            "created": START + seconds,
            "run_id": run_id,
        }
        if model is MinimalRecord:
            del fields["run_id"]
        repo.add(model(**fields))
    return repo


def steps(repo: MemoryRepo, since: float = 0.0, until: float | None = None) -> list[Any]:
    """Return the steps of the records: the change, and the begin of the run in seconds."""
    records = HistoryReader(
        repo,
        RunLookup(repo),
        nanoseconds(since),
        None if until is None else nanoseconds(until),
    )
    return [
        (one.step.change, (one.step.run.began.created - nanoseconds(0)) / SECOND)
        if one.step.run is not None and one.step.run.began is not None
        else (one.step.change, None)
        for one in records
    ]


@pytest.mark.parametrize("model", [dict, MinimalRunRecord, MinimalRecord])
def test_records_make_their_steps_again(model: Any) -> None:
    """They do so in their order, within a window of time."""
    repo = history(model, ("run", 0, "a"), ("success", 1, "a"), ("run", 2, "b"), ("fail", 3, "b"))
    assert steps(repo) == [("began", 0), ("ended", 0), ("began", 2), ("ended", 2)]
    assert steps(repo, 2, 2.5) == [("began", 2)]


@pytest.mark.parametrize("model", [dict, MinimalRunRecord, MinimalRecord])
def test_earlier_beginning_is_looked_up(model: Any) -> None:
    """It is found by its run id, else by order."""
    repo = history(model, ("run", 0, "a"), ("run", 1, "b"), ("success", 2, "b"), ("crash", 3, None))
    began = {dict: 1, MinimalRunRecord: 1, MinimalRecord: 1}[model]
    assert steps(repo, 1.5)[0] == ("ended", began)
    assert steps(repo, 2.5) == [("ended", None)]
    crashed = history(model, ("run", 0, "a"), ("crash", 3, None), ("run", 4, "b"))
    assert steps(crashed, 1) == [("ended", 0), ("began", 4)]


def test_ended_run_is_not_ended_again() -> None:
    """An ending of another run with the same id stands alone."""
    repo = history(dict, ("run", 0, "a"), ("success", 1, "a"), ("fail", 2, "a"))
    assert steps(repo, 1.5) == [("ended", None)]
    assert steps(repo) == [("began", 0), ("ended", 0), ("repeated", None)]


class Live:
    """A handler whose repository keeps trace ids, and what it has sent."""

    def __init__(self, telemetry: TelemetryCapture) -> None:
        self.telemetry = telemetry
        self.repo = MemoryRepo(model=TaskEventRecord)
        self._handler = OTelRepoHandler(self.repo, **telemetry.providers)

    def log(self, action: str, seconds: float, run_id: str | None) -> None:
        """Log a record."""
        self._handler.handle(task_record(action, run_id=run_id, created=START + seconds))

    def ids(self, since: float) -> list[tuple[str, str | None]]:
        """Return the changes since a time, and the trace id of each run."""
        records = HistoryReader(self.repo, RunLookup(self.repo), nanoseconds(since))
        return [(one.step.change, one.step.run and one.step.run.ids.trace_hex) for one in records]

    def run_lookup(self, *indices: int) -> list[Any]:
        """Return the trace ids of records."""
        return [self.repo.collection[index].trace_id for index in indices]


def test_trace_ids_withstand_a_clock_that_was_set_back(
    telemetry: TelemetryCapture,
) -> None:
    """A run that ended before it began, by its times, is the same run again."""
    live = Live(telemetry)
    live.log("run", 100, "a")
    live.log("success", 5, "a")
    (trace_id, same) = live.run_lookup(0, 1)
    assert trace_id == same
    assert live.ids(0) == [("began", trace_id), ("ended", trace_id)]
    live.repo.collection.reverse()
    assert live.ids(0) == [("ended", trace_id), ("began", trace_id)]


def test_trace_ids_show_a_second_ending(telemetry: TelemetryCapture) -> None:
    """The first ending may be before the window."""
    live = Live(telemetry)
    live.log("run", 0, "a")
    live.log("success", 1, "a")
    live.log("fail", 2, "a")
    (trace_id,) = set(live.run_lookup(0, 1, 2))
    assert live.ids(0.5)[-1][0] == "repeated"
    assert live.ids(1.5) == [("repeated", trace_id)]


def test_trace_ids_keep_a_lone_ending_alone(telemetry: TelemetryCapture) -> None:
    """Another run with the same run id is not its run."""
    live = Live(telemetry)
    live.log("fail", 1, "a")
    live.log("run", 2, "a")
    assert live.run_lookup(0) == [ids_of("etl", "a", nanoseconds(1)).trace_hex]
    assert live.ids(0)[0] == ("ended", live.run_lookup(0)[0])


def test_trace_ids_find_the_run_of_a_crash(telemetry: TelemetryCapture) -> None:
    """A crash has no run id, and newer runs may have begun since."""
    live = Live(telemetry)
    live.log("run", 0, "a")
    live.log("crash", 1, None)
    live.log("run", 2, "b")
    assert live.ids(0.5)[0] == ("ended", live.run_lookup(0)[0])
    del live.repo.collection[0]
    assert live.ids(0.5)[0][0] == "ended"


@pytest.mark.parametrize("refused", [("run",), ("run", "fail")])
def test_ending_keeps_its_ids_without_a_stored_beginning(
    refused: tuple[str, ...], telemetry: TelemetryCapture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk was full when the run began: its log record is the same to the byte."""
    live = Live(telemetry)
    insert = MemoryRepo.insert

    def refuse(repo: MemoryRepo, item: Any) -> None:
        if item.action in refused:
            raise OSError("no space left")
        insert(repo, item)

    with monkeypatch.context() as patch:
        patch.setattr(MemoryRepo, "insert", refuse)
        for seconds, action in enumerate(refused):
            with pytest.raises(OSError, match="no space left"):
                live.log(action, seconds, "a")
    live.log("success", 5, "a")
    (trace_id,) = live.run_lookup(0)
    assert trace_id == ids_of("etl", "a", nanoseconds(0)).trace_hex
    assert live.ids(0) == [("ended", trace_id)]
    for damage in ({"span_id": None}, {"span_id": "0" * 16}, {"trace_id": "x"}):
        before = live.repo.collection[0]
        live.repo.collection[0] = before.copy(update=damage)
        assert live.ids(0) == [("ended", ids_of("etl", "a", nanoseconds(5)).trace_hex)], damage
        live.repo.collection[0] = before


class Counting(MemoryRepo):
    """A repository that counts how often it is asked."""

    asked: int = 0

    def query_data(self, query: Any) -> Any:
        """Count a query."""
        self.asked += 1
        return super().query_data(query)


@pytest.mark.parametrize(("since", "most"), [(0.0, 1), (50.0, 4)])
def test_lone_endings_cost_no_query_each(since: float, most: int) -> None:
    """A long history without ids takes time in proportion to its length."""
    repo = Counting(model=MinimalRecord)
    for number in range(100):
        repo.add(MinimalRecord(task_name="etl", action="fail", created=START + number))
    repo.asked = 0
    assert len(steps(repo, since)) == 100 - int(since)
    assert repo.asked <= most


def test_run_without_a_run_id_costs_one_query() -> None:
    """Later endings are paired by order."""
    repo = history(
        MinimalRecord, ("run", 0, None), ("success", 2, None), ("fail", 3, None), ("fail", 4, None)
    )
    assert steps(repo, 1) == [("ended", 0), ("ended", None), ("ended", None)]


def test_ending_without_a_stored_beginning_keeps_its_span(telemetry: TelemetryCapture) -> None:
    """A run whose beginning the repository refused does not repeat an earlier run."""
    repo = MemoryRepo(model=TaskEventRecord)
    handler = OTelRepoHandler(repo, **telemetry.providers)
    handler.emit(task_record("run", run_id="a", created=START))
    handler.emit(task_record("success", run_id="a", created=START + 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(handler, "write", _refuse)
        with pytest.raises(OSError, match="away"):
            handler.emit(task_record("run", run_id="b", created=START + 2))
    # Rocketry logs this ending without a run id.
    handler.emit(task_record("fail", run_id=None, created=START + 3))
    records = list(HistoryReader(repo, RunLookup(repo)))
    assert [one.step.change for one in records] == ["began", "ended", "ended"]
    sent = {f"{span.context.span_id:016x}" for span in telemetry.spans}
    assert {one.fields["span_id"] for one in records[1:]} == sent


def _refuse(_: Any) -> None:
    raise OSError("the database is away")


class Crashes:
    """Crash records beside the repository: the seconds and the run id of each."""

    def __init__(self, *crashes: tuple[float, str], began: float = 0.0) -> None:
        self._ids = {run_id: ids_of("etl", run_id, nanoseconds(began)) for _, run_id in crashes}
        self._fields = [
            {
                "task_name": "etl",
                "action": "crash",
                "created": START + seconds,
                "run_id": run_id,
                "trace_id": self._ids[run_id].trace_hex,
                "span_id": self._ids[run_id].span_hex,
            }
            for seconds, run_id in crashes
        ]

    def has(self, ids: RunIds) -> bool:
        return ids in self._ids.values()

    def all(self) -> list[Any]:
        return self._fields


def actions(repo: MemoryRepo, crashes: Crashes, since: float = 0.0) -> list[tuple[Any, ...]]:
    """Return the action, the change and the run id of each record."""
    reader = HistoryReader(repo, RunLookup(repo), nanoseconds(since), crashes=crashes)
    return [(one.event.action, one.step.change, one.event.run_id) for one in reader]


def written(*rows: tuple[str, float, str | None]) -> MemoryRepo:
    """Return a repository that this project has written: action, seconds and run id of each."""
    repo = MemoryRepo(model=TaskEventRecord)
    with capture_telemetry() as telemetry:
        handler = OTelRepoHandler(repo, **telemetry.providers)
        for action, seconds, run_id in rows:
            handler.handle(task_record(action, created=START + seconds, run_id=run_id))
    return repo


def test_crash_record_beside_the_repository_comes_at_its_time() -> None:
    """It ends its run; Rocketry's own crash, after a restart, ends nothing."""
    repo = written(("run", 0, "a"), ("run", 1, "b"), ("success", 4, "b"))
    repo.add(
        TaskEventRecord(
            task_name="etl",
            action="crash",
            created=START + 5,
            trace_id=ids_of("etl", "a", nanoseconds(0)).trace_hex,
            span_id=ids_of("etl", "a", nanoseconds(0)).span_hex,
        )
    )
    assert actions(repo, Crashes((3, "a"))) == [
        ("run", "began", "a"),
        ("run", "began", "b"),
        ("crash", "ended", "a"),
        ("success", "ended", "b"),
        ("crash", "repeated", None),
    ]


def test_crash_record_at_the_end_comes_last_and_once() -> None:
    """A reading that goes on does not give it again."""
    repo = written(("run", 0, "a"))
    reader = HistoryReader(repo, RunLookup(repo), crashes=Crashes((3, "a")))
    assert [one.event.action for one in reader] == ["run", "crash"]
    assert [one.event.action for one in reader] == []


def test_crash_record_of_an_earlier_beginning_finds_it() -> None:
    """The beginning is before the reading: it is looked up."""
    repo = written(("run", 0, "a"), ("run", 2, "b"))
    reader = HistoryReader(repo, RunLookup(repo), nanoseconds(1), crashes=Crashes((3, "a")))
    crash = [*reader][-1]
    assert crash.step.run is not None
    assert crash.step.run.began is not None
    assert crash.step.run.began.created == nanoseconds(0)


def test_crash_record_without_its_run_is_left_out() -> None:
    """Retention has removed the beginning, or the crash is of another time."""
    assert actions(written(("run", 1, "b")), Crashes((3, "a"))) == [("run", "began", "b")]
    assert actions(written(("run", 0, "a")), Crashes((3, "a")), since=4) == []
    broken = Crashes((3, "a"))
    broken.all()[0]["span_id"] = None
    assert actions(written(("run", 0, "a")), broken) == [("run", "began", "a")]


@pytest.mark.parametrize("since", [0.0, 4.0])
def test_ending_after_a_crash_record_changes_nothing(since: float) -> None:
    """What was sent first counts: a commit may come late."""
    repo = written(("run", 0, "a"), ("success", 5, "a"))
    assert actions(repo, Crashes((3, "a")), since)[-1] == ("success", "repeated", "a")


def test_crash_record_that_comes_during_a_reading_counts() -> None:
    """Rocketry's crash of the same run is no other ending."""
    repo = written(("run", 0, "a"), ("crash", 5, None))
    crashes = Crashes((3, "a"))
    reader = HistoryReader(repo, RunLookup(repo), crashes=crashes)
    kept, crashes._fields = crashes._fields, []
    assert [one.step.change for one in reader] == ["began", "repeated"]
    assert kept


def test_crash_of_a_run_that_goes_on_ends_nothing() -> None:
    """Its record shows that; without ids, a later ending by the run id does."""
    repo = written(("run", 0, "a"), ("success", 5, "a"))
    alone = ids_of("etl", None, nanoseconds(2)).trace_hex
    crash = TaskEventRecord(
        task_name="etl", action="crash", created=START + 2, trace_id=alone, span_id=NO_SPAN
    )
    repo.collection.insert(1, crash)
    assert actions(repo, Crashes()) == [
        ("run", "began", "a"),
        ("crash", "none", None),
        ("success", "ended", "a"),
    ]
    rows = [("run", 0, "a"), ("crash", 2, None), ("success", 5, "a")]
    assert steps(history(MinimalRunRecord, *rows)) == [("began", 0), ("none", None), ("ended", 0)]

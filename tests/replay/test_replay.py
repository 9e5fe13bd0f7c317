"""What a replay sends: the same as was sent live, as far as the model keeps it."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
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
    TaskEventRecord,
    instrument,
    open_repository,
    replay,
    uninstrument,
)
from rocketry_otel._model.ids import ids_of
from rocketry_otel.testing import ManualClock
from tests.support import apps
from tests.support.apps import make_app as make_rocketry
from tests.support.apps import run_tasks
from tests.support.histories import (
    START,
    TASKS,
    close,
    log_records_of,
    red_birds_repo,
    replayed,
    send_live,
    spans_of,
    write_history,
)
from tests.support.otlp_receiver import OTLPReceiver, attributes_of
from tests.support.processes import run_python

NO_RUN_ID = "runs without a run id, distinguished by their order and place alone: 3"
NO_TRACEBACK = "failures without a traceback: 1"
NO_MESSAGE = "records without a message, sent with Rocketry's usual one: 6"
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
    """The destination of the application."""
    with OTLPReceiver(grpc=False) as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.http_endpoint)
        yield receiver


@pytest.fixture
def later() -> Iterator[OTLPReceiver]:
    """The destination of a replay."""
    with OTLPReceiver(grpc=False) as receiver:
        yield receiver


@pytest.fixture
def to_later(later: OTLPReceiver, monkeypatch: pytest.MonkeyPatch) -> OTLPReceiver:
    """The destination of a replay, in a test that sends nothing live."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", later.http_endpoint)
    return later


def sent_by(receiver: OTLPReceiver) -> list[tuple[str, bytes, bytes]]:
    """Return the name, trace id and span id of every span that arrived."""
    found = [(it.span.name, it.span.trace_id, it.span.span_id) for it in receiver.spans]
    return sorted(found)


@pytest.mark.parametrize("kind", ["csv", "json", "sqlite", "postgresql", "mongodb"])
def test_replay_sends_the_live_telemetry_to_the_byte(
    kind: str,
    live: OTLPReceiver,
    later: OTLPReceiver,
    make_url: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Spans and log records are the same with their resource and scope; no metric is sent."""
    monkeypatch.setenv("ROCKETRY_OTEL_STATE_DIR", str(tmp_path / "state"))
    url = make_url(kind)
    repo = open_repository(url)
    send_live(repo)
    close(repo)
    result = replayed(url, later)
    assert (result.records, result.runs, result.spans, result.log_records) == (6, 3, 3, 6)
    assert (result.complete, result.read, result.waiting, result.refused) == (True, True, 0, {})
    assert (result.notes, result.unsampled, result.error) == ((), 0, None)
    assert sent_by(later) == sent_by(live)
    assert log_records_of(later) == log_records_of(live)
    assert (len(later.spans), len(later.log_records), later.metric_requests) == (3, 6, [])


def test_replay_of_another_version_sends_the_version_of_the_run(
    live: OTLPReceiver, later: OTLPReceiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was stored with the run, from the first run of the process on."""
    url = f"sqlite:///{tmp_path}/tasks.db"
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.version=1.2.3")
    send_live(open_repository(url))
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.version=2.0.0")
    assert replayed(url, later).complete
    for receiver in (live, later):
        versions = [attributes_of(it.span.attributes)["service.version"] for it in receiver.spans]
        assert versions == ["1.2.3"] * 3


def test_open_repository_can_be_replayed(live: OTLPReceiver) -> None:
    """For example that of a handler, even in memory; two replays are equal."""
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
    """All runs and records are sent, and notes name the missing fields of the model."""
    url = f"csv://{tmp_path}/tasks.csv"
    send_live(red_birds_repo(url, model))
    result = replayed(url, later)
    assert sent_by(later) == sent_by(live)
    assert len(later.spans) == 3
    ids = [
        sorted((one.log_record.trace_id, one.log_record.event_name) for one in it.log_records)
        for it in (later, live)
    ]
    assert ids[0] == ids[1]
    assert result.notes == tuple(sorted(LACKING[model]))
    assert result.complete


@pytest.mark.parametrize("kind", ["csv", "json", "sqlite"])
def test_history_of_plain_rocketry_is_sent(
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
        ids = ids_of(item.task_name, item.run_id, int(item.created * 1e9))
        ids = (bytes.fromhex(ids.trace_hex), bytes.fromhex(ids.span_hex))
        expected.append((f"run {item.task_name}", *ids))
    assert sent_by(to_later) == sorted(expected)
    ended = {it.span.name: attributes_of(it.span.attributes) for it in to_later.spans}
    assert {name: one["rocketry.action"] for name, one in ended.items()} == {
        "run good": "success",
        "run bad": "fail",
        "run idle": "inaction",
    }


def test_empty_repository_sends_nothing(to_later: OTLPReceiver, tmp_path: Path) -> None:
    """The result is complete."""
    open_repository(f"csv://{tmp_path}/x.csv")
    result = replayed(f"csv://{tmp_path}/x.csv", to_later)
    assert (result.records, result.complete, result.fraction) == (0, True, 1.0)
    assert to_later.requests == []


def spoil(url: str, table: str) -> None:
    """Add an unreadable record to a repository."""
    path = Path(url.partition("://")[2].removeprefix("/" if url.startswith("sqlite") else ""))
    if url.startswith("csv"):
        with path.open("a") as file:
            file.write("1,2\r\n")
    elif url.startswith("json"):
        # One of ours is known by its name.
        name = next(path.glob("*.json")).name
        (path / f"{name[:-6]}x.json").write_text("{}")
    else:
        with closing(sqlite3.connect(path)) as connection, connection:
            columns = "(task_name, action, created) VALUES ('etl', 'run', 'never')"
            connection.execute(f"INSERT INTO {table} {columns}")


@pytest.mark.parametrize("is_ours", [True, False], ids=["ours", "Red Bird's"])
@pytest.mark.parametrize("kind", ["csv", "json", "sqlite"])
def test_unreadable_record_is_counted(
    kind: str, to_later: OTLPReceiver, tmp_path: Path, *, is_ours: bool
) -> None:
    """All others are sent, and the result is not complete."""
    url = f"{kind}:{'///' if kind == 'sqlite' else '//'}{tmp_path}/tasks"
    repo = open_repository(url) if is_ours else red_birds_repo(url, MinimalRunRecord)
    write_history(repo)
    close(repo)
    spoil(url, "rocketry_task_events" if is_ours else "tasks")
    result = replayed(url, to_later)
    assert (result.records, result.spans, result.waiting, result.refused) == (6, 3, 0, {})
    assert (result.unreadable, result.complete) == (1, False)
    dry = replayed(url, to_later, dry_run=True)
    assert (dry.records, dry.unreadable, dry.complete) == (6, 1, False)


class Broken(MemoryRepo):
    """A repository whose reading fails."""

    def query_items(self, query: Any) -> Any:
        """Fail."""
        raise OSError("the disk is gone")

    collection: Any = None


def test_unreadable_repository_is_an_error(to_later: OTLPReceiver) -> None:
    """The error has the reason, and the progress shows what was sent so far."""
    shown: list[Replay] = []
    with pytest.raises(RepositoryError, match=r"^the repository cannot be read: .*") as caught:
        replay(Broken(model=TaskEventRecord), progress=shown.append)
    assert caught.value.__cause__ is not None
    assert (shown[-1].read, shown[-1].complete, shown[-1].records) == (False, False, 0)


def test_repository_without_a_place_is_replayed(
    to_later: OTLPReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A foreign repository may raise anything when its place is read."""

    def fail(*_: object) -> None:
        raise RuntimeError("where am I?")

    monkeypatch.setattr("rocketry_otel._replay.replay.state_folder", fail)
    repo = open_repository("memory://")
    write_history(repo)
    result = replay(repo)
    assert (result.spans, result.complete) == (3, True)
    assert len(to_later.spans) == 3


def test_records_added_meanwhile_do_no_harm(
    live: OTLPReceiver, later: OTLPReceiver, tmp_path: Path
) -> None:
    """All records from before the begin are sent."""
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


MEASURED = """
    import resource, sys
    from rocketry_otel import replay
    from rocketry_otel._history.open_history import open_history

    with open_history(sys.argv[1]) as repo:
        result = replay(repo)
    print(result.records, result.complete, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.parametrize("columns", ["task_name, action, created", "*"])
def test_memory_does_not_grow_with_history(
    columns: str, to_later: OTLPReceiver, tmp_path: Path
) -> None:
    """Seven times as many records take no more of it, of our model as of Rocketry's."""
    used = []
    for count in (3_000, 20_000):
        url = f"sqlite:///{tmp_path}/{count}.db"
        close(open_repository(url))
        with closing(sqlite3.connect(tmp_path / f"{count}.db")) as connection:
            connection.execute(
                "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
                "INSERT INTO rocketry_task_events (task_name, action, created, run_id, message) "
                "SELECT 'etl', iif(i % 2, 'success', 'run'), ? + i, 'r' || i / 2, 'm' FROM n",
                [count - 1, START],
            )
            if columns != "*":
                connection.execute(
                    "CREATE TABLE old (id INTEGER PRIMARY KEY, task_name, action, created)"
                )
                connection.execute(
                    f"INSERT INTO old ({columns}) SELECT {columns} "  # noqa: S608
                    "FROM rocketry_task_events ORDER BY id"
                )
                url += "?table=old"
            connection.commit()
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": to_later.http_endpoint}
        done = run_python(MEASURED, url, env=variables, options=["-W", "error"], timeout=300)
        assert (done.returncode, done.stderr) == (0, "")
        records, complete, kilobytes = done.stdout.split()
        assert (records, complete) == (str(count), "True")
        used.append(int(kilobytes))
        to_later.clear()
    assert used[1] - used[0] < 15_000


@pytest.mark.parametrize("execution", ["main", "process"])
def test_replay_keeps_the_types_of_attributes(
    execution: str, live: OTLPReceiver, tmp_path: Path
) -> None:
    """Each value has the same type in the record, in the live span and in the replay."""
    url = f"sqlite:///{tmp_path}/tasks.db"
    app = make_rocketry(execution=execution)
    app.session.create_task(func=apps.add_numbers, name="etl")
    handler = instrument(app, repo=url)
    run_tasks(app, "etl", cycles=1)
    assert handler.flush(10)
    uninstrument(app)
    with OTLPReceiver(grpc=False) as again:
        replayed(url, again)
        assert spans_of(again) == spans_of(live)
    (received,) = live.spans
    sent = attributes_of(received.span.attributes)
    assert {name: sent[name] for name in ("level", "price", "flags", "mixed", "day")} == {
        "level": 3,
        "price": 1.5,
        "flags": [True, False],
        "mixed": [1.0, 2.5],
        "day": "2026-01-02",
    }
    assert type(sent["level"]) is int
    assert attributes_of(received.span.events[0].attributes) == {"sizes": [1, 2]}


@pytest.mark.parametrize("model", [MinimalRecord, TaskEventRecord])
def test_runs_of_one_instant_have_their_own_spans(
    model: Any, live: OTLPReceiver, tmp_path: Path
) -> None:
    """With a stopped clock and no run ids, a replay finds the same ids by the order."""
    repo = red_birds_repo(f"csv://{tmp_path}/tasks.csv", model)
    app = make_rocketry(
        logger_repo=repo,
        config={"time_func": ManualClock(START), "func_run_id": lambda *_, **__: None},
    )
    app.session.create_task(func=apps.succeed, name="etl")
    handler = instrument(app)
    run_tasks(app, "etl", "etl", "etl", cycles=3)
    assert handler.flush(10)
    uninstrument(app)
    ids = {one.span.span_id for one in live.spans}
    assert len(ids) == 3
    with OTLPReceiver(grpc=False) as again, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", again.http_endpoint)
        replay(repo)
        assert {one.span.span_id for one in again.spans} == ids

"""A reading of a backlog pauses while collectors are away, and goes on where it was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from rocketry_otel import TaskEventRecord
from rocketry_otel._delivery.checkpoint import Backlog
from rocketry_otel._history.streams.base import RecordStream, Window
from rocketry_otel._history.streams.stream_of import stream_of
from tests.support.catch_up_bench import LOGS, TRACES, Bench, at, leave, texts
from tests.support.channels import ACCEPTED, UNAVAILABLE, flush

pytestmark = pytest.mark.slow

KINDS = ("memory", "csv", "json", "sqlite", "postgresql", "mongodb")


def flap(bench: Bench, every: int) -> None:
    """Let both collectors fail after each ``every`` items, until the channel tries again."""
    for collector in (bench.log_collector, bench.trace_collector):
        left = [every]

        def answer(batch: list[Any], left: list[int] = left) -> Any:
            left[0] -= len(batch)
            if left[0] > 0:
                return ACCEPTED
            left[0] = every
            return UNAVAILABLE

        collector.answer = answer


def run_to_the_end(bench: Bench, between: Callable[[], None] = lambda: None) -> int:
    """Catch up until no backlog is left; return the number of turns."""
    for turn in range(1, 100):
        bench.run()
        if not bench.catch_up.backlogs:
            return turn
        between()
        for queue in (bench.logs, bench.traces):
            flush(queue)
            assert queue.wait_for_room(20.0)
    raise AssertionError("it never ends")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The run id of each record that is read from a repository to be sent again."""
    found: list[str] = []

    def counted(repo: Any) -> RecordStream:
        stream = stream_of(repo)
        read = stream.read

        def counting(*arguments: Any) -> Iterator[Any]:
            for fields in read(*arguments):
                found.append(fields["run_id"])
                yield fields

        monkeypatch.setattr(stream, "read", counting)
        return stream

    monkeypatch.setattr("rocketry_otel._history.reconstruct.stream_of", counted)
    # An outage lasts until the test looks; whoever waits for a queue cuts the pause short.
    monkeypatch.setattr("rocketry_otel._export.queue.pause_after", lambda _: 60.0)
    return found


def record(run_id: str, number: int) -> TaskEventRecord:
    """Return a record that was created as that of a number was."""
    return TaskEventRecord(
        task_name="etl",
        action="inaction",
        run_id=run_id,
        created=at(number) / 1e9,
        trace_id="1" * 32,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_backlog_is_read_once_despite_outages(
    make: Callable[..., Bench], make_repo: Any, reads: list[str], kind: str
) -> None:
    """With collectors that fail each 100 records, each record is read once."""
    bench = make(repo=make_repo(kind), size=40, batch=10)
    for number in range(1000):
        fields = record(str(number // 2), number).dict()
        fields["action"] = ("run", "success")[number % 2]
        bench.repo.add(TaskEventRecord(**fields))
    bench.state.take_on({LOGS: Backlog(at(0)), TRACES: Backlog(at(0))})
    flap(bench, 100)
    assert run_to_the_end(bench) > 5
    arrived = Counter(bench.log_collector.accepted)
    assert arrived.keys() == set(texts(*range(500)))
    assert min(arrived.values()) == 2
    assert set(bench.trace_collector.accepted) == set(texts(*range(500)))
    assert len(reads) == 1000
    assert bench.state.backlogs() == {}


@pytest.mark.parametrize("kind", KINDS)
def test_records_left_during_outages_are_read_once(
    make: Callable[..., Bench], make_repo: Any, reads: list[str], kind: str
) -> None:
    """The process goes on meanwhile: a reading goes on behind the end that it began with."""
    bench = make(repo=make_repo(kind), size=40, batch=10)
    bench.write(*range(200))
    leave(bench.logs, *range(200))
    flap(bench, 50)
    more = iter(range(200, 240))

    def go_on() -> None:
        for number in more:
            bench.write(number)
            leave(bench.logs, number)
            if number % 10 == 9:
                return

    run_to_the_end(bench, go_on)
    assert next(more, None) is None
    assert set(bench.log_collector.accepted) == set(texts(*range(240)))
    assert len(reads) == 240


def test_late_commit_before_the_position_is_sent(
    make: Callable[..., Bench], make_repo: Any, reads: list[str]
) -> None:
    """A transaction of PostgreSQL has an early id, and commits during a pause."""
    repo = make_repo("postgresql")
    bench = make(repo=repo, size=40, batch=10)
    bench.write(*range(20))
    table = repo.model_orm.__table__
    with repo.engine.connect() as late:
        transaction = late.begin()
        late.execute(sa.insert(table).values(**record("late", 20).dict()))
        bench.write(*range(21, 200))
        bench.state.take_on({LOGS: Backlog(at(0))})
        flap(bench, 50)
        bench.run()
        assert 20 < len(reads) < 100
        transaction.commit()
    bench.log_collector.answer = lambda _: ACCEPTED
    run_to_the_end(bench)
    assert set(bench.log_collector.accepted) == {*texts(*range(20), *range(21, 200)), "late"}
    (late_id, newest) = (
        repo.engine.connect().execute(statement).scalar()
        for statement in (
            sa.select(table.c.id).where(table.c.run_id == "late"),
            sa.select(sa.func.max(table.c.id)),
        )
    )
    assert late_id < newest


def test_late_file_before_the_position_is_sent(
    make: Callable[..., Bench], make_repo: Any, reads: list[str]
) -> None:
    """Another process has named its file early, and written it late."""
    repo = make_repo("json")
    bench = make(repo=repo, size=40, batch=10)
    bench.write(*range(100))
    bench.state.take_on({LOGS: Backlog(at(0))})
    flap(bench, 30)
    bench.run()
    assert 0 < len(reads) < 100
    (repo.path / (repo.names()[1][:19] + "-0-late.json")).write_text(record("late", 1).json())
    bench.log_collector.answer = lambda _: ACCEPTED
    run_to_the_end(bench)
    assert set(bench.log_collector.accepted) == {*texts(*range(100)), "late"}


def test_record_inserted_into_a_list_is_sent(make: Callable[..., Bench], reads: list[str]) -> None:
    """The application may change its list anywhere."""
    bench = make(size=40, batch=10)
    bench.write(*range(200))
    bench.state.take_on({LOGS: Backlog(at(0))})
    flap(bench, 50)
    bench.run()
    assert 0 < len(reads) < 100
    bench.repo.collection.insert(1, record("late", 1))
    bench.log_collector.answer = lambda _: ACCEPTED
    run_to_the_end(bench)
    assert set(bench.log_collector.accepted) == {*texts(*range(200)), "late"}


def test_rewritten_file_is_read_from_its_beginning(
    make: Callable[..., Bench], make_repo: Any, reads: list[str]
) -> None:
    """Retention replaces a CSV file during a pause."""
    repo = make_repo("csv")
    bench = make(repo=repo, size=40, batch=10)
    bench.write(*range(200))
    bench.state.take_on({LOGS: Backlog(at(2))})
    flap(bench, 50)
    bench.run()
    assert 0 < len(reads) < 100
    stream_of(repo).remove(Window(until=at(1)), lambda _: True)
    bench.log_collector.answer = lambda _: ACCEPTED
    run_to_the_end(bench)
    assert set(bench.log_collector.accepted) == set(texts(*range(2, 200)))
    assert bench.state.backlogs() == {}


def test_stop_ends_the_comparison_at_the_end(
    make: Callable[..., Bench], make_repo: Any, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program ends while a reading that has paused looks for late records."""
    monkeypatch.setattr("rocketry_otel._history.streams.base._KEYS_AT_ONCE", 10)
    bench = make(repo=make_repo("sqlite"), size=40, batch=10)
    bench.write(*range(60))
    bench.state.take_on({LOGS: Backlog(at(0))})
    flap(bench, 50)
    bench.run()
    bench.log_collector.answer = lambda _: ACCEPTED
    flush(bench.logs)
    bench.run(lambda: False)
    assert LOGS in bench.state.backlogs()
    run_to_the_end(bench)
    assert set(bench.log_collector.accepted) == set(texts(*range(60)))


def test_failure_of_the_last_items_rereads_nothing(
    make: Callable[..., Bench], reads: list[str]
) -> None:
    """All records were read and handed over when the collector fails."""
    bench = make(size=40, batch=10)
    bench.write(*range(15))
    bench.state.take_on({LOGS: Backlog(at(0))})
    flap(bench, 15)
    assert run_to_the_end(bench) == 2
    assert bench.log_collector.accepted == texts(*range(15))
    assert len(reads) == 15


def test_repository_of_unknown_kind_is_read_twice(
    make: Callable[..., Bench], make_repo: Any, reads: list[str]
) -> None:
    """Its reader can neither go on nor compare: a whole reading follows."""
    bench = make(repo=make_repo("plain-csv"), size=40, batch=10)
    bench.write(*range(200))
    leave(bench.logs, *range(200))
    flap(bench, 50)
    bench.run()
    bench.write(200)
    leave(bench.logs, 200)
    run_to_the_end(bench)
    assert set(bench.log_collector.accepted) == set(texts(*range(201)))
    assert len(reads) > 201


def test_record_left_during_a_pause_is_sent(make: Callable[..., Bench], reads: list[str]) -> None:
    """It is behind the end of the paused reading."""
    bench = make(size=40, batch=10)
    bench.write(*range(200))
    bench.state.take_on({LOGS: Backlog(at(0), until=at(199))})
    flap(bench, 50)
    bench.run()
    assert 0 < len(reads) < 100
    bench.write(200, 201)
    leave(bench.logs, 200, 201)
    bench.log_collector.answer = lambda _: ACCEPTED
    run_to_the_end(bench)
    assert set(bench.log_collector.accepted) == set(texts(*range(202)))


def test_records_that_another_process_took_on_are_sent(
    make: Callable[..., Bench], reads: list[str]
) -> None:
    """Its takeover during a pause may leave the stored backlog unchanged."""
    bench = make(size=40, batch=10)
    bench.write(*range(100))
    bench.state.take_on({LOGS: Backlog(at(0))})
    flap(bench, 50)
    bench.run()
    assert 0 < len(reads) < 100
    bench.write(100)
    bench.log_collector.answer = lambda _: ACCEPTED
    run_to_the_end(bench)
    assert set(bench.log_collector.accepted) == set(texts(*range(101)))
    assert len(reads) == 101


def test_channel_far_behind_reads_again(
    make: Callable[..., Bench], reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a limited number of records is kept in memory for it."""
    monkeypatch.setattr("rocketry_otel._delivery.catch_up._MOST_KEPT", 10)
    bench = make(size=40, batch=10)
    bench.write(*range(200))
    bench.state.take_on({LOGS: Backlog(at(0)), TRACES: Backlog(at(0))})
    bench.trace_collector.answer = lambda _: UNAVAILABLE
    bench.run()
    assert bench.log_collector.accepted == texts(*range(200))
    assert bench.catch_up._paused is None
    bench.trace_collector.answer = lambda _: ACCEPTED
    assert bench.traces.wait_for_room(20.0)
    run_to_the_end(bench)
    assert set(bench.trace_collector.accepted) == set(texts(*range(200)))


def test_reading_waits_for_the_channel_that_is_away(
    make: Callable[..., Bench], reads: list[str]
) -> None:
    """The other channel goes on alone; the one that comes back misses nothing."""
    bench = make(size=40, batch=10)
    bench.write(*range(100))
    bench.state.take_on({LOGS: Backlog(at(0)), TRACES: Backlog(at(0))})
    flap(bench, 30)
    bench.trace_collector.answer = lambda _: UNAVAILABLE
    bench.run()
    assert bench.logs.wait_for_room(20.0)
    assert flush(bench.logs) is True
    bench.log_collector.answer = lambda _: ACCEPTED
    bench.run()
    bench.trace_collector.answer = lambda _: ACCEPTED
    assert bench.traces.wait_for_room(20.0)
    run_to_the_end(bench)
    for collector in (bench.log_collector, bench.trace_collector):
        assert set(collector.accepted) == set(texts(*range(100)))

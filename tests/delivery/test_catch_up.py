from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rocketry.log import MinimalRunRecord

from rocketry_otel import TaskEventRecord
from rocketry_otel._delivery.checkpoint import Backlog, Checkpoint
from rocketry_otel._delivery.state import State
from rocketry_otel._export.record_ref import RecordRef
from tests.support.catch_up_bench import LOGS, SECOND, START, TRACES, Bench, at, leave, texts
from tests.support.channels import ACCEPTED, UNAVAILABLE, flush


def test_backlog_is_sent_and_no_more(
    make: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    """Each channel sends from its own time on; two lines in the log show the begin and the end."""
    caplog.set_level(logging.INFO)
    bench = make()
    bench.write(*range(8))
    bench.state.take_on({LOGS: Backlog(at(5)), TRACES: Backlog(at(2), until=at(6))})
    bench.run()
    assert bench.arrived(2)[0] == texts(5, 6, 7)
    assert bench.trace_collector.accepted == texts(2, 3, 4, 5, 6)
    assert bench.state.backlogs() == {} == bench.catch_up.backlogs
    assert bench.counters.of("logs", "replayed") == {"": 3}
    begin, end = [record.getMessage() for record in caplog.records]
    assert begin.startswith("Undelivered records since 2023-11-14 ")
    assert begin.endswith(" are sent from the repository.")
    assert end == "All undelivered records have been sent from the repository."


def test_records_of_a_dead_process_are_sent(make: Callable[..., Bench], tmp_path: Path) -> None:
    """They are taken over under the lease, and the checkpoint of the process is removed."""
    bench = make()
    bench.write(*range(4))
    dead = State(tmp_path)
    dead.save({LOGS: Checkpoint(at(1), 3), TRACES: Checkpoint(at(3), 1)}, 0)
    dead.end()
    bench.run()
    assert bench.log_collector.accepted == texts(1, 2, 3)
    assert bench.trace_collector.accepted == texts(3)
    assert bench.state.writers() == {}


def test_overflow_of_a_queue_is_sent(make: Callable[..., Bench]) -> None:
    """It is sent once, and the queue takes new items again."""
    bench = make(durable=False, size=4, batch=2)
    bench.write(*range(10))
    bench.log_collector.answer = lambda _: UNAVAILABLE
    for number in range(8):
        bench.logs.put(str(number), RecordRef(at(number), "etl", "inaction"))
    bench.log_collector.wait_for_tries(1)
    left = bench.logs.ask(lambda held: held.overflow)
    assert left is not None
    assert bench.catch_up.is_possible is False
    bench.run()
    assert bench.logs.ask(lambda held: held.overflow) == left
    bench.log_collector.answer = lambda _: ACCEPTED
    flush(bench.logs)
    assert bench.catch_up.is_possible is True
    bench.run()
    assert sorted(bench.log_collector.accepted) == texts(*range(8))
    assert bench.logs.ask(lambda held: held.overflow) is None
    assert bench.catch_up.is_possible is False
    assert bench.counters.of("logs", "dropped") == {}


def test_overflow_is_sent_without_a_state(make: Callable[..., Bench], tmp_path: Path) -> None:
    """It is confirmed only after delivery, so that no later checkpoint is ahead of it."""
    bench = make(folder=tmp_path / "file" / "state")
    (tmp_path / "file").touch()
    bench.write(*range(100))
    leave(bench.logs, *range(10, 90))
    handed_over = []

    def look() -> bool:
        handed_over.append(bench.logs.ask(lambda held: held.oldest()))
        return True

    bench.run(look)
    assert bench.log_collector.accepted == texts(*range(10, 90))
    assert set(handed_over) == {at(10)}
    assert bench.logs.has_overflow is False
    assert bench.catch_up.backlogs == {}


def test_catch_up_without_a_state_resumes(make: Callable[..., Bench], tmp_path: Path) -> None:
    """It also sends the records that were left meanwhile."""
    bench = make(folder=tmp_path / "file" / "state")
    (tmp_path / "file").touch()
    bench.write(*range(150))
    leave(bench.logs, *range(100))
    bench.run(bench.stop)
    assert bench.log_collector.accepted == texts(*range(50))
    bench.run()
    assert bench.log_collector.accepted == texts(*range(100))
    assert bench.logs.has_overflow is False
    leave(bench.logs, 110)
    bench.run(bench.stop)
    leave(bench.logs, 120)
    bench.run()
    assert {"110", "120"} <= set(bench.log_collector.accepted)
    assert bench.logs.has_overflow is False


def test_usable_state_takes_on_the_backlog_in_memory(
    make: Callable[..., Bench], tmp_path: Path
) -> None:
    """From then on the backlog is stored."""
    bench = make(folder=tmp_path / "file" / "state")
    (tmp_path / "file").touch()
    bench.write(*range(100))
    leave(bench.logs, *range(100))
    bench.run(bench.stop)
    assert bench.logs.has_overflow is True
    (tmp_path / "file").unlink()
    bench.run(bench.stop)
    assert bench.logs.has_overflow is False
    assert bench.state.backlogs()[LOGS].since == at(0)
    bench.run()
    assert set(bench.log_collector.accepted) == set(texts(*range(100)))
    assert (bench.state.backlogs(), bench.catch_up.backlogs) == ({}, {})


def test_records_that_the_repository_dropped_are_counted(make: Callable[..., Bench]) -> None:
    """A repository with a limit may not have all of them any more."""
    bench = make(durable=False, size=2)
    leave(bench.logs, *range(5))
    bench.write(3, 4)
    bench.run()
    assert bench.counters.of("logs", "dropped") == {"not_in_repository": 3}
    leave(bench.logs, 4)
    bench.run()
    assert bench.counters.of("logs", "dropped") == {"not_in_repository": 3}


def test_foreign_and_excluded_records_are_not_sent(make: Callable[..., Bench]) -> None:
    """Another handler may write to the same repository."""
    bench = make()
    bench.write(0)
    bench.write(1, trace_id=None)
    bench.write(2, task="secret")
    bench.write(3)
    bench.state.take_on({LOGS: Backlog(at(0))})
    bench.run()
    assert bench.log_collector.accepted == texts(0, 3)


def test_all_records_are_sent_without_trace_ids(make: Callable[..., Bench]) -> None:
    """Such records cannot be distinguished from foreign ones; their time is known."""
    bench = make(model=MinimalRunRecord)
    bench.write(0, 1, 2)
    bench.state.take_on({LOGS: Backlog(at(1))})
    bench.run()
    assert bench.log_collector.accepted == texts(1, 2)


def test_our_records_are_sent_after_the_state_was_lost(make: Callable[..., Bench]) -> None:
    """The setting limits how far back; records of this process are not sent again."""
    bench = make()
    now = (time.time_ns() - START) // SECOND
    bench.write(0, now - 700_000, now - 600_000, now - 10, now)
    bench.state.save({}, at(now))
    bench.run()
    assert bench.arrived(2) == (texts(now - 600_000, now - 10),) * 2
    assert bench.state.backlogs() == {}


def test_no_records_are_sent_if_ours_cannot_be_recognized(make: Callable[..., Bench]) -> None:
    """History from before this project is not sent unasked."""
    bench = make(model=MinimalRunRecord)
    now = (time.time_ns() - START) // SECOND
    bench.write(now - 10)
    bench.state.save({}, at(now))
    bench.run()
    assert (bench.log_collector.accepted, bench.state.backlogs()) == ([], {})
    assert bench.state.unknown_until() is None


@pytest.mark.parametrize("model", [TaskEventRecord, MinimalRunRecord])
def test_checkpoint_of_the_future_is_not_trusted(
    make: Callable[..., Bench], tmp_path: Path, model: Any
) -> None:
    """Records that may be undelivered are sent: better twice than never."""
    bench = make(model=model)
    now = (time.time_ns() - START) // SECOND
    bench.write(now - 10)
    dead = State(tmp_path)
    dead.save({LOGS: Checkpoint(at(now + 3600), 0)}, 0)
    dead.end()
    bench.run()
    assert bench.log_collector.accepted == texts(now - 10)


def test_catch_up_waits_for_the_lease(make: Callable[..., Bench], tmp_path: Path) -> None:
    """One process at a time sends from the repository."""
    bench = make()
    bench.write(1)
    bench.state.take_on({LOGS: Backlog(0)})
    with State(tmp_path).lease() as is_theirs:
        assert is_theirs is True
        bench.run()
        assert bench.log_collector.accepted == []
    bench.run()
    assert bench.log_collector.accepted == texts(1)


def test_stopped_catch_up_has_stored_its_progress(
    make: Callable[..., Bench],
) -> None:
    """The next one goes on from there."""
    bench = make()
    bench.write(*range(200))
    bench.state.take_on({LOGS: Backlog(at(0), waiting=200)})

    def until_all_of_it_is_there() -> bool:
        flush(bench.logs)
        return False

    bench.run(until_all_of_it_is_there)
    noted = bench.state.backlogs()[LOGS]
    assert (noted.done, noted.waiting, noted.reached, noted.since) == (50, 150, at(49), at(0))
    assert bench.catch_up.backlogs[LOGS] == noted
    bench.run()
    assert bench.log_collector.accepted == texts(*range(200))
    assert bench.state.backlogs() == {}


def test_removed_records_do_not_hide_the_rest(make: Callable[..., Bench]) -> None:
    """If the last record that was done is missing, all records are sent once more."""
    bench = make()
    bench.write(*range(100))
    bench.state.take_on({LOGS: Backlog(at(0))})
    bench.run(bench.stop)
    assert bench.state.backlogs()[LOGS].done == 50
    del bench.repo.collection[:10]
    bench.run()
    assert bench.state.backlogs()[LOGS].done == 0
    bench.run()
    assert bench.log_collector.accepted == texts(*range(50), *range(10, 100))
    assert bench.state.backlogs() == {}


def test_shorter_repository_is_sent_from_its_beginning(make: Callable[..., Bench]) -> None:
    """Most records were removed."""
    bench = make()
    bench.write(*range(5))
    bench.state.take_on({LOGS: Backlog(at(0), done=50, mark="x")})
    bench.run()
    assert bench.state.backlogs()[LOGS].done == 0
    bench.run()
    assert bench.log_collector.accepted == texts(*range(5))


def test_failing_collector_does_not_stop_the_other(
    make: Callable[..., Bench],
) -> None:
    """When it is back, its channel goes on where it was, and sends nothing twice."""
    bench = make(size=40, batch=10)
    bench.write(*range(100))
    bench.state.take_on({LOGS: Backlog(at(0)), TRACES: Backlog(at(0))})
    answers = iter([ACCEPTED, UNAVAILABLE])
    bench.trace_collector.answer = lambda _: next(answers, UNAVAILABLE)
    bench.run()
    assert bench.log_collector.accepted == texts(*range(100))
    noted = bench.state.backlogs()
    assert list(noted) == [TRACES]
    assert 0 < noted[TRACES].done < 40
    assert bench.trace_collector.accepted == texts(*range(noted[TRACES].done))
    bench.trace_collector.answer = lambda _: ACCEPTED
    assert flush(bench.traces) is True
    bench.run()
    assert bench.state.backlogs() == {}
    assert set(bench.trace_collector.accepted) == set(texts(*range(100)))


def test_progress_is_stored_on_the_way(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stored each second and every so many records, in case the process is killed."""
    monkeypatch.setattr("rocketry_otel._delivery.catch_up._RECORDS_BETWEEN_CHECKPOINTS", 20)
    bench = make()
    bench.write(*range(100))
    bench.state.take_on({LOGS: Backlog(at(0))})
    seen = []

    def look() -> bool:
        flush(bench.logs)
        seen.append(bench.state.backlogs()[LOGS].done)
        return len(seen) < 2

    bench.run(look)
    assert 0 < seen[1] <= 100
    assert seen[0] < seen[1]


def test_catch_up_waits_for_items_in_flight(make: Callable[..., Bench]) -> None:
    """A slow collector does not have them yet."""
    bench = make()
    bench.write(1)
    bench.state.take_on({LOGS: Backlog(0)})
    asked, opened = threading.Event(), threading.Event()

    def answer(_: list[Any]) -> Any:
        asked.set()
        assert opened.wait(20)
        return ACCEPTED

    bench.log_collector.answer = answer

    def look() -> bool:
        assert asked.wait(20)
        assert LOGS in bench.state.backlogs()
        opened.set()
        return True

    bench.run(look)
    assert bench.log_collector.accepted == texts(1)
    assert bench.state.backlogs() == {}


def test_turns_do_not_overlap(
    make: Callable[..., Bench],
) -> None:
    """The items of an earlier turn settle first: positions of two turns must not mix."""
    bench = make()
    bench.write(1, 2)
    bench.state.take_on({LOGS: Backlog(at(0))})
    asked, opened = threading.Event(), threading.Event()

    def answer(_: list[Any]) -> Any:
        asked.set()
        assert opened.wait(20)
        return ACCEPTED

    bench.log_collector.answer = answer
    bench.logs.put("1", RecordRef(at(1), "etl", "inaction", {LOGS: 0}))
    assert asked.wait(20)
    bench.run(lambda: False)
    assert bench.logs.sent_again == 1
    assert bench.state.backlogs() == {LOGS: Backlog(at(0))}
    opened.set()
    flush(bench.logs)
    bench.run()
    assert bench.log_collector.accepted == texts(1, 1, 2)
    assert bench.state.backlogs() == {}


def test_process_sends_its_own_records_if_the_lease_is_held_too_long(
    make: Callable[..., Bench], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The holder may hang; the records of dead processes stay with it."""
    bench = make()
    bench.write(*range(10))
    leave(bench.logs, 5, 6)
    bench.state.take_on({LOGS: Backlog(at(0))})
    with State(tmp_path).lease():
        bench.run()
        assert bench.log_collector.accepted == []
        monkeypatch.setattr("rocketry_otel._delivery.catch_up._PATIENCE", 0.0)
        bench.run()
        assert bench.log_collector.accepted == texts(5, 6)
        assert bench.logs.has_overflow is False
    bench.run()
    assert set(bench.log_collector.accepted) == set(texts(*range(10)))
    assert bench.state.backlogs() == {}


def test_half_of_the_time_is_for_tasks(make: Callable[..., Bench]) -> None:
    """It pauses as long as it has worked."""
    bench = make()
    bench.write(*range(200))
    bench.state.take_on({LOGS: Backlog(at(0))})
    bench.run()
    assert len([seconds for seconds in bench.pauses if seconds > 0]) == 4


def test_closed_channels_store_no_progress(make: Callable[..., Bench]) -> None:
    """Items that a channel has given up are not delivered."""
    bench = make()
    bench.write(*range(60))
    bench.state.take_on({LOGS: Backlog(at(0))})
    bench.log_collector.answer = lambda _: UNAVAILABLE

    def close() -> bool:
        bench.logs.begin_closing(time.monotonic())
        bench.logs.finish_closing()
        return False

    bench.run(close)
    assert bench.state.backlogs()[LOGS] == Backlog(at(0))


def test_stop_keeps_the_backlog_of_items_in_flight(make: Callable[..., Bench]) -> None:
    """Items that were read and not accepted stay in the backlog."""
    bench = make()
    bench.write(1)
    bench.state.take_on({LOGS: Backlog(0)})
    bench.log_collector.answer = lambda _: UNAVAILABLE
    bench.run()
    assert bench.state.backlogs() == {LOGS: Backlog(0)}
    assert bench.logs.ask(lambda held: held.first_position(LOGS)) == 0


def test_flapping_collector_gets_all_records(
    make: Callable[..., Bench],
) -> None:
    """Each turn goes on where the last one ended, and sends few records twice."""
    bench = make(size=4, batch=2)
    bench.write(*range(40))
    leave(bench.logs, *range(40))
    for flap in range(40, 46):
        most = len(bench.log_collector.accepted) + 12

        def answer(_: list[Any], most: int = most) -> Any:
            return ACCEPTED if len(bench.log_collector.accepted) < most else UNAVAILABLE

        bench.log_collector.answer = answer
        assert bench.logs.wait_for_room(20.0)
        bench.run()
        bench.write(flap)
        leave(bench.logs, flap)
    bench.log_collector.answer = lambda _: ACCEPTED
    assert bench.logs.wait_for_room(20.0)
    bench.run()
    assert flush(bench.logs) is True
    arrived = [int(number) for number in bench.log_collector.accepted]
    assert set(arrived) == set(range(46))
    # Items in flight at the begin of an outage may be sent twice.
    assert len(arrived) <= 46 + 6 * 4
    assert bench.state.backlogs() == {}


def test_turn_that_outlasts_a_close_stores_no_progress(
    make: Callable[..., Bench],
) -> None:
    """The next turn sends all of it."""
    bench = make()
    bench.write(*range(10))
    bench.state.take_on({LOGS: Backlog(at(0))})
    answered = threading.Event()

    def hang(_: list[Any]) -> Any:
        assert answered.wait(20)
        return UNAVAILABLE

    bench.log_collector.answer = hang

    def close_and_open() -> bool:
        bench.logs.begin_closing(time.monotonic())
        bench.logs.finish_closing()
        bench.logs.reopen()
        return False

    bench.run(close_and_open)
    assert bench.state.backlogs()[LOGS].done == 0
    answered.set()
    bench.log_collector.answer = lambda _: ACCEPTED
    bench.run()
    assert bench.log_collector.wait_for(10) == texts(*range(10))


def test_records_behind_the_end_of_a_backlog_are_not_done(make: Callable[..., Bench]) -> None:
    """They were delivered live; some may be left to the repository before the end."""
    bench = make()
    bench.write(*range(60))
    bench.state.take_on({LOGS: Backlog(at(0), until=at(4))})
    bench.run(bench.stop)
    assert bench.log_collector.accepted == texts(*range(5))
    assert bench.state.backlogs()[LOGS].done == 5
    leave(bench.logs, 20)
    bench.run()
    assert flush(bench.logs) is True
    assert bench.log_collector.accepted == texts(*range(5), *range(5, 21))
    assert bench.state.backlogs() == {}

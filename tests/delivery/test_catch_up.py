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


def test_what_a_backlog_says_is_sent_and_no_more(
    make: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    """On each channel from its own time on; then there is no backlog, as two lines tell."""
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
    assert begin.startswith("What did not get through since 2023-11-14 ")
    assert begin.endswith(" is sent from the repository.")
    assert end == "All that did not get through has been sent from the repository."


def test_what_a_dead_process_has_left_is_sent(make: Callable[..., Bench], tmp_path: Path) -> None:
    """It is taken over under the lease, and the process is forgotten."""
    bench = make()
    bench.write(*range(4))
    dead = State(tmp_path)
    dead.save({LOGS: Checkpoint(at(1), 3), TRACES: Checkpoint(at(3), 1)}, 0)
    dead.end()
    bench.run()
    assert bench.log_collector.accepted == texts(1, 2, 3)
    assert bench.trace_collector.accepted == texts(3)
    assert bench.state.writers() == {}


def test_what_a_queue_had_no_room_for_is_sent(make: Callable[..., Bench]) -> None:
    """Once, since its time and until its time, and what comes later is taken in again."""
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


def test_without_a_state_what_this_process_has_left_is_sent(
    make: Callable[..., Bench], tmp_path: Path
) -> None:
    """It is owed until it is there, so that no later note is ahead of it."""
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


def test_without_a_state_it_goes_on_where_it_was_stopped(
    make: Callable[..., Bench], tmp_path: Path
) -> None:
    """And takes up what was left meanwhile."""
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


def test_a_state_that_can_be_used_again_takes_on_what_is_owed(
    make: Callable[..., Bench], tmp_path: Path
) -> None:
    """From then on it is noted like everything else."""
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


def test_what_a_repository_has_dropped_since_is_counted(make: Callable[..., Bench]) -> None:
    """A repository that keeps the newest alone cannot give what it has not."""
    bench = make(durable=False, size=2)
    leave(bench.logs, *range(5))
    bench.write(3, 4)
    bench.run()
    assert bench.counters.of("logs", "dropped") == {"not_in_repository": 3}
    leave(bench.logs, 4)
    bench.run()
    assert bench.counters.of("logs", "dropped") == {"not_in_repository": 3}


def test_only_what_is_to_be_exported_and_is_ours_is_sent(make: Callable[..., Bench]) -> None:
    """Records of another handler in the same repository, and of excluded tasks, are passed over."""
    bench = make()
    bench.write(0)
    bench.write(1, trace_id=None)
    bench.write(2, task="secret")
    bench.write(3)
    bench.state.take_on({LOGS: Backlog(at(0))})
    bench.run()
    assert bench.log_collector.accepted == texts(0, 3)


def test_of_a_model_without_trace_ids_all_is_sent(make: Callable[..., Bench]) -> None:
    """It cannot be told whose a record is; since when is known."""
    bench = make(model=MinimalRunRecord)
    bench.write(0, 1, 2)
    bench.state.take_on({LOGS: Backlog(at(1))})
    bench.run()
    assert bench.log_collector.accepted == texts(1, 2)


def test_where_nothing_is_known_what_is_ours_is_sent(make: Callable[..., Bench]) -> None:
    """As far back as the setting says, and not what this process knows of itself."""
    bench = make()
    now = (time.time_ns() - START) // SECOND
    bench.write(0, now - 700_000, now - 600_000, now - 10, now)
    bench.state.save({}, at(now))
    bench.run()
    assert bench.arrived(2) == (texts(now - 600_000, now - 10),) * 2
    assert bench.state.backlogs() == {}


def test_where_it_cannot_be_told_what_is_ours_nothing_is(make: Callable[..., Bench]) -> None:
    """History from before this project is not sent unasked."""
    bench = make(model=MinimalRunRecord)
    now = (time.time_ns() - START) // SECOND
    bench.write(now - 10)
    bench.state.save({}, at(now))
    bench.run()
    assert (bench.log_collector.accepted, bench.state.backlogs()) == ([], {})
    assert bench.state.unknown_until() is None


@pytest.mark.parametrize("model", [TaskEventRecord, MinimalRunRecord])
def test_a_note_of_the_future_is_not_believed(
    make: Callable[..., Bench], tmp_path: Path, model: Any
) -> None:
    """What may not be delivered is sent: better twice than never."""
    bench = make(model=model)
    now = (time.time_ns() - START) // SECOND
    bench.write(now - 10)
    dead = State(tmp_path)
    dead.save({LOGS: Checkpoint(at(now + 3600), 0)}, 0)
    dead.end()
    bench.run()
    assert bench.log_collector.accepted == texts(now - 10)


def test_nothing_is_done_while_another_process_does_it(
    make: Callable[..., Bench], tmp_path: Path
) -> None:
    """One at a time sends from the repository."""
    bench = make()
    bench.write(1)
    bench.state.take_on({LOGS: Backlog(0)})
    with State(tmp_path).lease() as is_theirs:
        assert is_theirs is True
        bench.run()
        assert bench.log_collector.accepted == []
    bench.run()
    assert bench.log_collector.accepted == texts(1)


def test_whoever_is_stopped_in_the_midst_has_noted_how_far_it_came(
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


def test_what_was_removed_meanwhile_does_not_hide_the_rest(make: Callable[..., Bench]) -> None:
    """If what was done is not what it was, all of it is sent once more."""
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


def test_a_repository_that_has_less_than_was_done_begins_anew(make: Callable[..., Bench]) -> None:
    """As when most of it was removed."""
    bench = make()
    bench.write(*range(5))
    bench.state.take_on({LOGS: Backlog(at(0), done=50, mark="x")})
    bench.run()
    assert bench.state.backlogs()[LOGS].done == 0
    bench.run()
    assert bench.log_collector.accepted == texts(*range(5))


def test_a_collector_that_goes_away_in_the_midst_does_not_stop_the_other(
    make: Callable[..., Bench],
) -> None:
    """It goes on with its own when it is back, from where it was, and with nothing twice."""
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


def test_how_far_it_has_come_is_noted_on_the_way(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each second, and every so many records: a process that is killed soon has come that far."""
    monkeypatch.setattr("rocketry_otel._delivery.catch_up._RECORDS_BETWEEN_NOTES", 20)
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


def test_what_is_under_way_at_the_end_is_waited_for(make: Callable[..., Bench]) -> None:
    """A collector that takes its time is not taken for one that has it all."""
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


def test_nothing_is_sent_again_while_an_earlier_turn_is_under_way(
    make: Callable[..., Bench],
) -> None:
    """What that has handed over comes to its end first: positions of two turns do not mix."""
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


def test_whoever_waits_too_long_for_another_process_sends_its_own(
    make: Callable[..., Bench], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that stands still with the lease holds nobody up; what the dead left stays with it."""
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


def test_half_of_the_time_is_for_others(make: Callable[..., Bench]) -> None:
    """It pauses as long as it has worked, so that tasks have their turn."""
    bench = make()
    bench.write(*range(200))
    bench.state.take_on({LOGS: Backlog(at(0))})
    bench.run()
    assert len([seconds for seconds in bench.pauses if seconds > 0]) == 4


def test_when_channels_are_closed_nothing_is_noted(make: Callable[..., Bench]) -> None:
    """What a channel has given up is not taken for sent."""
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


def test_the_end_of_a_queue_is_waited_for(make: Callable[..., Bench]) -> None:
    """What was read and not accepted keeps the backlog, whoever is told to stop."""
    bench = make()
    bench.write(1)
    bench.state.take_on({LOGS: Backlog(0)})
    bench.log_collector.answer = lambda _: UNAVAILABLE
    bench.run()
    assert bench.state.backlogs() == {LOGS: Backlog(0)}
    assert bench.logs.ask(lambda held: held.first_position(LOGS)) == 0


def test_a_collector_that_comes_and_goes_gets_all_of_it_in_the_end(
    make: Callable[..., Bench],
) -> None:
    """Though each time more is left: it goes on from where it was, and sends little twice."""
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
    # What is under way when it goes away may be sent once more, each time.
    assert len(arrived) <= 46 + 6 * 4
    assert bench.state.backlogs() == {}


def test_a_turn_that_outlasts_a_closing_notes_nothing_of_what_was_given_up(
    make: Callable[..., Bench],
) -> None:
    """All of it is sent by the next turn."""
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


def test_what_lies_behind_the_end_of_a_backlog_is_not_done(make: Callable[..., Bench]) -> None:
    """It was delivered when it was written; but some of it may be left before all is sent."""
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

"""A collector that is away, throttles or refuses, and an application that goes on meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.committed import Committed, Store
from tests.support.otlp_receiver import Fault, Hang, Redirect, Reset, Status
from tests.support.scenario import AppProcess, Scenario, trial
from tests.support.troubles import POISON, leave_out_poison, refuse_poison

from .shared import SMALL_QUEUES, full_run

# The longest pause between two tries is 30 s.
RESUMED_WITHIN = 40.0


@pytest.fixture(params=["sqlite", pytest.param("csv", marks=full_run)])
def store(request: pytest.FixtureRequest, make_store: Callable[[str], Store]) -> Store:
    """A durable repository."""
    return make_store(request.param)


def test_application_without_trouble_delivers_all_once(store: Store, tmp_path: Path) -> None:
    """All is delivered by the end, and nothing twice."""
    with trial(tmp_path, store) as one:
        generation = one.begin()
        generation.await_records()
        assert generation.stop() == 0
        delivered = one.settle(seconds=1)
        assert delivered.sent_again == 0
        assert one.dead_letters() == []


@pytest.mark.parametrize(
    "fault",
    [
        None,
        *(
            pytest.param(fault, marks=full_run)
            for fault in (Status(401), Status(429, retry_after=1), Hang(), Redirect())
        ),
    ],
    ids=str,
)
def test_overflow_arrives_without_a_restart(
    fault: Fault | None, make_store: Callable[[str], Store], tmp_path: Path
) -> None:
    """It is delivered after the outage."""
    with trial(tmp_path, make_store("sqlite"), **SMALL_QUEUES) as one:
        if fault is None:
            one.collector.stop()
        else:
            one.collector.behave(fault)
        generation = one.begin()
        generation.await_records()
        generation.pause()
        one.collector.get_well()
        one.settle()
        assert generation.say("flush", 20) is True
        assert generation.stop() == 0
        one.check()


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=full_run)])
def test_flapping_collector_gets_all(
    kind: str, make_store: Callable[[str], Store], tmp_path: Path
) -> None:
    """Outages follow each other while tasks go on and the application catches up."""
    with trial(tmp_path, make_store(kind), **SMALL_QUEUES) as one:
        generation = one.begin()
        for _ in range(8):
            one.collector.stop()
            generation.await_records(60)
            one.collector.get_well()
            generation.await_records(40)
        generation.pause()
        one.settle()
        assert generation.say("flush", 20) is True
        assert generation.stop() == 0
        one.check()


class InMemory(Scenario):
    """A scenario whose repository is in the memory of one process."""

    generation: AppProcess

    def committed(self) -> list[Committed]:
        """Ask the application itself."""
        return [Committed.of(row) for row in self.generation.say("records")]


@pytest.mark.parametrize("url", ["memory://"])
def test_overflow_arrives_from_memory(url: str, tmp_path: Path) -> None:
    """It is delivered within one process."""

    def rows() -> Iterator[Any]:
        yield from ()

    with trial(tmp_path, Store(url, rows), kind=InMemory, **SMALL_QUEUES) as one:
        assert isinstance(one, InMemory)
        one.collector.stop()
        one.generation = one.begin()
        one.generation.await_records()
        one.generation.pause()
        one.collector.get_well()
        one.settle()
        assert one.generation.say("flush", 20) is True
        assert one.generation.stop() == 0
        assert one.databases() == []


def test_refused_record_is_a_dead_letter_alone(store: Store, tmp_path: Path) -> None:
    """A record that is refused with 400 costs no other one, and its reason is stored."""
    with trial(tmp_path, store, CONSERVATION_TASKS="main,poison") as one:
        one.collector.behave_by(refuse_poison)
        generation = one.begin()
        generation.await_records()
        generation.pause()
        delivered = one.settle()
        poison = [it for it in one.committed() if it.task_name == POISON]
        assert len(poison) > 2
        assert delivered.missing(poison), "nothing was refused"
        assert [it for _, it in delivered.missing(one.committed())] == [
            it for _, it in delivered.missing(poison)
        ]
        aside = one.dead_letters()
        assert {row["task_name"] for row in aside} == {POISON}
        assert all("400" in row["reason"] for row in aside)
        status = generation.say("delivery")
        endings = [it for it in poison if it.action != "run"]
        assert status["logs"]["refused"] == len(poison)
        assert status["traces"]["refused"] == len(endings)
        assert status["logs"]["waiting"] == status["traces"]["waiting"] == 0
        # A dead letter is not sent again, in another process either.
        one.collector.get_well()
        one.kill(generation)
        one.begin(CONSERVATION_PAUSED="1")
        one.settle()


@full_run
def test_rejected_items_of_a_partial_success_are_dead_letters(store: Store, tmp_path: Path) -> None:
    """They are counted, stored with the reason, and never sent again."""
    with trial(tmp_path, store, CONSERVATION_TASKS="main,poison") as one:
        one.collector.behave_by(leave_out_poison)
        generation = one.begin()
        generation.await_records()
        generation.pause()
        one.settle()
        poison = [it for it in one.committed() if it.task_name == POISON]
        endings = [it for it in poison if it.action != "run"]
        status = generation.say("delivery")
        assert status["logs"]["refused"] == len(poison)
        assert status["traces"]["refused"] == len(endings)
        assert any("poison" in row["reason"] for row in one.dead_letters())
        one.collector.get_well()
        assert generation.stop() == 0
        one.begin(CONSERVATION_PAUSED="1")
        one.settle()
        assert not [key for key in one.check().log_records if key[0] == POISON]


@pytest.mark.parametrize("protocol", ["http", pytest.param("grpc", marks=full_run)])
def test_collector_that_refuses_everything_is_an_outage(
    protocol: str, make_store: Callable[[str], Store], tmp_path: Path
) -> None:
    """400 for every request makes no dead letter, and all arrives later."""
    with trial(tmp_path, make_store("sqlite"), protocol=protocol) as one:
        one.collector.behave(Status(400))
        generation = one.begin()
        generation.await_records()
        generation.pause()
        assert generation.say("flush", 1) is False
        status = generation.say("delivery")
        assert status["logs"]["refused"] == status["traces"]["refused"] == 0
        assert status["logs"]["waiting"] == len(one.committed())
        assert status["logs"]["last_error"]
        one.collector.get_well()
        one.settle()
        assert one.dead_letters() == []


@full_run
@pytest.mark.parametrize(
    ("fault", "protocol"), [(None, "http"), (Reset(taken=True), "grpc")], ids=str
)
def test_delivery_resumes_soon_after_an_outage(
    fault: Fault | None, protocol: str, make_store: Callable[[str], Store], tmp_path: Path
) -> None:
    """The pauses between tries are bounded."""
    with trial(tmp_path, make_store("sqlite"), protocol=protocol, **SMALL_QUEUES) as one:
        if fault is None:
            one.collector.stop()
        else:
            one.collector.behave(fault)
        generation = one.begin(CONSERVATION_PACE="0.2")
        # By then the pauses are some ten seconds long.
        assert not generation.is_over_within(20)
        generation.pause()
        one.collector.get_well()
        one.note("the collector is well")
        began = time.monotonic()
        one.settle(seconds=RESUMED_WITHIN)
        one.note(f"all arrived {time.monotonic() - began:.1f} s later")
        assert generation.say("flush", 10) is True

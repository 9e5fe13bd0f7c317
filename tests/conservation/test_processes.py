"""Children of the application, and two applications on one repository."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.committed import Store
from tests.support.scenario import trial

from .shared import SMALL_QUEUES, full_run

PROCESSES = "main,process"


@full_run
def test_process_tasks_lose_nothing_in_a_kill(
    make_store: Callable[[str], Store], tmp_path: Path
) -> None:
    """Records from child processes of a killed parent are delivered by the next process."""
    with trial(tmp_path, make_store("sqlite"), CONSERVATION_TASKS=PROCESSES) as one:
        one.collector.stop()
        for _ in range(2):
            generation = one.begin()
            generation.await_records(60)
            one.kill(generation)
        one.collector.get_well()
        generation = one.begin()
        generation.await_records(60)
        generation.pause()
        one.settle()
        assert generation.say("flush", 20) is True
        assert {"process", "process fails"} <= {it.task_name for it in one.committed()}


@full_run
@pytest.mark.parametrize("kind", ["sqlite", "csv"])
def test_child_that_outlives_its_parent_holds_nothing_up(
    kind: str, make_store: Callable[[str], Store], tmp_path: Path
) -> None:
    """A killed parent counts as dead, though a child of it goes on for long."""
    with trial(tmp_path, make_store(kind), CONSERVATION_TASKS="main,orphan") as one:
        one.collector.stop()
        generation = one.begin()
        generation.await_records(60)
        one.kill(generation)
        assert generation.has_children
        one.collector.get_well()
        one.begin(CONSERVATION_PAUSED="1")
        one.settle()
        assert generation.has_children


@pytest.mark.parametrize(
    "kind", ["sqlite", *(pytest.param(kind, marks=full_run) for kind in ("csv", "postgresql"))]
)
def test_application_delivers_the_records_of_a_killed_one(
    kind: str, make_store: Callable[[str], Store], tmp_path: Path
) -> None:
    """Two write to one repository in an outage; one is killed, the other delivers for both."""
    with trial(tmp_path, make_store(kind), **SMALL_QUEUES) as one:
        first = one.begin(CONSERVATION_PREFIX="first ")
        second = one.begin(CONSERVATION_PREFIX="second ")
        first.await_records()
        second.await_records()
        one.collector.stop()
        one.note("the collector is away")
        first.await_records()
        second.await_records()
        one.kill(first)
        second.await_records(50)
        one.collector.get_well()
        one.note("the collector is well")
        # Its tasks go on meanwhile: what is waited for is what is committed by now.
        one.settle()
        second.pause()
        one.settle()
        assert second.say("flush", 20) is True
        assert second.stop() == 0
        one.check()


@full_run
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_two_applications_share_the_work(
    kind: str, make_store: Callable[[str], Store], tmp_path: Path
) -> None:
    """Both overflow in an outage and go on: all is delivered by one or the other."""
    with trial(tmp_path, make_store(kind), **SMALL_QUEUES) as one:
        one.collector.stop()
        lives = [one.begin(CONSERVATION_PREFIX=f"{name} ") for name in ("first", "second")]
        for generation in lives:
            generation.await_records()
        one.collector.get_well()
        one.settle()
        for generation in lives:
            generation.pause()
        one.settle()
        for generation in lives:
            assert generation.say("flush", 20) is True
            assert generation.stop() == 0
        one.check()


@full_run
def test_next_application_takes_over_two_killed_ones(
    make_store: Callable[[str], Store], tmp_path: Path
) -> None:
    """Both are killed in an outage: the next one delivers the records of both."""
    with trial(tmp_path, make_store("postgresql"), **SMALL_QUEUES) as one:
        one.collector.stop()
        lives = [one.begin(CONSERVATION_PREFIX=f"{name} ") for name in ("first", "second")]
        for generation in lives:
            generation.await_records(60)
        for generation in lives:
            one.kill(generation)
        one.collector.get_well()
        one.begin(CONSERVATION_PREFIX="third ", CONSERVATION_PAUSED="1")
        one.settle()

"""A long history that waits to be delivered."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.support.catching_up import await_all, behind, catch_up

from .shared import SMALL_QUEUES, full_run

FEW = 5_000
MANY = 20_000
MEGABYTES = 25


@full_run
def test_memory_does_not_grow_with_the_backlog(tmp_path: Path) -> None:
    """A backlog of four times the size takes hardly more memory."""
    measured = []
    for records in (FEW, MANY):
        directory = tmp_path / str(records)
        directory.mkdir()
        measured.append(catch_up(directory, records, timeout=120))
    few, many = measured
    assert many.megabytes - few.megabytes < MEGABYTES, measured


@full_run
def test_killed_catch_up_is_resumed(tmp_path: Path) -> None:
    """Each process goes on about where the last one was killed, not from the beginning."""
    with behind(tmp_path, MANY) as (one, collector):
        for _ in range(4):
            generation = one.begin(CONSERVATION_PAUSED="1")
            before = len(collector.log_records_seen)
            assert collector.wait_for(
                lambda _, before=before: len(collector.log_records_seen) >= before + MANY // 6, 60
            ), one.report([f"nothing more arrives after {before} records"])
            one.kill(generation)
        one.begin(CONSERVATION_PAUSED="1")
        count = await_all(one, collector, 60)
        # From the beginning each time it would be more than twice as many.
        assert collector.log_records_sent < 1.7 * count


@full_run
def test_hanging_catch_up_holds_up_no_other_application(
    tmp_path: Path,
) -> None:
    """The overflow of another one arrives, though the first keeps the lease."""
    with behind(tmp_path, MANY) as (one, collector):
        still = one.begin(CONSERVATION_PAUSED="1")
        assert collector.wait_for(lambda _: len(collector.log_records_seen) > MANY // 10, 60)
        os.kill(still.process.pid, signal.SIGSTOP)
        one.note("the first stands still")
        other = one.begin(CONSERVATION_PREFIX="other ", **SMALL_QUEUES)
        collector.stop()
        other.await_records()
        other.pause()
        collector.get_well()
        its_own = {
            (bytes.fromhex(row.span_id), row.nanoseconds)
            for row in one.committed()
            if row.task_name.startswith("other ")
        }
        arrived = collector.wait_for(lambda _: its_own <= collector.log_records_seen, 60)
        os.kill(still.process.pid, signal.SIGCONT)
        assert arrived, one.report([f"{len(its_own - collector.log_records_seen)} are missing"])
        await_all(one, collector, 60)

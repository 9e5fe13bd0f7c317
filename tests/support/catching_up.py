"""Lets an application catch up with a long history, and measures it."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.committed import sqlite
from tests.support.history import CountingCollector, write_history
from tests.support.scenario import Scenario


@dataclass(frozen=True)
class CaughtUp:
    """How an application caught up.

    Attributes:
        records: How many records there were.
        seconds: How long it took, from the start of the scheduler.
        megabytes: How much memory the process took at most.
    """

    records: int
    seconds: float
    megabytes: float


@contextmanager
def behind(directory: Path, records: int) -> Iterator[tuple[Scenario, CountingCollector]]:
    """Write a history that a dead process has left without having delivered any of it."""
    store = sqlite(directory)
    start = write_history(directory / "tasks.db", records)
    with CountingCollector() as collector:
        more = {"CONSERVATION_TASKS": "main", "OTEL_EXPORTER_OTLP_TIMEOUT": "10"}
        one = Scenario(directory, store, collector, more)
        try:
            collector.stop()
            generation = one.begin()
            generation.await_records(10)
            one.kill(generation)
            for path in one.databases():
                with closing(sqlite3.connect(path)) as connection, connection:
                    connection.execute("UPDATE writer SET since = ?", (int((start - 1) * 1e9),))
            collector.get_well()
            yield one, collector
        finally:
            one.clear_away()
            collector.get_well()


def await_all(one: Scenario, collector: CountingCollector, timeout: float) -> int:
    """Wait until all that is committed has arrived, and return how many records these are.

    Raises:
        AssertionError: They do not arrive in time.
    """
    rows = one.committed()
    endings = {row.span_id for row in rows if row.action != "run"}
    keys = {(bytes.fromhex(row.span_id), row.nanoseconds) for row in rows}
    done = collector.wait_for(
        lambda _: (
            len(collector.log_records_seen) >= len(keys)
            and len(collector.spans_seen) >= len(endings)
        ),
        timeout,
    )
    assert done, one.report([f"{len(collector.log_records_seen)} of {len(keys)} in {timeout} s"])
    assert collector.log_records_seen == keys
    assert {span.hex() for span in collector.spans_seen} == endings
    return len(rows)


def catch_up(directory: Path, records: int, timeout: float) -> CaughtUp:
    """Let an application deliver a history in one go, and measure it."""
    with behind(directory, records) as (one, collector):
        generation = one.begin(CONSERVATION_PAUSED="1")
        began = time.monotonic()
        count = await_all(one, collector, timeout)
        return CaughtUp(count, time.monotonic() - began, generation.say("memory"))

"""Lets an application catch up with a long history, and measures it."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from support.committed import sqlite
from support.history import CountingCollector, write_history
from support.trial import Trial


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


def catch_up(directory: Path, records: int, timeout: float) -> CaughtUp:
    """Write a history that a dead process has left, and let an application deliver it.

    Raises:
        AssertionError: It does not deliver all of it in time.
    """
    store = sqlite(directory)
    start = write_history(directory / "tasks.db", records)
    with CountingCollector() as collector:
        more = {"CONSERVATION_TASKS": "main", "OTEL_EXPORTER_OTLP_TIMEOUT": "10"}
        one = Trial(directory, store, collector, more)
        try:
            # A process that dies before anything is delivered, and so at the oldest record.
            collector.stop()
            first = one.begin()
            first.await_records(10)
            one.kill(first)
            for path in one.databases():
                with closing(sqlite3.connect(path)) as connection, connection:
                    connection.execute("UPDATE writer SET since = ?", (int((start - 1) * 1e9),))
            collector.get_well()
            life = one.begin(CONSERVATION_PAUSED="1")
            began = time.monotonic()
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
            seconds = time.monotonic() - began
            assert done, one.report(
                [f"{len(collector.log_records_seen)} of {len(keys)} records after {seconds:.1f} s"]
            )
            assert collector.log_records_seen == keys
            assert {span.hex() for span in collector.spans_seen} == endings
            return CaughtUp(len(rows), seconds, life.say("memory"))
        finally:
            one.clear_away()
            collector.get_well()

"""A long history in a repository, as the handler would have written it, written at once."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

from rocketry_otel import TaskEventRecord, open_repository
from rocketry_otel._model.ids import ids_of
from tests.support.committed import TABLE
from tests.support.otlp_receiver import Arrival, Fault
from tests.support.troubles import Collector, groups

DAY = 86_400.0
TRACEBACK = 'Traceback (most recent call last):\n  File "etl.py", line 3, in etl\n    load()\n' * 8


def write_history(path: Path, records: int) -> float:
    """Write so many records of runs that took place on the last day; half of them are endings.

    Returns:
        When the first was created, in seconds since the epoch.
    """
    open_repository(f"sqlite:///{path}")
    fields = list(TaskEventRecord.__fields__)
    columns, places = ", ".join(fields), ", ".join("?" * len(fields))
    insert = f"INSERT INTO {TABLE} ({columns}) VALUES ({places})"  # noqa: S608
    start = time.time() - DAY
    step = (DAY - 60) / records
    rows = (
        [one.get(field) for field in fields]
        for number in range(records // 2)
        for one in _run(number, start + 2 * step * number, step)
    )
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(insert, rows)
    return start


def _run(number: int, began: float, step: float) -> list[dict[str, object]]:
    name, run_id = f"task {number % 20}", f"{number:032x}"
    ids = ids_of(name, run_id, int(began * 1e9))
    common: dict[str, object] = {
        "task_name": name,
        "run_id": run_id,
        "trace_id": ids.trace_hex,
        "span_id": ids.span_hex,
        "process": 1,
        "thread": "1",
    }
    failed = number % 10 == 0
    ending = "fail" if failed else "success"
    failure = {
        "exc_text": f"{TRACEBACK}ValueError: boom",
        "exc_type": "ValueError",
        "exc_message": "boom",
    }
    return [
        {**common, "action": "run", "created": began, "execution": "main"},
        {
            **common,
            "action": ending,
            "created": began + step,
            "message": f"Task '{name}' status: '{ending}'",
            "attributes": '{"rows": 1200}',
            **(failure if failed else {}),
        },
    ]


class CountingCollector(Collector):
    """A collector that only counts the telemetry."""

    def __init__(self) -> None:
        super().__init__(grpc=False)
        self.spans_seen: set[bytes] = set()
        self.log_records_seen: set[tuple[bytes, int]] = set()
        self.log_records_sent = 0

    def _receive(self, arrival: Arrival, gone: object) -> Fault:
        fault = super()._receive(arrival, gone)  # type: ignore[arg-type]
        with self._changed:
            self._arrivals.remove(arrival)
            for group in groups(arrival.message) if fault.taken else ():
                for item in group:
                    if arrival.signal == "traces":
                        self.spans_seen.add(item.span_id)
                    else:
                        self.log_records_sent += 1
                        self.log_records_seen.add((item.span_id, item.time_unix_nano))
            self._changed.notify_all()
        return fault

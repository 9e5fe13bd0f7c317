"""Runs the application of ``conservation_app.py`` again and again, and checks what arrived."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from rocketry_otel._delivery.crash_records import CrashRecords
from tests.support.app_process import AppProcess
from tests.support.arrivals import Arrivals
from tests.support.committed import Committed, Store
from tests.support.troubles import POISON, Collector

# What a healthy collector may have to wait for: the longest pause between two tries, and then some.
SETTLE_SECONDS = 60
_SHOWN = 15
_LOOK_SECONDS = 1.0


class Scenario:
    """Processes of one application, one after another, with one repository and one collector.

    Args:
        directory: The directory of all files.
        store: The repository.
        collector: The collector.
        environment: More variables of the application.
        seed: The seed of all random choices, shown at a failure.
    """

    def __init__(
        self,
        directory: Path,
        store: Store,
        collector: Collector,
        environment: Mapping[str, str] | None = None,
        seed: object = None,
    ) -> None:
        self.directory = directory
        self.store = store
        self.collector = collector
        self.seed = seed
        self.state = directory / "state"
        self.environment = {
            "ROCKETRY_OTEL_REPO": store.url,
            "ROCKETRY_OTEL_STATE_DIR": str(self.state),
            "XDG_STATE_HOME": str(directory / "home"),
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.http_endpoint,
            "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "OTEL_BLRP_SCHEDULE_DELAY": "100",
            **(environment or {}),
        }
        self._processes: list[AppProcess] = []
        self._delivered = Arrivals()
        self._journal: list[tuple[float, str]] = []

    def note(self, what: str) -> None:
        """Keep an event and its time, shown at a failure."""
        self._journal.append((time.time(), what))

    def start(self, **environment: str) -> AppProcess:
        """Start a process, with these variables added."""
        number = len(self._processes) + 1
        generation = AppProcess(
            f"process-{number}", {**self.environment, **environment}, self.directory
        )
        self._processes.append(generation)
        self.note(f"{generation.name} starts")
        return generation

    def begin(self, **environment: str) -> AppProcess:
        """Start a process and wait until its scheduler runs."""
        generation = self.start(**environment)
        generation.await_ready()
        return generation

    def kill(self, generation: AppProcess) -> None:
        """Kill a process."""
        generation.kill()
        self.note(f"{generation.name} is killed")

    def clear_away(self) -> None:
        """Leave no process behind."""
        for generation in self._processes:
            generation.clear_away()

    def committed(self) -> list[Committed]:
        """Return all records of the repository, behind the crash records that are beside it."""
        found = []
        for path in self.databases():
            found += [Committed.of(fields) for fields in CrashRecords(path.parent).all()]
        return [*found, *self.store.committed()]

    def databases(self) -> list[Path]:
        """Return the files with the delivery progress."""
        return sorted(self.directory.glob("**/delivery.db"))

    def left_over(self) -> list[str]:
        """Return the checkpoints, backlogs and locks that are left: none at the end."""
        lines = [str(path) for path in self.directory.glob("**/writer-*.lock")]
        for path in self.databases():
            with closing(sqlite3.connect(path, timeout=30)) as connection:
                for table in ("writer", "backlog"):
                    rows = connection.execute(f"SELECT * FROM {table}")  # noqa: S608
                    lines += [f"{table}: {row}" for row in rows]
        return lines

    def dead_letters(self) -> list[dict[str, Any]]:
        """Return the dead letters of the application, with their reasons."""
        rows: list[dict[str, Any]] = []
        for path in self.databases():
            with closing(sqlite3.connect(path, timeout=30)) as connection:
                connection.row_factory = sqlite3.Row
                rows += map(dict, connection.execute("SELECT * FROM refused"))
        return rows

    def delivered(self) -> Arrivals:
        """Return the arrivals; each is looked at once."""
        self._delivered.add(self.collector.requests)
        return self._delivered

    def missing(self, committed: Sequence[Committed]) -> list[tuple[str, Committed]]:
        """Return the committed records that have not arrived and are no dead letters."""
        missing = self.delivered().missing(committed)
        if any(one.task_name.endswith(POISON) for _, one in missing):
            letters = self.dead_letters()
            missing = [
                (signal, one)
                for signal, one in missing
                if not _is_dead_letter(signal, one, letters)
            ]
        return missing

    def settle(self, seconds: float = SETTLE_SECONDS) -> Arrivals:
        """Wait until all committed records have arrived, and check the arrivals.

        Returns:
            The arrivals.

        Raises:
            AssertionError: A record is missing, or an arrival is wrong.
        """
        committed = self.committed()
        self.note(f"{len(committed)} records are committed, and the wait for them begins")
        self.await_arrival(committed, seconds)
        return self.check()

    def await_arrival(self, committed: Sequence[Committed], seconds: float) -> None:
        """Wait until all of these have arrived, or are dead letters.

        Raises:
            AssertionError: Some are missing when the time is over.
        """
        deadline = time.monotonic() + seconds
        left = list(committed)

        def is_there(_: object) -> bool:
            # The collector waits meanwhile: only missing records are looked for again.
            missing = {id(one) for _, one in self.missing(left)}
            left[:] = [one for one in left if id(one) in missing]
            return not left

        # A dead letter is no arrival: so this looks again from time to time.
        while not self.collector.wait_for(is_there, _LOOK_SECONDS):
            if time.monotonic() > deadline:
                raise AssertionError(self.report(self.describe(self.missing(committed))))

    def check(self) -> Arrivals:
        """Check that the arrivals match the records, and are equal each time; return them.

        Raises:
            AssertionError: An arrival is wrong.
        """
        delivered = self.delivered()
        # In this order: records are committed before they are sent.
        untrue = delivered.untrue(self.committed())
        assert not untrue, self.report(untrue)
        assert self.collector.malformed == []
        return delivered

    def describe(self, missing: Sequence[tuple[str, Committed]]) -> list[str]:
        """Return a line for each missing item, with the events before it."""
        return [
            f"missing in {signal}: {one}, after {self._before(one.created)}"
            for signal, one in missing
        ]

    def _before(self, moment: float) -> str:
        past = [(when, what) for when, what in self._journal if when <= moment]
        return "; ".join(f"{what} {moment - when:.3f} s before" for when, what in past[-3:])

    def report(self, lines: Sequence[str]) -> str:
        """Return the message of a failure."""
        shown = [
            *lines[:_SHOWN],
            *([f"... and {len(lines) - _SHOWN} more"] * (len(lines) > _SHOWN)),
        ]
        started = self._journal[0][0] if self._journal else 0.0
        journal = [f"{when - started:8.3f} {what}" for when, what in self._journal]
        output = [f"{one.name}: {one.stderr[-2_000:]}" for one in self._processes if one.stderr]
        return "\n".join(
            [
                f"CONSERVATION_SEED={self.seed}; {len(lines)} are wrong:",
                *shown,
                "What happened:",
                *journal[-200:],
                "Output:",
                *output[-5:],
            ]
        )


def _is_dead_letter(signal: str, one: Committed, letters: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether one of the rows is the dead letter of a record, with a reason."""
    names = (one.task_name, one.action, one.nanoseconds)
    return any(
        row["channel"].partition(" ")[0] == signal
        and row["reason"]
        and (row["task_name"], row["action"], row["created"]) == names
        for row in letters
    )


@contextmanager
def trial(
    directory: Path,
    store: Store,
    *,
    seed: object = None,
    protocol: str = "http",
    kind: type[Scenario] = Scenario,
    **more: str,
) -> Iterator[Scenario]:
    """Give a scenario with a collector of its own, and leave no process behind."""
    with Collector(grpc=protocol == "grpc") as collector:
        environment = dict(more)
        if protocol == "grpc":
            environment["OTEL_EXPORTER_OTLP_PROTOCOL"] = "grpc"
            environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = collector.grpc_endpoint
        one = kind(directory, store, collector, environment, seed)
        try:
            yield one
        finally:
            one.clear_away()
            # Hanging requests are answered: their clients are gone.
            collector.get_well()

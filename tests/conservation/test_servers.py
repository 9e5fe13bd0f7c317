"""A database server that is killed, with its application or without it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.arrivals import Arrivals, RecordKey, SpanKey, record_key, span_key
from tests.support.committed import Committed, Store
from tests.support.scenario import Scenario, trial

from .shared import full_run

# How many kills of each server there are.
KILLS = {"postgresql": 5, "mariadb": 5, "ferretdb": 4}
LONGEST_SECONDS = 1.0
# A record that the server refuses may have been made so long before the server was killed.
BEFORE = 5.0


class WithOutages(Scenario):
    """A scenario in which the server of the repository is away for some time.

    An application sends telemetry of a record that the repository refuses, too. Such telemetry is
    not compared with the repository.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._outages: list[tuple[float, float]] = []

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Kill the server, and start it again at the end."""
        assert self.store.server is not None
        began = time.time()
        self.store.server.kill()
        self.note("the database is killed")
        try:
            yield
        finally:
            self.store.server.start()
            self._outages.append((began - BEFORE, time.time()))
            self.note("the database is there again")

    def check(self) -> Arrivals:
        """Check the arrivals, without those of records that the repository has refused."""
        delivered = self.delivered()
        committed = self.committed()
        accepted = self._accepted(delivered, committed)
        untrue = accepted.untrue(committed)
        assert not untrue, self.report(untrue)
        assert self.collector.malformed == []
        return accepted

    def _accepted(self, delivered: Arrivals, committed: list[Committed]) -> Arrivals:
        known = {record_key(one) for one in committed}
        times = {(span_key(one), one.nanoseconds) for one in committed}
        accepted = Arrivals()
        for key, records in delivered.log_records.items():
            if not self._is_refused(key, known):
                accepted.log_records[key] = records
        for ids, copies in delivered.spans.items():
            kept = [one for one in copies if not self._has_refused(ids, one.span, times)]
            if kept:
                accepted.spans[ids] = kept
        return accepted

    def _is_refused(self, key: RecordKey, known: set[RecordKey]) -> bool:
        return key not in known and self._is_in_outage(key[2])

    def _has_refused(self, key: SpanKey, span: Any, known: set[tuple[SpanKey, int]]) -> bool:
        ends = (span.start_time_unix_nano, span.end_time_unix_nano)
        return any((key, one) not in known and self._is_in_outage(one) for one in ends)

    def _is_in_outage(self, nanoseconds: int) -> bool:
        return any(began <= nanoseconds / 1e9 <= ended for began, ended in self._outages)


def live(one: WithOutages, chance: random.Random) -> None:
    """Run the application for a while, and kill its database and itself in some order."""
    generation = one.begin()
    generation.await_records(chance.randint(5, 50))
    order = chance.choice(["database", "application", "both", "database alone"])
    one.note(f"to be killed: {order}")
    if order == "application":
        one.kill(generation)
    with one.outage():
        if order == "database":
            # It may end by itself: what Rocketry cannot log fails the task.
            generation.is_over_within(chance.uniform(0.0, LONGEST_SECONDS))
        if order != "database alone":
            one.kill(generation)
    generation.is_over_within(chance.uniform(0.0, LONGEST_SECONDS))
    one.kill(generation)


def moods(chance: random.Random) -> Iterable[bool]:
    """Return whether the collector is there, of one process after another."""
    while True:
        yield chance.random() < 0.5


@full_run
@pytest.mark.parametrize("kind", KILLS)
def test_killed_database_loses_nothing(
    kind: str,
    make_store: Callable[[str], Store],
    tmp_path: Path,
    seed: str,
    chance: random.Random,
) -> None:
    """Every record that the database has committed is delivered, whatever was killed, and when."""
    with trial(tmp_path, make_store(kind), seed=seed, kind=WithOutages) as one:
        assert isinstance(one, WithOutages)
        for _, is_well in zip(range(KILLS[kind]), moods(chance), strict=False):
            if is_well:
                one.collector.get_well()
            else:
                one.collector.stop()
            one.note(f"the collector is {'well' if is_well else 'away'}")
            live(one, chance)
        one.collector.get_well()
        one.note("the collector is well")
        last = one.begin(CONSERVATION_PAUSED="1")
        one.settle()
        assert last.stop() == 0, one.report(["it does not end as it should"])
        one.check()
        assert not one.left_over(), one.report(one.left_over())
        assert len(one.committed()) > 5 * KILLS[kind]

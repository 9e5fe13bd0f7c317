"""Whatever is committed arrives: an application is killed, and its collector in trouble."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.committed import Store
from tests.support.conservation_app import USUAL
from tests.support.scenario import Scenario, trial
from tests.support.troubles import TROUBLES, rotation

from .shared import full_run

LONGEST_SECONDS = 1.5
# Of the cases, how many kills there are in a full run: more than 50 together.
CASES = {
    "sqlite over http": 14,
    "sqlite over grpc": 10,
    "csv over http with gzip": 12,
    "json over grpc": 6,
    "postgresql over http": 12,
    "processes, sqlite over http": 6,
}
# `make test-conservation-long` has many times as many.
TIMES = int(os.environ.get("CONSERVATION_TIMES", "1"))
FEW = ("sqlite over http", "csv over grpc", "postgresql over http")
KILLS_OF_FEW = 2


def live(
    one: Scenario, chance: random.Random, troubles: Iterator[tuple[str, float]], environment: dict
) -> None:
    """Run the application for a while in all kinds of trouble, and kill it."""
    generation = one.start(**environment)
    if chance.random() < 0.2:
        left = chance.uniform(0.0, LONGEST_SECONDS)  # it may not have come far by then
    else:
        generation.await_ready()
        left = chance.uniform(0.0, LONGEST_SECONDS)
    end = time.monotonic() + left
    while (left := end - time.monotonic()) > 0:
        name, seconds = next(troubles)
        TROUBLES[name](one.collector)
        one.note(f"the collector: {name}")
        assert not generation.is_over_within(min(seconds, left)), one.report(
            [f"{generation.name} ended"]
        )
    one.kill(generation)


def run(case: str, kills: int, store: Store, path: Path, seed: str, chance: random.Random) -> None:
    """Kill an application so many times, and check the delivery of its committed records."""
    tasks = f"{USUAL},poison" + (",process" if "process" in case else "")
    more = {"OTEL_EXPORTER_OTLP_COMPRESSION": "gzip"} if "gzip" in case else {}
    troubles = rotation(chance)
    with trial(
        path,
        store,
        seed=seed,
        protocol="grpc" if "grpc" in case else "http",
        CONSERVATION_TASKS=tasks,
        **more,
    ) as one:
        for _ in range(kills):
            # As often as not the queue still holds much at the end.
            slow = chance.choice([{}, {"OTEL_BSP_SCHEDULE_DELAY": "1000"}])
            small = chance.choice([{}, {"OTEL_BLRP_MAX_QUEUE_SIZE": "30"}])
            live(one, chance, troubles, {**slow, **small})
        one.collector.get_well()
        one.note("the collector is well")
        last = one.begin(CONSERVATION_PAUSED="1")
        one.settle()
        assert last.stop() == 0, one.report(["it does not end as it should"])
        one.check()
        assert not one.left_over(), one.report(one.left_over())
        if kills > KILLS_OF_FEW:  # of few lives each may be killed before its first record
            committed = one.committed()
            assert len(committed) > 5 * kills
            assert any(record.action == "crash" for record in committed)


@pytest.mark.parametrize("case", FEW)
def test_few_kills_lose_nothing(
    case: str,
    make_store: Callable[[str], Store],
    tmp_path: Path,
    seed: str,
    chance: random.Random,
) -> None:
    """Killed twice in all kinds of trouble, an application delivers all committed records."""
    store = make_store(case.partition(" ")[0])
    run(case, KILLS_OF_FEW, store, tmp_path, seed, chance)


@full_run
@pytest.mark.parametrize("case", CASES)
def test_many_kills_lose_nothing(
    case: str,
    make_store: Callable[[str], Store],
    tmp_path: Path,
    seed: str,
    chance: random.Random,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Killed again and again in all kinds of trouble, it delivers all committed records."""
    kills = CASES[case] * TIMES
    with capsys.disabled():
        print(f"\nCONSERVATION_SEED={seed}, {kills} kills, {case}")  # noqa: T201
    kind = next(kind for kind in ("sqlite", "csv", "json", "postgresql") if kind in case)
    run(case, kills, make_store(kind), tmp_path, seed, chance)

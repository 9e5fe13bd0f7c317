"""Several workers on one PostgreSQL, each replaced by SIGTERM while the others go on."""

from __future__ import annotations

import random
import signal
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.support.arrivals import SpanKey, span_key
from tests.support.committed import NO_SPAN, Committed, Store
from tests.support.conservation_app import USUAL
from tests.support.scenario import trial

from .shared import SMALL_QUEUES, full_run

WORKERS = 3
ROUNDS = 2
# Their tasks go on for as long as their worker.
LONG = {"long async", "long thread"}


def endings(committed: Sequence[Committed]) -> dict[SpanKey, list[str]]:
    """Return how each run ended, as often as it did."""
    found = defaultdict(list)
    for one in committed:
        if one.action != "run" and one.span_id != NO_SPAN:
            found[span_key(one)].append(one.action)
    return found


@full_run
def test_rolling_restarts_lose_nothing_and_end_no_living_run(
    make_store: Callable[[str], Store], tmp_path: Path, seed: str, chance: random.Random
) -> None:
    """Workers have the same tasks. A run ends once: by itself, or after the end of its worker."""
    with trial(
        tmp_path,
        make_store("postgresql"),
        seed=seed,
        CONSERVATION_TASKS=f"{USUAL},process",
        **SMALL_QUEUES,
    ) as one:
        workers = [one.begin() for _ in range(WORKERS)]
        for number in range(WORKERS * ROUNDS):
            place = number % WORKERS
            for worker in workers:
                worker.await_records(30)
            if chance.random() < 0.3:
                one.collector.stop()
                one.note("the collector is away")
            assert workers[place].terminate() == -signal.SIGTERM, one.report(["not of SIGTERM"])
            one.note(f"{workers[place].name} has ended")
            one.collector.get_well()
            workers[place] = one.begin()
        for worker in workers:
            worker.await_records(30)
            worker.pause()
        one.settle()
        for worker in workers:
            assert worker.say("flush", 20) is True
            assert worker.stop() == 0, one.report(["it does not end as it should"])
        one.begin(CONSERVATION_PAUSED="1")
        one.settle()
        committed = one.committed()
        ended = endings(committed)
        twice = {key for key, actions in ended.items() if len(actions) > 1}
        assert not twice, one.report([str(it) for it in committed if span_key(it) in twice])
        begun = [it for it in committed if it.action == "run"]
        unended = [it for it in begun if span_key(it) not in ended]
        assert not unended, one.report([f"without an ending: {it}" for it in unended])
        # Each worker had one run of each long task. Those of a replaced worker ended as crashes.
        long = [it for it in begun if it.task_name in LONG]
        crashed = [it for it in long if ended[span_key(it)] == ["crash"]]
        assert len(crashed) >= WORKERS * ROUNDS
        # Rocketry has taken living runs for crashed ones: these crashes belong to no run.
        assert any(it.span_id == NO_SPAN for it in committed)

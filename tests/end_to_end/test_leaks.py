"""Ten thousand runs leave context and memory as they were."""

from __future__ import annotations

import contextvars
import gc
import logging
import sys
import threading
import tracemalloc
from collections import Counter
from typing import Any

import pytest
from opentelemetry import baggage
from opentelemetry.context import attach, detach, get_current
from redbird.repos import MemoryRepo
from rocketry.conditions.api import after_success

from rocketry_otel import Settings, TaskEventRecord, current_run, instrument
from rocketry_otel.testing import TelemetryCapture
from tests.support.apps import make_app

pytestmark = pytest.mark.slow

REMEMBERED = 100  # ended runs that are remembered, fewer than by itself
# Of each class, how many more objects may be there. Each bucket of a histogram keeps an example,
# and a busy machine fills more buckets.
MOST = 10
MOST_EXAMPLES = {"Exemplar": 100, "ExemplarBucket": 100}


class NewestRepo(MemoryRepo):
    """A repository that does not grow: only the newest records are kept."""

    def insert(self, item: Any) -> None:
        """Keep an item, and of the others a few."""
        super().insert(item)
        del self.collection[:-10]


def ours() -> Counter[str]:
    """Return how many objects of our classes, and of contexts and generators, there are."""
    for thread in threading.enumerate():
        if thread.name == "rocketry-otel-measure":
            thread.join()  # it holds a thousand notes
    gc.collect()
    return Counter(
        type(one).__name__
        for one in gc.get_objects()
        if str(type(one).__module__).startswith(("rocketry_otel", "opentelemetry"))
        or type(one) in {contextvars.Context, contextvars.Token}
        or (type(one).__name__ == "generator" and one.__qualname__.startswith("SchedulerHooks"))
    )


class Pairs:
    """An application in which a load is followed by a report, and that by the next load."""

    def __init__(self, execution: str, telemetry: TelemetryCapture) -> None:
        self.app = make_app()
        if execution == "main":
            self.app.session.config.cycle_sleep = None
        self._telemetry = telemetry
        self._left = 0
        self.reports = 0
        self.loads = 0
        instrument(
            self.app,
            repo=NewestRepo(model=TaskEventRecord),
            settings=Settings(global_providers=False),
            **telemetry.providers,
        )
        session = self.app.session
        session.create_task(func=self.load, name="load", execution=execution)
        session.create_task(
            func=self.report, name="report", start_cond=after_success("load"), priority=-1
        )

    def load(self) -> None:
        run = current_run()
        assert run is not None
        run.set_attribute("left", self._left)
        run.add_event("half", {"left": self._left})
        self.loads += 1

    def report(self) -> None:
        self.reports += 1
        self._left -= 1
        self._telemetry.clear()
        if self._left <= 0:
            self.app.session.shut_down()
        else:
            self.app.session["load"].run()

    def run(self, pairs: int) -> None:
        self._left = pairs
        self.app.session["load"].run()
        self.app.run()


@pytest.mark.parametrize(("execution", "runs"), [("main", 10_000), ("thread", 2_000)])
def test_ten_thousand_runs_leave_nothing_behind(
    execution: str, runs: int, telemetry: TelemetryCapture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Context, memory and the objects of our classes are as they were before."""
    monkeypatch.setattr("rocketry_otel._model.runs._ENDED_RUNS_LIMIT", REMEMBERED)
    monkeypatch.setattr("rocketry_otel._instrumentation.schedule_link._MOST_RUN_TIMES", REMEMBERED)
    monkeypatch.setattr("rocketry_otel._schedule.spans._MOST", MOST // 2)
    # pytest keeps all that it is shown
    monkeypatch.setattr(logging.getLogger("rocketry.task"), "propagate", False)
    pairs = Pairs(execution, telemetry)
    outermost = get_current()
    token = attach(baggage.set_baggage("team", "blue"))
    try:
        context = get_current()
        pairs.run(REMEMBERED)
        objects, blocks = ours(), sys.getallocatedblocks()
        pairs.run(runs // 2 * 9 // 10)
        tracemalloc.start()
        try:
            pairs.run(REMEMBERED)  # so that forgotten runs were counted when they began
            gc.collect()
            base, _ = tracemalloc.get_traced_memory()
            pairs.run(runs // 2 // 10)
            grown = ours() - objects
            size, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        gc.collect()
        more_blocks = sys.getallocatedblocks() - blocks
        assert get_current() is context
        assert not current_run()
    finally:
        detach(token)
    assert get_current() is outermost
    assert pairs.loads == pairs.reports == 2 * REMEMBERED + runs // 2
    assert {
        name: count for name, count in grown.items() if count > MOST_EXAMPLES.get(name, MOST)
    } == {}
    # Coverage, where it measures, keeps a few blocks for each thread that there ever was (and
    # about a kilobyte: a tenth of the threads are in the part whose size is measured).
    measured = 4 * runs if execution == "thread" and sys.gettrace() is not None else 0
    # Caches that fill slowly are 500 to 700 of these, after 1,000 runs as after 4,000.
    assert more_blocks < 800 + runs // 10 + measured
    # Python's cache of attributes keeps names that Rocketry makes anew at each run, 20 to 30 kB of
    # them, and on a slow machine the metrics are collected meanwhile.
    assert size - base < 80_000 + 50 * measured

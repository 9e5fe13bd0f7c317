"""Measures how much CPU time the attributes of a launch add to a run.

The attributes answer why the run began, how late it was, and which attempt it is.

One task in the execution "main" has nothing in its body. The application's clock moves on by one
slot after each run, so the task is due again at once; the scheduler does not sleep. The repository
is in memory. An instrumented application is compared with the same one without the attributes of a
launch, in CPU time of the scheduler's thread, and with plain Rocketry.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

from figures import Figure, Size, child, run
from rocketry import Rocketry
from rocketry.conds import after_success, cron, daily, every, hourly, retry
from sink import sink

import rocketry_otel  # noqa: F401  # Rocketry and Red Bird see the right pydantic
from rocketry_otel import instrument
from rocketry_otel._instrumentation import launch_attributes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROUNDS = 3
RUNS = 300
MINUTE, HOUR, DAY = 60.0, 3_600.0, 86_400.0

# A start condition, and how far the clock moves after each run, in seconds.
CONDITIONS: dict[str, tuple[Callable[[], Any], float]] = {
    # It wants more than its interval.
    "every": (lambda: every("1 min"), MINUTE + 1.0),
    "cron": (lambda: cron("* * * * *"), MINUTE),
    "hourly": (lambda: hourly, HOUR),
    "daily": (lambda: daily, DAY),
    "daily.between": (lambda: daily.between("00:00", "23:00"), DAY),
    "cron | after_success": (lambda: cron("* * * * *") | after_success("other"), MINUTE),
    "hourly | retry": (lambda: hourly | retry(3), HOUR),
}


def work(kind: str, name: str, runs: str) -> float:
    """Return the microseconds of CPU time that the scheduler's thread needs for a run."""
    now = [1_700_006_401.0]  # a second after midnight in UTC
    os.environ["TZ"] = "UTC"
    time.tzset()
    condition, step = CONDITIONS[name]
    app = Rocketry(
        config={"task_execution": "main", "cycle_sleep": None, "time_func": lambda: now[0]}
    )
    done, moved = 0, -1
    began = 0.0

    def body() -> None:
        nonlocal done, began
        done += 1
        if done == int(runs) // 10:  # the first ones fill the caches
            began = time.thread_time()
        if done > int(runs):
            app.session.shut_down()

    def move() -> None:
        # The run before has ended, so no slot goes by without a run.
        nonlocal moved
        if done > moved and app.session["subject"].status != "run":
            moved = done
            now[0] += step

    app.task("false", name="other", func=print)
    app.task(condition(), name="subject", func=body)
    app.session.hooks.scheduler_cycle.append(move)
    if kind == "without":
        launch_attributes.SOURCES = ()
    if kind != "plain":
        instrument(app)
    app.run()
    return (time.thread_time() - began) / (int(runs) - int(runs) // 10) * 1e6


def measure(size: Size) -> Iterator[Figure]:
    with sink() as collector:
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = collector
        for name in size.of(["every"], list(CONDITIONS)):
            found: dict[str, list[float]] = {"plain": [], "without": [], "with": []}
            for _ in range(size.of(1, ROUNDS)):
                for kind, times in found.items():
                    times.append(child(__file__, kind, name, size.of(20, RUNS)))
            yield Figure(name, "µs", found["without"], found["with"], "at most 1.1")
            yield Figure(f"{name}, to plain Rocketry", "µs", found["plain"], found["with"])


if __name__ == "__main__":
    sys.exit(run(__doc__, measure, work))

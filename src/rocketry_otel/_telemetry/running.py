"""The runs that go on, and the next ones of each task.

In: the runs, read when metrics are collected. Out: gauges of the age of the oldest run, of its
progress, and of the time of the next run. A task without such a run has no value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from rocketry_otel._model.signals import TASK_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class RunningRun(NamedTuple):
    """A run that goes on.

    Attributes:
        task_name: Its task.
        age: Seconds since it began.
        progress: From 0.0 to 1.0; ``None`` if its body has not reported any.
    """

    task_name: str
    age: float
    progress: float | None


def show_running(meter: Meter, running: Callable[[], Iterable[RunningRun]]) -> None:
    """Make the gauges."""

    def observe_ages(_: CallbackOptions) -> Iterable[Observation]:
        for one in _oldest(running()):
            yield Observation(one.age, {TASK_NAME: one.task_name})

    def observe_progress(_: CallbackOptions) -> Iterable[Observation]:
        # An older run that reports nothing does not hide the progress of a newer one.
        for one in _oldest(run for run in running() if run.progress is not None):
            yield Observation(one.progress or 0.0, {TASK_NAME: one.task_name})

    meter.create_observable_gauge(
        "rocketry.task.oldest_active",
        [observe_ages],
        unit="s",
        description="The age of the task's oldest run that goes on.",
    )
    meter.create_observable_gauge(
        "rocketry.task.progress",
        [observe_progress],
        unit="1",
        description="The progress of the task's oldest run that goes on, from 0 to 1.",
    )


def show_next_runs(meter: Meter, next_runs: Callable[[], Iterable[tuple[str, float]]]) -> None:
    """Make the gauge of the next runs; ``next_runs`` returns tasks with their times."""

    def observe(_: CallbackOptions) -> Iterable[Observation]:
        for task_name, at in dict(next_runs()).items():
            yield Observation(at, {TASK_NAME: task_name})

    meter.create_observable_gauge(
        "rocketry.task.next_run",
        [observe],
        unit="s",
        description="When the next run of the task is due, in seconds since the epoch.",
    )


def _oldest(runs: Iterable[RunningRun]) -> Iterable[RunningRun]:
    found: dict[str, RunningRun] = {}
    for run in runs:
        known = found.get(run.task_name)
        if known is None or run.age > known.age:
            found[run.task_name] = run
    return found.values()

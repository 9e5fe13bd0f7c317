"""Catching up on two channels, whose collectors a test chooses."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from redbird.base import BaseRepo
from redbird.repos import MemoryRepo

from rocketry_otel import Settings, TaskEventRecord
from rocketry_otel._delivery.catch_up import CatchUp
from rocketry_otel._delivery.memory_state import MemoryState
from rocketry_otel._delivery.state import State
from rocketry_otel._export.buffer import QueueLimits
from rocketry_otel._export.counters import Counters
from rocketry_otel._export.record_ref import RecordRef, current_record_ref
from rocketry_otel._history.run_lookup import RunLookup
from tests.support.channels import channel, flush

LOGS, TRACES = "logs http://c", "traces http://c"
SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND


class Recorder:
    """Sends, in the place of the sender, the number of each record and of each run that ended."""

    def __init__(self, queues: list[Any]) -> None:
        self._queues = queues

    def send(self, event: Any, step: Any, record_ref: Any) -> None:
        """Hand over what the sender would."""
        assert current_record_ref() is None
        for queue in self._queues:
            if queue.signal == "logs" or step.change == "ended":
                queue.put(event.run_id, record_ref)


class Bench:
    """Two channels that catch up, from a repository in memory unless another one is given."""

    def __init__(
        self,
        stack: ExitStack,
        folder: Path | None,
        model: Any,
        repo: BaseRepo | None = None,
        **limits: Any,
    ) -> None:
        self.counters = Counters()
        limits_ = QueueLimits(**{"delay": 0.0, **limits})
        self.logs, self.log_collector = stack.enter_context(channel("logs", limits_, self.counters))
        self.traces, self.trace_collector = stack.enter_context(
            channel("traces", limits_, self.counters)
        )
        self.model = model
        self.repo: Any = MemoryRepo(model=model) if repo is None else repo
        self.state: Any = MemoryState() if folder is None else State(folder)
        queues = [self.logs, self.traces]
        emitter: Any = Recorder(queues)
        self.catch_up = CatchUp(
            self.repo,
            RunLookup(self.repo),
            self.state,
            Settings(exclude=("secret",)),
            queues,
            emitter,
            self.counters,
        )
        self.pauses: list[float] = []

    def write(
        self, *numbers: int, trace_id: str | None = "0" * 31 + "1", task: str = "etl"
    ) -> None:
        """Put records into the repository, one a second."""
        for number in numbers:
            fields = {"task_name": task, "action": "inaction", "run_id": str(number)}
            if self.model is TaskEventRecord:
                fields["trace_id"] = trace_id and f"{number:032x}"
            self.repo.add(self.model(**fields, created=at(number) / 1e9))

    def run(self, go_on: Callable[[], bool] = lambda: True) -> None:
        """Catch up as far as can be."""

        def pause(seconds: float) -> bool:
            self.pauses.append(seconds)
            return go_on()

        self.catch_up.run(pause)

    def stop(self) -> bool:
        """Stop catching up, once all that was sent so far is there."""
        flush(self.logs)
        return False

    def arrived(self, count: int) -> tuple[list[str], list[str]]:
        """Return what has arrived on both channels, once so much has."""
        return self.log_collector.wait_for(count), self.trace_collector.wait_for(count)


def at(number: int) -> int:
    """Return when a record of this number is created."""
    return START + number * SECOND


def texts(*numbers: int) -> list[str]:
    """Return numbers as what is sent."""
    return [str(number) for number in numbers]


def leave(queue: Any, *numbers: int) -> None:
    """Let a queue leave records that are in the repository."""
    for number in numbers:
        queue.ask(lambda held, number=number: held.leave(RecordRef(at(number), "etl", "inaction")))

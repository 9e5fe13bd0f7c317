"""Channels to destinations whose answers a test chooses."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rocketry_otel._export.buffer import QueueLimits
from rocketry_otel._export.counters import Counters
from rocketry_otel._export.deferred import Deferred
from rocketry_otel._export.outage import Outage
from rocketry_otel._export.queue import ExportQueue
from rocketry_otel._export.responses import Answer, Result
from rocketry_otel._model.event import parse_event

ACCEPTED = Result(Answer.ACCEPTED)
UNAVAILABLE = Result(Answer.UNAVAILABLE, "down")
REFUSED = Result(Answer.REFUSED, "HTTP 400 Bad Request")
LONG = 20.0


class Collector:
    """A destination with chosen answers, which keeps the accepted items."""

    takes_encoded = False

    def __init__(self, name: str = "http://c") -> None:
        self.name = name
        self.changed = threading.Condition()
        self.answer: Callable[[list[Any]], Result] = lambda _: ACCEPTED
        self.tries = 0
        self.accepted: list[Any] = []

    def export(self, batch: list[Any]) -> Result:
        """Take in a batch, or not."""
        result = self.answer(batch)
        with self.changed:
            self.tries += 1
            if result.answer is Answer.ACCEPTED:
                self.accepted += batch
            self.changed.notify_all()
        return result

    def wait_for(self, count: int) -> list[Any]:
        """Wait until so many items were accepted; return all that were."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.accepted) >= count, LONG)
            return list(self.accepted)

    def wait_for_tries(self, count: int) -> None:
        """Wait until so many batches have come."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.tries >= count, LONG)

    def shutdown(self) -> None:
        """Do nothing."""


class _FunctionMaker:
    """Makes an item by a function, and its bytes by another one."""

    def __init__(
        self,
        make: Callable[[], object],
        lost: Callable[[Exception], object],
        encode: Callable[[], Any],
    ) -> None:
        self._make = make
        self._encode = encode
        self.lost = lost

    def make(self, *_: object) -> object:
        return self._make()

    def encode(self, *_: object) -> Any:
        return self._encode()


def deferred(
    make: Callable[[], object],
    lost: Callable[[Exception], object] = lambda _: None,
    encode: Callable[[], Any] = lambda: None,
) -> Deferred:
    """Return a deferred item that functions make."""
    return Deferred(_FunctionMaker(make, lost, encode), parse_event({}), None)


@contextmanager
def channel(
    signal: str = "logs",
    limits: QueueLimits | None = None,
    counters: Counters | None = None,
    name: str = "http://c",
) -> Iterator[tuple[ExportQueue[Any], Collector]]:
    """Give a channel and its destination; it is closed, and its thread at an end, behind it."""
    counters = counters or Counters()
    collector = Collector(name)
    queue: ExportQueue[Any] = ExportQueue(
        signal, collector, limits or QueueLimits(delay=0.0), counters, Outage(counters)
    )
    try:
        yield queue, collector
    finally:
        queue.begin_closing(time.monotonic())
        queue.finish_closing()
        if queue._thread is not None:
            queue._thread.join(LONG)


def flush(queue: ExportQueue[Any], timeout: float = LONG) -> bool:
    """Flush, with a time limit in seconds from now."""
    return queue.wait_for(queue.hurry(), time.monotonic() + timeout)

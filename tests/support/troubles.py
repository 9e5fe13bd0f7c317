"""A collector in each of the ways in which one can be in trouble, one after another."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

from tests.support.otlp_receiver import (
    Arrival,
    Fault,
    FaultChoice,
    Hang,
    Ok,
    OTLPReceiver,
    PartialSuccess,
    Redirect,
    Reset,
    Slow,
    Status,
    attributes_of,
)

POISON = "poison"
FEW_BYTES = 6_000

ByArrival = Callable[[Arrival], Fault]


class Collector(OTLPReceiver):
    """A receiver that may look at what arrives before it chooses what to do with it."""

    _by_arrival: ByArrival | None = None

    def behave(self, fault: Fault | FaultChoice) -> None:
        """Do this with every request from now on, listening again if it did not."""
        self._by_arrival = None
        super().behave(fault)
        self.start()

    def behave_by(self, choose: ByArrival) -> None:
        """Answer each request with the fault that a function returns for it."""
        self.behave(Ok())
        self._by_arrival = choose

    def get_well(self) -> None:
        """Take in everything from now on, and what hangs as well."""
        self.behave(Ok())
        self.release()

    def _choose_fault(self, arrival: Arrival) -> Fault:
        choose = self._by_arrival
        return super()._choose_fault(arrival) if choose is None else choose(arrival)


def groups(message: Any) -> Iterator[Any]:
    """Give the repeated fields that hold the items of a request for traces or logs."""
    for of_resource in getattr(message, "resource_spans", ()):
        yield from (of_scope.spans for of_scope in of_resource.scope_spans)
    for of_resource in getattr(message, "resource_logs", ()):
        yield from (of_scope.log_records for of_scope in of_resource.scope_logs)


def _is_poison(item: Any) -> bool:
    return str(attributes_of(item.attributes).get("task_name", "")).endswith(POISON)


def refuse_poison(arrival: Arrival) -> Fault:
    """Answer 400 to a request in which there is anything of the task ``poison``."""
    has_poison = any(_is_poison(item) for group in groups(arrival.message) for item in group)
    return Status(400) if has_poison else Ok()


def leave_out_poison(arrival: Arrival) -> Fault:
    """Take in all but what is of the task ``poison``, and say how much that was."""
    rejected = 0
    for group in groups(arrival.message):
        for index in reversed(range(len(group))):
            if _is_poison(group[index]):
                del group[index]
                rejected += 1
    return PartialSuccess(rejected, "poison") if rejected else Ok()


def refuse_large(arrival: Arrival) -> Fault:
    """Answer 413 to a request that is not small and could be smaller."""
    count = sum(len(group) for group in groups(arrival.message))
    return Status(413) if count > 1 and arrival.message.ByteSize() > FEW_BYTES else Ok()


def _every_second(fault: Fault) -> FaultChoice:
    return lambda number, _: Ok() if number % 2 else fault


# Not here: what makes a collector refuse for good (400 to some, partial success), see `REFUSALS`.
OUTAGES: dict[str, Callable[[Collector], None]] = {
    "away": Collector.stop,
    **{
        str(fault): lambda collector, fault=fault: collector.behave(fault)  # type: ignore[misc]
        for fault in (
            *(Status(code) for code in (400, 401, 403, 404, 408, 413, 429, 500, 502, 503, 504)),
            Status(429, retry_after=1),
            Status(503, retry_after=2),
            Redirect(code=301),
            Redirect(code=307),
            Hang(),
            Hang(taken=True),
            Reset(),
            Reset(taken=True),
            Slow(0.4),
        )
    },
    "every second 503": lambda collector: collector.behave(_every_second(Status(503))),
    "every second reset": lambda collector: collector.behave(_every_second(Reset())),
    "every second lost": lambda collector: collector.behave(_every_second(Reset(taken=True))),
    "refuses large": lambda collector: collector.behave_by(refuse_large),
}
REFUSALS: dict[str, Callable[[Collector], None]] = {
    "refuses poison": lambda collector: collector.behave_by(refuse_poison),
    "leaves out poison": lambda collector: collector.behave_by(leave_out_poison),
    # It takes all and reports one as rejected, without its name.
    "rejects one": lambda collector: collector.behave(PartialSuccess(1, "one too many")),
}
TROUBLES = {**OUTAGES, **REFUSALS, "well": Collector.get_well}


def rotation(chance: random.Random) -> Iterator[tuple[str, float]]:
    """Give troubles without end, each of them once in a round, and how long each stays."""
    while True:
        names = sorted(TROUBLES)
        chance.shuffle(names)
        for name in names:
            yield name, chance.uniform(0.1, 0.6)

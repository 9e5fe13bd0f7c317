"""What becomes of a replay."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ._counts import Counts
from ._events import FAIL, RUN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ._delivery import ExportQueue
    from ._retelling import Retold
    from ._stored import StoredRuns

_SECONDS_BETWEEN_SHOWS = 0.1


@dataclass(frozen=True)
class Replay:
    """What became of a replay.

    Attributes:
        records: How many records were read, and sent or to be sent.
        runs: How many runs ended in them.
        spans: How many spans were accepted, at all destinations together.
        log_records: How many log records were.
        refused: How many items were refused for good, by reason.
        waiting: How many items were sent and not accepted, when it gave up.
        notes: What the records lack that telemetry is made of.
        seconds: How long it took.
        fraction: How far it came in the time that it is about, from 0 to 1.
        complete: Whether all of it was read, sent and accepted.
    """

    records: int = 0
    runs: int = 0
    spans: int = 0
    log_records: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)
    waiting: int = 0
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    fraction: float = 1.0
    complete: bool = True


class Tally:
    """Counts what becomes of a replay while it goes on.

    Args:
        stored: The runs in the repository.
        since: From when on records are sent, in nanoseconds since the epoch, if that is said.
        until: Until when.
        show: Told now and then how far it is.

    Attributes:
        counts: What became of telemetry.
        queues: The channels.
        refused: How many items were refused, by reason.
        waiting: How many items wait.
        is_cut_short: Whether it gave up.
        moved_at: When something was last delivered, by ``time.monotonic()``.
    """

    def __init__(
        self,
        stored: StoredRuns,
        since: int | None,
        until: int | None,
        show: Callable[[Replay], None],
    ) -> None:
        self._stored = stored
        self._first = since
        self._last = until or time.time_ns()
        self._reached = 0
        self._show = show
        self._began = self.moved_at = time.monotonic()
        self._shown_at = 0.0
        self._settled = 0
        self._records = 0
        self._runs = 0
        self._lacking: Counter[str] = Counter()
        self.counts = Counts()
        self.queues: Sequence[ExportQueue[Any]] = ()
        self.refused: Counter[str] = Counter()
        self.waiting = 0
        self.is_cut_short = False

    def add(self, one: Retold) -> None:
        """Count a record that is sent, or would be."""
        event = one.event
        if self._first is None:
            self._first = event.created
        self._reached = event.created
        self._records += 1
        self._runs += one.step.change == "ended"
        if event.action == RUN and event.run_id is None:
            self._lacking["runs have no run id: they are told apart by their order alone"] += 1
        if event.action == FAIL and not (event.exception and event.exception.stacktrace):
            self._lacking["failures have no traceback"] += 1
        if not one.fields.get("message"):
            self._lacking["records have no message: Rocketry's usual one stands for it"] += 1
        self.look()

    def look(self) -> None:
        """See how far it is, and show it now and then."""
        now = time.monotonic()
        settled = sum(self.counts.total(one, "delivered") for one in ("traces", "logs"))
        settled += sum(self.refused.values())
        if settled != self._settled:
            self._settled, self.moved_at = settled, now
        if now - self._shown_at >= _SECONDS_BETWEEN_SHOWS:
            self._shown_at = now
            self._show(self._so_far(self._fraction()))

    def result(self) -> Replay:
        """Return what became of it in the end."""
        return self._so_far(self._fraction() if self.is_cut_short else 1.0)

    def _so_far(self, fraction: float) -> Replay:
        return Replay(
            records=self._records,
            runs=self._runs,
            spans=self.counts.total("traces", "delivered"),
            log_records=self.counts.total("logs", "delivered"),
            refused=dict(self.refused),
            waiting=self.waiting,
            notes=tuple(f"{count} {what}" for what, count in sorted(self._lacking.items())),
            seconds=time.monotonic() - self._began,
            fraction=fraction,
            complete=not (self.is_cut_short or self.waiting or self.refused),
        )

    def _fraction(self) -> float:
        if self._first is None:
            return 0.0
        length = max(self._last - self._first, 1)
        return min(max(self._reached - self._first, 0) / length, 1.0)

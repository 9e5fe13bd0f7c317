"""The result of a replay, and counting it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.trace.sampling import Decision

from rocketry_otel._errors import SettingsError
from rocketry_otel._export.counters import Counters
from rocketry_otel._model.event import FAIL, RUN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from rocketry_otel._export.queue import ExportQueue
    from rocketry_otel._history.reconstruct import Reconstructed

_SECONDS_BETWEEN_SHOWS = 0.1
# A collector may give each refusal a reason of its own.
_MOST_REASONS = 100
_OTHER_REASONS = "other reasons"
_NO_REASON = "the collector gave no reason"

_NO_RUN_ID = "runs without a run id, distinguished by their order and place alone"
_NO_TRACEBACK = "failures without a traceback"
_NO_MESSAGE = "records without a message, sent with Rocketry's usual one"
_NO_SPAN = "endings without a span, because their runs had ended before"
_NOTHING_ADDED = (
    "runs without mode of execution, links and attributes, which TaskEventRecord alone keeps"
)


@dataclass(frozen=True)
class Replay:
    """The result of a replay.

    Attributes:
        records: The number of records that were sent; with ``dry_run``, that would be.
        runs: The number of runs that these records end.
        destinations: The destinations.
        spans: The number of accepted spans, of all destinations together.
        log_records: The number of accepted log records.
        unsampled: The number of runs without a span, because of the sampler.
        refused: The number of items that were refused for good, by reason.
        waiting: The number of items that were sent and not accepted when the replay ended.
        left_out: The number of dead letters that were not sent: they are no longer in the
            repository, have no destination, or their tasks are excluded now.
        unreadable: The number of unreadable records in the repository.
        error: Why nothing got through at the end; ``None`` if items did, as far as is known.
        notes: Which fields the records lack, with their number.
        seconds: How long it took.
        fraction: How much of the chosen time was read, from 0 to 1.
        read: Whether the repository was read to its end.
        complete: Whether all records were read, sent and accepted.
    """

    records: int = 0
    runs: int = 0
    destinations: tuple[str, ...] = ()
    spans: int = 0
    log_records: int = 0
    unsampled: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)
    waiting: int = 0
    left_out: int = 0
    unreadable: int = 0
    error: str | None = None
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    fraction: float = 1.0
    read: bool = True
    complete: bool = True


class Tally:
    """Counts the items of a replay while it goes on.

    Args:
        until: When the newest record to send was created, in nanoseconds since the epoch;
            ``None`` for no limit.
        show: Called now and then with the result so far, and at the end.

    Attributes:
        counters: The number of items by their outcome.
        queues: The channels.
        unknown: The signals that some destination does not accept at all.
        is_cut_short: Whether the repository was not read to its end.
        left_out: The number of dead letters that were not sent.
        moved_at: When an item was last delivered, by ``time.monotonic()``.
    """

    def __init__(self, until: int | None, show: Callable[[Replay], None] | None) -> None:
        self._first: int | None = None
        self._last = time.time_ns() if until is None else min(until, time.time_ns())
        self._reached = 0
        self._show = show or _show_nothing
        self._began = self.moved_at = time.monotonic()
        self._shown_at = 0.0
        self._settled = 0
        self._records = 0
        self._runs = 0
        self._unsampled = 0
        self._unreadable = 0
        self._lacking: Counter[str] = Counter()
        # Guards the refusals, which each channel adds on its own thread.
        self._lock = threading.Lock()
        self._refused: Counter[str] = Counter()
        self._refused_there = 0
        self.counters = Counters()
        self.queues: Sequence[ExportQueue[Any]] = ()
        self.unknown: set[str] = set()
        self.is_cut_short = False
        self.left_out = 0

    @contextmanager
    def to_the_end(self) -> Iterator[None]:
        """Show the result at the end, after an error too."""
        try:
            yield
        except SettingsError:
            raise  # nothing has begun
        except BaseException:
            self.is_cut_short = True
            self._show(self.result())
            raise
        self._show(self.result())

    def reach(self, created: int) -> None:
        """Count how far the repository was read, to a time in nanoseconds since the epoch."""
        if self._first is None:
            self._first = created
        self._reached = created
        self.look()

    def add(self, one: Reconstructed) -> None:
        """Count a record that is sent, or would be."""
        event, run = one.event, one.step.run
        self._records += 1
        if one.step.change == "ended":
            self._runs += 1
            sampling = None if run is None else run.sampling
            if sampling is not None and sampling.decision is not Decision.RECORD_AND_SAMPLE:
                self._unsampled += 1
            if not one.fields.get("trace_id"):
                self._lacking[_NOTHING_ADDED] += 1
        if one.step.change == "repeated":
            self._lacking[_NO_SPAN] += 1
        if event.action == RUN and event.run_id is None:
            self._lacking[_NO_RUN_ID] += 1
        if event.action == FAIL and not (event.exception and event.exception.stacktrace):
            self._lacking[_NO_TRACEBACK] += 1
        if not one.fields.get("message"):
            self._lacking[_NO_MESSAGE] += 1

    def skip(self) -> None:
        """Count a record of the repository that cannot be read."""
        self._unreadable += 1

    def refuse(self, count: int, reason: str) -> None:
        """Count items that a destination has refused for good."""
        with self._lock:
            self._refused_there += count
            self._add_reason(reason or _NO_REASON, count)

    def fail(self, reason: str) -> None:
        """Count an item that could not be made."""
        with self._lock:
            self._add_reason(reason, 1)

    def _add_reason(self, reason: str, count: int) -> None:
        is_room = reason in self._refused or len(self._refused) < _MOST_REASONS
        self._refused[reason if is_room else _OTHER_REASONS] += count

    def look(self) -> None:
        """Show the result so far, if the last time is long enough ago."""
        now = time.monotonic()
        if now - self._shown_at < _SECONDS_BETWEEN_SHOWS:
            return
        self._shown_at = now
        settled = self._delivered("traces") + self._delivered("logs") + self._refused_there
        if settled != self._settled:
            self._settled, self.moved_at = settled, now
        self._show(self._so_far(self._fraction()))

    def result(self) -> Replay:
        """Return the result."""
        return self._so_far(self._fraction() if self.is_cut_short else 1.0)

    def _so_far(self, fraction: float) -> Replay:
        with self._lock:
            refused, refused_there = dict(self._refused), self._refused_there
        spans, log_records = self._delivered("traces"), self._delivered("logs")
        handed_over = sum(queue.sent_again for queue in self.queues)
        # These numbers are not taken at the same instant.
        waiting = max(handed_over - spans - log_records - refused_there, 0)
        return Replay(
            records=self._records,
            runs=self._runs,
            destinations=tuple(queue.destination.name for queue in self.queues),
            spans=spans,
            log_records=log_records,
            unsampled=self._unsampled,
            refused=refused,
            waiting=waiting,
            left_out=self.left_out,
            unreadable=self._unreadable,
            error=self._error() if waiting or self.is_cut_short else None,
            notes=tuple(f"{what}: {count}" for what, count in sorted(self._lacking.items())),
            seconds=time.monotonic() - self._began,
            fraction=fraction,
            read=not self.is_cut_short,
            complete=not (
                self.is_cut_short or waiting or refused or self.left_out or self._unreadable
            ),
        )

    def _delivered(self, signal: str) -> int:
        return self.counters.total(signal, "delivered")

    def _error(self) -> str | None:
        failing = next((queue for queue in self.queues if queue.error is not None), None)
        if failing is None:
            return None
        words, signal = f"{failing.destination.name}: {failing.error}", failing.signal
        if signal in self.unknown:
            words += f" (if it never takes {signal}, set OTEL_{signal.upper()}_EXPORTER=none)"
        return words

    def _fraction(self) -> float:
        if self._first is None:
            return 0.0
        length = max(self._last - self._first, 1)
        return min(max(self._reached - self._first, 0) / length, 1.0)


def _show_nothing(_: Replay) -> None:
    """Show nothing."""

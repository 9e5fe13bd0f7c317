"""The progress that bodies of tasks report while their runs go on.

In: reports of bodies, in this process or in a child process. Out: log records, and the newest
progress of each run for the gauge. A child sends its log records itself, and the number for the
gauge through a pipe: a gauge of its own would contradict its parent's.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import struct
import threading
import time
from multiprocessing.context import get_spawning_popen
from typing import TYPE_CHECKING, Any

from rocketry_otel._model.ids import RunIds
from rocketry_otel._model.progress import progress_of, progress_signal
from rocketry_otel._runtime.forks import after_fork_in_child
from rocketry_otel._runtime.scope import NAME

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

    from opentelemetry.context import Context

    from .log_lines import SendLine

_logger = logging.getLogger(NAME)

# Reports may come without end, one for each row. The first one and the last one are always sent.
_SECONDS_BETWEEN_REPORTS = 1.0
_MOST_RUNS = 10_000
# Trace id in two halves, span id, ratio. The system writes a text of this length whole or not.
_MESSAGE = struct.Struct("!QQQd")
_HALF = 64
_SCOPE = f"{NAME}.events"


class ProgressBoard:
    """The newest progress of each run, in bounded memory."""

    def __init__(self) -> None:
        """Begin with no progress, and no pipe."""
        self._newest: dict[RunIds, float] = {}
        self._reader: Connection[Any, Any] | None = None
        self._writer: Connection[Any, Any] | None = None
        self._process = os.getpid()
        self._renew_lock()
        after_fork_in_child(self._renew_lock)

    def _renew_lock(self) -> None:
        # It guards the newest progress and the reading. No other lock is taken while it is held.
        self._lock = threading.Lock()

    def open_pipe(self) -> None:
        """Make the pipe, before this process launches a child."""
        if self._writer is not None and self._process == os.getpid():
            return
        self._reader, self._writer = multiprocessing.Pipe(duplex=False)
        # If nobody reads, a child goes on without a report.
        os.set_blocking(self._writer.fileno(), False)
        self._process = os.getpid()

    def writer_to_pickle(self) -> Connection[Any, Any] | None:
        """Return the end of the pipe for a child that is being spawned; ``None`` otherwise."""
        return None if get_spawning_popen() is None else self._writer

    def use_writer(self, writer: Connection[Any, Any] | None) -> None:
        """Write to the parent's pipe, in a child that was spawned."""
        if writer is not None:
            self._reader, self._writer, self._process = None, writer, 0

    def put(self, ids: RunIds, ratio: float) -> None:
        """Keep the progress of a run of this process."""
        with self._lock:
            self._keep(ids, ratio)

    def _keep(self, ids: RunIds, ratio: float) -> None:
        self._newest.pop(ids, None)
        self._newest[ids] = ratio
        while len(self._newest) > _MOST_RUNS:
            del self._newest[next(iter(self._newest))]

    def send(self, ids: RunIds, ratio: float) -> None:
        """Send the progress of the run of this child process to its parent, if that has room."""
        if self._writer is None:
            return
        first, second = divmod(ids.trace_id, 1 << _HALF)
        try:
            self._writer.send_bytes(_MESSAGE.pack(first, second, ids.span_id, ratio))
        except OSError:  # the pipe is full, or the parent is gone
            return

    def of(self, ids: RunIds) -> float | None:
        """Return the newest progress of a run; ``None`` if it has reported none."""
        with self._lock:
            self._read()
            return self._newest.get(ids)

    def _read(self) -> None:
        reader = self._reader
        # A forked child has a copy of the reader: the messages are its parent's.
        if reader is None or self._process != os.getpid():
            return
        while reader.poll(0):
            first, second, span_id, ratio = _MESSAGE.unpack(reader.recv_bytes(_MESSAGE.size))
            self._keep(RunIds((first << _HALF) + second, span_id), ratio)


progress_board = ProgressBoard()


class ProgressReporter:
    """Takes the reports of one body.

    Args:
        send: Sends a log record.
        show: Shows the ratio to the gauge.
        task_name: The task.
        run_id: The id of the run.
        context: The context that holds the run's span.
        is_in_child: Whether each report to the gauge is a message to another process.
        clock: Returns seconds, for the pauses between reports.
    """

    def __init__(
        self,
        send: SendLine,
        show: Callable[[float], None],
        task_name: str,
        run_id: str | None,
        context: Context | None,
        *,
        is_in_child: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._send = send
        self._show = show
        self._who = task_name, run_id
        self._context = context
        self._is_in_child = is_in_child
        self._clock = clock
        self._next = float("-inf")
        self._is_done = False

    def report(self, done: object, total: object, created: int) -> None:
        """Take a report; it never raises.

        Args:
            done: How much is done, in any unit.
            total: How much there is in all, in the same unit.
            created: Nanoseconds since the epoch, by the application's clock.
        """
        try:
            self._report(done, total, created)
        except Exception:  # telemetry never hurts the task
            _logger.debug("a progress could not be reported", exc_info=True)

    def _report(self, done: object, total: object, created: int) -> None:
        progress = progress_of(done, total)
        if progress is None:
            return
        ratio, now = progress.ratio, self._clock()
        is_due = now >= self._next or (ratio >= 1.0 and not self._is_done)
        if is_due or not self._is_in_child:
            self._show(ratio)
        if is_due:
            self._next, self._is_done = now + _SECONDS_BETWEEN_REPORTS, ratio >= 1.0
            self._send(_SCOPE, progress_signal(progress, *self._who, created), self._context)

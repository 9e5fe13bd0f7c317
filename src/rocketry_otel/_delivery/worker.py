"""The delivery of stored records, at least once, across processes.

The repository is the write-ahead log of telemetry. In: records that are about to be written, and
the channels that send them. Out: checkpoints, catching up, dead letters, pruning, the status.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from rocketry_otel._export.buffer import Buffer
from rocketry_otel._export.responses import shown
from rocketry_otel._runtime.forks import after_fork_in_child
from rocketry_otel._runtime.scope import NAME
from rocketry_otel._runtime.threads import start_thread, wait_until

from .catch_up import CatchUp
from .checkpoint import DeadLetter
from .checkpointer import Checkpointer
from .crash_records import CrashRecords
from .memory_state import MemoryState
from .pruning import PruningTimes, prune_delivered
from .schedulers import Schedulers
from .settled_slots import SettledSlots
from .state import State
from .state_db import StateError
from .state_path import repository_path, state_folder
from .status import status_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from redbird import BaseRepo

    from rocketry_otel._export.batch import Entry
    from rocketry_otel._export.counters import Counters
    from rocketry_otel._export.queue import ExportQueue
    from rocketry_otel._export.status import Delivery
    from rocketry_otel._history.run_lookup import RunLookup
    from rocketry_otel._model.event import TaskEvent
    from rocketry_otel._model.retention import Retention
    from rocketry_otel._settings import Settings
    from rocketry_otel._telemetry.emitter import SignalEmitter

_logger = logging.getLogger(NAME)

_CANNOT_SAVE = "Delivery progress cannot be stored, so records may be sent twice"
_CANNOT_SEND = "Undelivered records cannot be sent from the repository at present"
_CANNOT_PRUNE = "Old records cannot be removed from the repository at present"
_NOWHERE = "No place for the delivery progress can be found"

_SECONDS_BETWEEN_CHECKPOINTS = 1.0
# Between two looks for the records of processes that have died.
_SECONDS_BETWEEN_LOOKS = 10.0


class DeliveryWorker:
    """Follows each stored record until it is delivered, across processes and their ends.

    Args:
        repo: The repository.
        run_lookup: The runs in it.
        settings: Where delivery progress is stored, and how far back to send.
        counters: Counts losses.
    """

    def __init__(
        self, repo: BaseRepo, run_lookup: RunLookup, settings: Settings, counters: Counters
    ) -> None:
        self._repo = repo
        self._run_lookup = run_lookup
        self._settings = settings
        self._counters = counters
        self._queues: Sequence[ExportQueue[Any]] = ()
        self._line_queues: Sequence[ExportQueue[Any]] = ()
        self._state: State | MemoryState | None = None
        self._checkpointer: Checkpointer | None = None
        self._catch_up: CatchUp | None = None
        self._folders: tuple[Path | None] | None = None  # the folder, once it was looked for
        self._schedulers: Schedulers | None = None
        self._crash_records: CrashRecords | None = None
        self._settled_slots: SettledSlots | None = None
        self._pruning_times = PruningTimes(settings.retention)
        self._logged: set[str] = set()
        self._start_afresh()
        after_fork_in_child(self._start_afresh)

    def _start_afresh(self) -> None:
        self._changed = threading.Condition(threading.RLock())
        self._thread: threading.Thread | None = None
        self._is_over = False
        self._generation = object()
        self._previous: threading.Thread | None = None
        self._is_idle = False
        self._is_wanted = False
        self._saved_at = 0.0

    def follow(
        self,
        queues: Sequence[ExportQueue[Any]],
        emitter: SignalEmitter,
        line_queues: Sequence[ExportQueue[Any]] = (),
    ) -> None:
        """Begin to follow the items of these channels.

        Args:
            queues: The channels of our own providers. The deliveries of an application's own
                providers are not known.
            emitter: Sends records again.
            line_queues: The channels of log lines. They have a status, and are not followed: no
                repository has their items.
        """
        self._line_queues = line_queues
        if not (queues or self._settings.retention):
            return
        state = MemoryState() if self.folder is None else State(self.folder, self._like)
        self._queues = queues
        self._state = state
        self._checkpointer = Checkpointer(state, queues, self._log_state)
        self._catch_up = CatchUp(
            self._repo,
            self._run_lookup,
            state,
            self._settings,
            queues,
            emitter,
            self._counters,
            self.crash_records,
        )
        for queue in queues:
            queue.add_dead_letters = self._add_dead_letters

    @property
    def folder(self) -> Path | None:
        """The folder of the delivery state; ``None`` if the repository ends with the process."""
        if self._folders is None:
            self._folders = (self._find_folder(),)
        return self._folders[0]

    def _find_folder(self) -> Path | None:
        try:
            return state_folder(self._repo, self._settings.state_dir)
        except Exception as error:  # noqa: BLE001  # a foreign repository may raise anything
            self._log(_NOWHERE, error)
            return None

    @property
    def _like(self) -> Path | None:
        """The file or directory of the repository, whose mode the state has."""
        return None if self.folder is None else repository_path(self._repo)

    @property
    def schedulers(self) -> Schedulers:
        """The processes that launch runs for the repository."""
        if self._schedulers is None:
            with self._changed:
                self._schedulers = self._schedulers or Schedulers(self.folder, self._like)
        return self._schedulers

    @property
    def crash_records(self) -> CrashRecords:
        """The crash records that are kept beside the repository."""
        if self._crash_records is None:
            with self._changed:
                self._crash_records = self._crash_records or CrashRecords(self.folder, self._like)
        return self._crash_records

    @property
    def settled_slots(self) -> SettledSlots:
        """The slots that are settled, kept beside the repository."""
        if self._settled_slots is None:
            with self._changed:
                self._settled_slots = self._settled_slots or SettledSlots(self.folder, self._like)
        return self._settled_slots

    @property
    def is_durable(self) -> bool:
        """Whether the delivery progress survives the process."""
        return self._state is not None and self._state.is_durable

    def begin(self) -> None:
        """Send the records of dead processes, before the first record comes."""
        if self.is_durable or (self._checkpointer is not None and self._settings.retention):
            self._wake()

    def expect(self, event: TaskEvent) -> int | None:
        """Expect a record that is about to be written; return the number for ``settle``."""
        self._pruning_times.note_record()
        self.begin()
        if self._checkpointer is None or not self.is_durable:
            return None
        return self._checkpointer.expect(event.created)

    def settle(self, number: int | None) -> None:
        """Expect a record no longer: it was handed to all channels."""
        if number is not None and self._checkpointer is not None:
            self._checkpointer.settle(number)
        elif self._has_overflow():
            self._wake()

    def _has_overflow(self) -> bool:
        for queue in self._queues:  # noqa: SIM110  # each record looks: this takes half the time
            if queue.has_overflow:
                return True
        return False

    # The thread.

    def _wake(self) -> None:
        """Start the thread, or wake it."""
        if self._thread is not None and not self._is_idle:
            return
        with self._changed:
            if self._thread is None and not self._is_over:
                work = partial(self._work, self._generation, self._previous)
                self._thread = start_thread(work, "delivery")
            self._is_idle = False
            self._changed.notify_all()

    def _work(self, generation: object, previous: threading.Thread | None) -> None:
        if previous is not None:
            previous.join()  # it may hang in the repository: only one thread sends at a time
        next_look = 0.0
        while self._goes_on(generation):
            is_time = time.monotonic() >= next_look
            self._save(once_more=is_time and not self._is_settled())
            self._is_wanted = False
            if is_time or self._can_catch_up():
                self._send_again(generation)
                next_look = time.monotonic() + _SECONDS_BETWEEN_LOOKS
            if self._settings.retention and self._pruning_times.is_due(time.monotonic()):
                is_complete = self._prune(self._settings.retention)
                self._pruning_times.note_removal(time.monotonic(), is_complete=is_complete)
            self._rest(next_look)

    def _rest(self, next_look: float) -> None:
        """Wait until the next checkpoint; if nothing happens, until the next look."""
        with self._changed:
            self._is_idle = was_idle = self._is_settled()
            next_checkpoint = time.monotonic() + _SECONDS_BETWEEN_CHECKPOINTS
            deadline = next_look if was_idle else next_checkpoint
            wait_until(
                self._changed,
                deadline,
                lambda: self._is_over or self._is_wanted or (was_idle and not self._is_idle),
            )
            self._is_idle = False

    def _is_settled(self) -> bool:
        checkpointer = self._checkpointer
        return checkpointer is not None and checkpointer.is_settled and checkpointer.is_stored

    def _save(self, *, once_more: bool = False) -> None:
        self._saved_at = time.monotonic()
        if self._checkpointer is not None:  # pragma: no branch  # with a thread there is one
            self._checkpointer.save(once_more=once_more)

    def _can_catch_up(self) -> bool:
        return self._catch_up is not None and self._catch_up.is_possible

    def _send_again(self, generation: object) -> None:
        catch_up = self._catch_up
        if catch_up is None:  # pragma: no cover  # with a thread there is one
            return
        try:
            catch_up.run(partial(self._let_others, generation))
        except Exception as error:  # noqa: BLE001  # the repository may be away, or the state
            self._log(_CANNOT_SEND, error)
        else:
            self._log(_CANNOT_SEND, None)
        with self._changed:
            self._changed.notify_all()

    def _prune(self, retention: Retention) -> bool:
        """Remove delivered records that are older than the retention asks for.

        Returns:
            Whether none has to stay.
        """
        state, catch_up = self._state, self._catch_up
        if state is None or catch_up is None:  # pragma: no cover  # with a thread there are both
            return False
        try:
            is_complete = prune_delivered(
                self._repo,
                retention,
                self._settings.catch_up,
                state,
                self._queues,
                catch_up.backlogs,
            )
        except Exception as error:  # noqa: BLE001  # the repository may be away, or the state
            self._log(_CANNOT_PRUNE, error)
            return False
        self._log(_CANNOT_PRUNE, None)
        return is_complete

    def _goes_on(self, generation: object) -> bool:
        # A thread that did not end in time must not go on beside the next one.
        return not self._is_over and generation is self._generation

    def _let_others(self, generation: object, seconds: float) -> bool:
        """Give the tasks their turn; return whether to go on."""
        if time.monotonic() - self._saved_at >= _SECONDS_BETWEEN_CHECKPOINTS:
            self._save()
        with self._changed:
            deadline = time.monotonic() + seconds
            return not wait_until(self._changed, deadline, lambda: not self._goes_on(generation))

    # For callers that wait or ask.

    @property
    def delivery(self) -> Delivery:
        """The status of delivery."""
        backlogs = {} if self._catch_up is None else self._catch_up.backlogs
        return status_of([*self._queues, *self._line_queues], backlogs, self._counters)

    def wait(self, deadline: float) -> bool:
        """Wait until the backlogs are delivered, or a destination fails.

        Args:
            deadline: When to stop waiting, by ``time.monotonic()``.

        Returns:
            Whether they are delivered.
        """
        with self._changed:
            self._is_wanted = True
            self._changed.notify_all()
            wait_until(
                self._changed,
                deadline,
                lambda: (
                    self._thread is None
                    or self._is_over
                    or self._is_caught_up()
                    or self._is_hopeless()
                ),
            )
            return self._is_caught_up()

    def _is_caught_up(self) -> bool:
        return not self._has_overflow() and not (self._catch_up and self._catch_up.backlogs)

    def _is_hopeless(self) -> bool:
        return any(queue.error is not None for queue in self._queues)

    def begin_stopping(self) -> None:
        """Stop catching up, before the channels close; do not wait."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    def stop(self, timeout: float) -> None:
        """Stop catching up, and wait half of ``timeout`` seconds for the thread."""
        self.begin_stopping()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            # If the repository does not answer, the other half is left for the queues.
            thread.join(timeout / 2)

    def finish(self, *, for_good: bool) -> None:
        """Store how far this process has come, after the channels are closed.

        Args:
            for_good: Whether this process sends nothing any more.
        """
        if self._checkpointer is None:
            return
        if self.is_durable:
            self._checkpointer.close()
        elif for_good:
            for queue in self._queues:
                left = queue.ask(Buffer.hand_over)
                if left is not None:
                    queue.ask(partial(Buffer.confirm_handed_over, handed_over=left))
                    self._counters.add(queue.signal, "dropped", left.items, "shutdown")

    def note_orderly_end(self) -> None:
        """Store an orderly end if all is delivered: no process sends the last seconds again."""
        if self._checkpointer is not None and self.is_durable:
            self._checkpointer.leave()

    def reopen(self) -> None:
        """Go on after it was stopped."""
        with self._changed:
            self._is_over = False
            self._generation = object()
            self._previous, self._thread = self._thread, None

    # Errors.

    def _add_dead_letters(
        self, queue: ExportQueue[Any], part: list[Entry], refused: int, reason: str
    ) -> None:
        if refused < len(part):
            reason = f"{refused} of {len(part)}: {reason}"
        refusals = [
            DeadLetter(record_ref.created, record_ref.task_name, record_ref.action, reason)
            for _, record_ref in part
            if record_ref is not None
        ]
        if self._state is None or not refusals:
            return
        try:
            self._state.add_dead_letters(queue.name, refusals, time.time())
        except StateError as error:
            self._log_state(error)

    def _log_state(self, error: StateError | None) -> None:
        self._log(_CANNOT_SAVE, error)

    def _log(self, what: str, error: Exception | None) -> None:
        """Log a failure once, until it is over."""
        if error is None:
            self._logged.discard(what)
        elif what not in self._logged:
            self._logged.add(what)
            with suppress(Exception):  # a handler of the application may raise anything
                _logger.warning("%s: %s. Tasks go on as before.", what, shown(error))

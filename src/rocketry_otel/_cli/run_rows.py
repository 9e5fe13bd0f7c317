"""Runs of a repository, as the commands show them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from rocketry_otel._delivery.state_path import state_folder
from rocketry_otel._delivery.stored_state import StoredState
from rocketry_otel._errors import RepositoryError
from rocketry_otel._export.responses import shown
from rocketry_otel._history.reconstruct import HistoryReader
from rocketry_otel._history.run_lookup import RunLookup
from rocketry_otel._model.durations import NANOSECONDS
from rocketry_otel._model.event import CRASH, FAIL, TERMINATE
from rocketry_otel._model.signals import span_signal
from rocketry_otel._model.text import one_line
from rocketry_otel._runtime.suppression import suppressed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redbird.base import BaseRepo

    from rocketry_otel._history.reconstruct import Reconstructed
    from rocketry_otel._model.runs import Run
    from rocketry_otel._settings import Settings

RUNNING = "running"
FAILURES = frozenset({FAIL, TERMINATE, CRASH})


@dataclass(frozen=True)
class RunRow:
    """A run in one line.

    Attributes:
        task: The name of its task.
        outcome: The action that ended it, or ``running``.
        began: When it began, in nanoseconds since the epoch.
        ended: When it ended; ``None`` if it has no ending.
        run_id: Rocketry's id of it, if it has one.
        trace_id: Its trace id in hexadecimal digits.
        error: Why it failed, in one line.
    """

    task: str
    outcome: str
    began: int
    ended: int | None
    run_id: str | None
    trace_id: str
    error: str | None = None

    @property
    def seconds(self) -> float | None:
        """How long it took; ``None`` if it has no ending."""
        return None if self.ended is None else (self.ended - self.began) / NANOSECONDS

    @property
    def is_failure(self) -> bool:
        """Whether it failed, was terminated or crashed."""
        return self.outcome in FAILURES

    def as_json(self, trace_url: str | None) -> dict[str, Any]:
        """Return it as an object of JSON."""
        found = {
            "task": self.task,
            "outcome": self.outcome,
            "began": iso(self.began),
            "ended": None if self.ended is None else iso(self.ended),
            "seconds": self.seconds,
            "run_id": self.run_id,
            "trace_id": self.trace_id,
            "error": self.error,
        }
        if trace_url is not None:
            found["trace_url"] = trace_url.replace("{trace_id}", self.trace_id)
        return found


def row_of(run: Run) -> RunRow:
    """Return a run in one line."""
    event = run.ended or run.began
    assert event is not None  # noqa: S101  # a run has one of the two
    ids = run.ids.trace_hex
    if run.ended is None:
        return RunRow(event.task_name or "", RUNNING, event.created, None, event.run_id, ids)
    span = span_signal(run, run.ended, "full")
    began = run.began or run.ended
    return RunRow(
        event.task_name or "",
        event.action or "",
        span.start,
        span.end,
        began.run_id or event.run_id,
        ids,
        None if span.error is None else one_line(span.error),
    )


def iso(nanoseconds: int) -> str:
    """Return a time as ISO 8601 in UTC, to the microsecond."""
    return _datetime(nanoseconds).isoformat().replace("+00:00", "Z")


def local(nanoseconds: int) -> datetime:
    """Return a time as local time."""
    return _datetime(nanoseconds).astimezone()


def _datetime(nanoseconds: int) -> datetime:
    seconds, rest = divmod(min(nanoseconds, _LATEST), NANOSECONDS)
    return datetime.fromtimestamp(seconds, timezone.utc).replace(microsecond=rest // 1000)


# Of the year 9999.
_LATEST = 253_402_214_400 * NANOSECONDS


class History:
    """The runs of a repository.

    Args:
        repo: The repository.
        settings: Where the delivery state is.
        since: Only records from then on are read, in nanoseconds since the epoch.
        until: Only records until then are read.

    Attributes:
        state: The delivery state.
        tasks: The names of tasks that were met.
        skipped: How many records could not be read.
    """

    def __init__(
        self,
        repo: BaseRepo,
        settings: Settings,
        since: int | None = None,
        until: int | None = None,
    ) -> None:
        self.state = StoredState(state_folder(repo, settings.state_dir))
        self.tasks: set[str] = set()
        self.skipped = 0
        self._reader = HistoryReader(
            repo, RunLookup(repo), since or 0, until, self._skip, self.state
        )

    def _skip(self) -> None:
        self.skipped += 1

    def records(self) -> Iterator[Reconstructed]:
        """Give the records that were not given yet.

        Raises:
            RepositoryError: The repository cannot be read.
        """
        with suppressed():
            history = iter(self._reader)
            while True:
                try:
                    one = next(history, None)
                except RepositoryError:
                    raise
                except Exception as error:
                    raise RepositoryError(
                        f"the repository cannot be read: {shown(error)}"
                    ) from error
                if one is None:
                    return
                self.tasks.add(one.event.task_name or "-")
                yield one

    def ended(self, task: str = "*") -> Iterator[RunRow]:
        """Give the runs that have ended and were not given yet.

        Args:
            task: A pattern of the names of tasks.
        """
        for one in self.records():
            run = one.step.run
            if run is not None and one.step.change == "ended":
                row = row_of(run)
                if fnmatchcase(row.task, task):
                    yield row

    def running(self, task: str = "*") -> list[RunRow]:
        """Return the runs without an ending among the records that were given."""
        rows = [row_of(run) for run in self._reader.open_runs()]
        return [row for row in rows if fnmatchcase(row.task, task)]

    def problem_with(self, task: str) -> str | None:
        """Return a sentence if no task that was met has a name of this pattern."""
        if any(fnmatchcase(name, task) for name in self.tasks) or task == "*":
            return None
        names = sorted(one_line(name) for name in self.tasks)
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        there = f"there are {', '.join(names[:_MOST_NAMES])}{more}" if names else "there is none"
        return f"no task matches {task!r}; {there}"


_MOST_NAMES = 10

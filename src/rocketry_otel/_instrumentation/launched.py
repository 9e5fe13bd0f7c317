"""Whether a launched run goes on, by Rocketry's own objects.

These are its stack of runs, and the process, thread or asyncio task of a run. In: open runs. Out:
the runs that nothing works on any more, with the exit codes of child processes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rocketry_otel._model.runs import Run


class Launched(NamedTuple):
    """A run as Rocketry holds it.

    Attributes:
        task: The task.
        run: Its ``TaskRun``, which holds the process, thread or asyncio task; none of them if the
            scheduler itself runs the body.
        session_key: The key of the session that has launched it.
    """

    task: Any
    run: Any
    session_key: str

    @property
    def goes_on(self) -> bool:
        """Whether something works on the run."""
        if self.run.task is None:
            return any(run is self.run for run in self.task._run_stack)  # noqa: SLF001  # no public way
        return bool(self.run.is_alive())

    def now(self) -> float:
        """Return seconds since the epoch, by the application's clock."""
        return float(self.task.session.get_time())

    @property
    def is_process(self) -> bool:
        """Whether it has a child process, whose records come through a queue."""
        return hasattr(self.run.task, "exitcode")

    @property
    def exit_code(self) -> int | None:
        """The exit code of its child process, negative after a signal; ``None`` without one."""
        return getattr(self.run.task, "exitcode", None)


class GoneRuns:
    """Finds open runs that nothing works on any more.

    A child process sends its records through a queue, and the scheduler reads them at each cycle.
    So a run is gone only if nothing worked on it at an earlier look, and it is still open.
    """

    def __init__(self) -> None:
        """Begin with no run."""
        # The runs themselves: a new run may have the place in memory of one that has ended since.
        self._found_before: set[Run] = set()

    def find(
        self, runs: Iterable[Run], session_key: str, *, is_drained: bool = False
    ) -> list[tuple[Run, int | None]]:
        """Return the runs of a session that are gone, with the exit codes of child processes.

        Args:
            runs: The open runs.
            session_key: The key of the session.
            is_drained: Whether the scheduler has read all records of child processes.
        """
        found_before, found = self._found_before, []
        self._found_before = set()
        for run in runs:
            launched = run.launch
            if not isinstance(launched, Launched) or launched.session_key != session_key:
                continue
            if launched.goes_on:
                continue
            if is_drained or not launched.is_process or run in found_before:
                found.append((run, launched.exit_code))
            else:
                self._found_before.add(run)
        return found

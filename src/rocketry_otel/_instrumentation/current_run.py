"""The run around the body of a task.

In: attributes and events from the body. Out: annotations, for the span when the run ends.
"""

from __future__ import annotations

import os
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rocketry_otel._model.annotations import Annotations
    from rocketry_otel._model.ids import RunIds

    from .log_lines import Lines
    from .progress import ProgressReporter


class CurrentRun:
    """The run whose body the caller is in.

    Attributes and events added here go to the run's own span, which is made when the run ends.
    That works in every mode of execution, also in a child process. Outside of a run all methods
    do nothing, and the run is false in a condition.

    Attributes:
        task_name: Name of the task; empty outside of a run.
        run_id: Rocketry's id of the run; ``None`` outside of a run.
        trace_id: 32 hexadecimal digits, as Jaeger's search box takes them; empty outside of a run.
        span_id: 16 hexadecimal digits; empty outside of a run.
    """

    def __init__(
        self,
        task_name: str = "",
        run_id: str | None = None,
        ids: RunIds | None = None,
        annotations: Annotations | None = None,
        clock: Callable[[], int] = time.time_ns,
        lines: Lines | None = None,
        reporter: ProgressReporter | None = None,
        add_context: Callable[[dict[str, str]], None] | None = None,
    ) -> None:
        """Make the view of a run, or of no run; only this package calls it."""
        self.task_name = task_name
        self.run_id = run_id
        self.trace_id = "" if ids is None else ids.trace_hex
        self.span_id = "" if ids is None else ids.span_hex
        self._annotations = annotations
        self._clock = clock
        self._lines = lines
        self._reporter = reporter
        self._add_context = add_context

    def __bool__(self) -> bool:
        return self._annotations is not None

    def __repr__(self) -> str:
        return f"CurrentRun(task_name={self.task_name!r}, run_id={self.run_id!r})"

    def set_attribute(self, key: str, value: object) -> None:
        """Add an attribute to the run's span, or change it.

        Args:
            key: Its name.
            value: A text, a number, a truth value, or a list of one of these types. Numbers of
                other libraries are numbers, too; every other value is shown as text.
        """
        if self._annotations is not None:
            self._annotations.set_attribute(key, value)

    def add_event(self, name: str, attributes: Mapping[str, object] | None = None) -> None:
        """Add an event to the run's span, with the time of now by the application's clock.

        Args:
            name: Its name.
            attributes: Its attributes, with values as in ``set_attribute``.
        """
        if self._annotations is not None:
            self._annotations.add_event(
                name, self._clock(), {} if attributes is None else attributes
            )

    def environment(self, environ: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the environment for a program that the body starts, so that it joins the trace.

        ``TRACEPARENT`` is added, with the current span as the parent, and ``TRACESTATE`` if there
        is one. ``BAGGAGE`` is added if the setting ``propagate_baggage`` is on. ``os.environ``
        stays as it is. Outside of a run nothing is added.

        Args:
            environ: The environment of the program without these; by default that of this process.

        Returns:
            A copy, for example for the argument ``env`` of ``subprocess.run``.
        """
        found = dict(os.environ if environ is None else environ)
        if self._add_context is not None:
            self._add_context(found)
        return found

    def progress(self, done: float, total: float = 1.0) -> None:
        """Report how far the run has come, while it goes on.

        The gauge ``rocketry.task.progress`` shows it until the run ends. A log record
        ``rocketry.task.progress`` is sent at the first report, at most once a second, and when
        all is done. Call it as often as you like. A value that is no number is ignored.

        Args:
            done: How much is done, in any unit.
            total: How much there is in all, in the same unit.
        """
        if self._reporter is not None:
            self._reporter.report(done, total, self._clock())


_NO_RUN = CurrentRun()

_current: ContextVar[CurrentRun] = ContextVar("rocketry_otel_run", default=_NO_RUN)


def current_run() -> CurrentRun:
    """Return the run whose body the caller is in.

    Returns:
        The run. Outside of a task's body, a run that does nothing and is false in a condition; the
        same if the application is not instrumented, or the task is not exported.
    """
    return _current.get()

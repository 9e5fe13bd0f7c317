"""The run around the body of a task."""

from __future__ import annotations

import time
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rocketry_otel._model.annotations import Annotations
    from rocketry_otel._model.ids import RunIds


class CurrentRun:
    """The run in whose body the code is.

    What is added here stands on the run's own span, which is made when the run ends; in every
    mode of execution, from a child process too.

    Attributes:
        task_name: Name of the task.
        run_id: Rocketry's id of the run.
        trace_id: 32 hexadecimal digits, as Jaeger's search box takes them.
        span_id: 16 hexadecimal digits.
    """

    def __init__(
        self, task_name: str, run_id: str | None, ids: RunIds, annotations: Annotations
    ) -> None:
        """Name a run; made by ``instrument``'s hooks alone."""
        self.task_name = task_name
        self.run_id = run_id
        self.trace_id = ids.trace_hex
        self.span_id = ids.span_hex
        self._additions = annotations

    def __repr__(self) -> str:
        return f"CurrentRun(task_name={self.task_name!r}, run_id={self.run_id!r})"

    def set_attribute(self, key: str, value: object) -> None:
        """Add an attribute to the run's span, or change it.

        Args:
            key: Its name.
            value: A text, a number or a truth value; anything else is shown as text.
        """
        self._additions.set_attribute(key, value)

    def add_event(self, name: str, attributes: Mapping[str, object] | None = None) -> None:
        """Add an event to the run's span, with the time of now.

        Args:
            name: Its name.
            attributes: What belongs to it.
        """
        self._additions.add_event(name, time.time_ns(), attributes or {})


_current: ContextVar[CurrentRun | None] = ContextVar("rocketry_otel_run", default=None)


def current_run() -> CurrentRun | None:
    """Return the run in whose body the caller is.

    Returns:
        The run; ``None`` outside of a task's body, and where the application is not
        instrumented or the task not exported.
    """
    return _current.get()

"""The hooks of users: one names the span of a run, one adds attributes to it.

In: an ending, the fields of its record, and its task. Out: the span's name and attributes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from rocketry_otel._model.annotations import SPAN_NAME
from rocketry_otel._runtime.scope import NAME

if TYPE_CHECKING:
    from rocketry_otel._export.counters import Counters
    from rocketry_otel._model.event import TaskEvent

_logger = logging.getLogger(NAME)

NameSpan = Callable[[Any, Mapping[str, Any], str], str]
Enrich = Callable[[Any, Mapping[str, Any], str], Mapping[str, object]]


class UserHooks:
    """Calls the hooks of users when a run has ended."""

    def __init__(
        self,
        name_span: NameSpan | None = None,
        enrich: Enrich | None = None,
        task_of: Callable[[str], Any] = lambda _: None,
    ) -> None:
        """Call the given hooks, if any."""
        self._name_span = name_span
        self._enrich = enrich
        self._task_of = task_of
        self._is_logged: set[str] = set()

    def __bool__(self) -> bool:
        return self._name_span is not None or self._enrich is not None

    def of(
        self,
        event: TaskEvent,
        fields: Mapping[str, Any],
        counters: Counters,
        task: Any = None,
    ) -> dict[str, object]:
        """Return the attributes from the hooks; the error of a hook is logged once, and counted.

        Args:
            event: The ending.
            fields: The fields of its record.
            counters: Count the errors.
            task: The task, if known. Its name may find none: it may have been deleted meanwhile.
        """
        # Rocketry's tasks have a truth of their own.
        its_task = self._task(event) if task is None else task
        arguments = (its_task, MappingProxyType(fields), event.action or "")
        added: dict[str, object] = {}
        try:
            if self._enrich is not None:
                added = dict(self._enrich(*arguments) or {})
        except Exception as error:  # noqa: BLE001  # a hook of the user may raise anything
            self._log_once("enrich", error, counters)
        try:
            name = self._name_span and self._name_span(*arguments)
            if name:
                added[SPAN_NAME] = str(name)
        except Exception as error:  # noqa: BLE001
            self._log_once("name_span", error, counters)
        return added

    def _task(self, event: TaskEvent) -> Any:
        try:
            return self._task_of(event.task_name or "")
        except Exception:  # noqa: BLE001  # another thread may add a task to the session now
            return None

    def _log_once(self, hook: str, error: Exception, counters: Counters) -> None:
        counters.add("traces", "hook_error", reason=hook)
        if hook not in self._is_logged:
            self._is_logged.add(hook)
            _logger.error("The hook %s raised; further ones are not reported", hook, exc_info=error)

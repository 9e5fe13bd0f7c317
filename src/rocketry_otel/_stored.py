"""What a repository keeps of runs, and finding them there again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._events import CRASH, ENDINGS, RUN, TaskEvent, parse_event
from ._identity import identity_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from redbird import BaseRepo

    from ._bridge import Observation

_ADDED_FIELDS = ("trace_id", "span_id", "execution", "exc_type", "exc_message")


class StoredRuns:
    """Runs in a repository of any model.

    Args:
        repo: The repository.
    """

    def __init__(self, repo: BaseRepo) -> None:
        self._repo = repo
        # A model without declared fields, such as dict, keeps whatever it is given.
        self._fields: Mapping[str, Any] | None = getattr(repo.model, "__fields__", None)
        self._added = [name for name in _ADDED_FIELDS if self._fields and name in self._fields]

    def keeps(self, field: str) -> bool:
        """Return whether the model of the repository keeps a field."""
        return self._fields is None or field in self._fields

    def complete(self, fields: dict[str, Any], observation: Observation) -> None:
        """Add to ``fields`` what a declared model keeps beyond what Rocketry's records hold."""
        if not self._added:
            return
        event, identity = observation.event, observation.identity
        exception = event.exception
        found = {
            "trace_id": identity and identity.trace_hex,
            "span_id": identity and identity.span_hex,
            "execution": event.execution,
            "exc_type": exception and exception.type,
            "exc_message": exception and exception.message,
        }
        for name in self._added:
            if fields.get(name) is None:
                fields[name] = found[name]

    def find_beginning(self, ending: TaskEvent) -> TaskEvent | None:
        """Return the event that began the run of an ending; ``None`` if it is not stored.

        A crash is logged with no run id: what it cut off is, for Rocketry and so here, the
        newest run of the task. For all other endings the run id tells.
        """
        query: dict[str, Any] = {"task_name": ending.task_name, "action": RUN}
        if ending.action != CRASH:
            if ending.run_id is None or not self.keeps("run_id"):
                return None
            query["run_id"] = ending.run_id
        began = _newest(self._events(query), not_after=None)
        if began is None or ending.action == CRASH:
            return began
        del query["action"]
        # A run id that a function of the user's gave before names a run that is over.
        over = any(
            event.action in ENDINGS and event.created >= began.created
            for event in self._events(query)
        )
        return None if over else began

    def trace_id_of(self, record: Any) -> str | None:
        """Return the trace id of the run that a stored record belongs to."""
        fields = fields_of(record)
        if fields.get("trace_id"):
            return str(fields["trace_id"])
        event = parse_event(fields)
        if not event.is_task_event:
            return None
        began = event if event.action == RUN else self._beginning_before(event)
        run_id = (began or event).run_id
        return identity_of(event.task_name or "", run_id, (began or event).created).trace_hex

    def _beginning_before(self, ending: TaskEvent) -> TaskEvent | None:
        """Return the beginning of a stored ending's run: by its run id, else by order."""
        query: dict[str, Any] = {"task_name": ending.task_name, "action": RUN}
        if ending.run_id is not None:
            query["run_id"] = ending.run_id
        return _newest(self._events(query), not_after=ending.created)

    def _events(self, query: dict[str, Any]) -> Iterator[TaskEvent]:
        for item in self._repo.filter_by(**query):
            yield parse_event(fields_of(item))


def fields_of(item: Any) -> dict[str, Any]:
    """Return the fields of a stored record, of whatever model."""
    return dict(item) if isinstance(item, dict) else dict(vars(item))


def _newest(events: Iterable[TaskEvent], *, not_after: int | None) -> TaskEvent | None:
    # Not the repository's own last(): that of a JSON directory follows the names of files.
    newest = None
    for event in events:
        if not_after is not None and event.created > not_after:
            continue
        if newest is None or event.created >= newest.created:
            newest = event
    return newest

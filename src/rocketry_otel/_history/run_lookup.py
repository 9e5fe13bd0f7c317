"""Finding runs in a repository, and the fields that its model stores of them."""

from __future__ import annotations

import csv
import re
from typing import TYPE_CHECKING, Any

from redbird import BaseRepo
from redbird.oper import greater_equal, in_
from redbird.repos import JSONDirectoryRepo, MemoryRepo

from rocketry_otel._model.annotations import attributes_as_text, events_as_text, links_as_text
from rocketry_otel._model.durations import NANOSECONDS
from rocketry_otel._model.event import CRASH, ENDINGS, RUN, TaskEvent, parse_event
from rocketry_otel._model.ids import RunIds, ids_of_run
from rocketry_otel._model.record import TaskEventRecord
from rocketry_otel._model.text import optional_integer, optional_seconds, optional_text
from rocketry_otel._repositories.json_repo import is_ordered
from rocketry_otel._repositories.memory_repo import BoundedMemoryRepo
from rocketry_otel._repositories.values import satisfies

from .streams.base import Window, fields_of
from .streams.stream_of import stream_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from rocketry_otel._model.runs import Observation

_TRACE_ID = re.compile(r"[0-9a-f]{32}")
_SPAN_ID = re.compile(r"[0-9a-f]{16}")

# What models and readers raise at a row of another program; a data store that is away raises
# others.
_FOREIGN_ROWS = (ValueError, TypeError, LookupError, RecursionError, csv.Error)

# In place of a span id: a crash that Rocketry logs of a run that goes on ends nothing.
NO_SPAN = "0" * 16

_ADDED_FIELDS = (
    "trace_id",
    "span_id",
    "execution",
    "exc_type",
    "exc_message",
    "attributes",
    "events",
    "links",
)
# A model with fields of these types would refuse other values, which Rocketry and an application
# may put on a record.
_CLEANED_FIELDS: dict[str, tuple[type, Callable[[Any], Any]]] = {
    "run_id": (str, optional_text),
    "thread": (str, optional_text),
    "process": (int, optional_integer),
    "start": (float, optional_seconds),
    "end": (float, optional_seconds),
    "runtime": (float, optional_seconds),
}


class RunLookup:
    """Runs in a repository of any model.

    Args:
        repo: The repository.

    Attributes:
        repo: The repository.
        takes_records: Whether it takes a ``TaskEventRecord`` as it takes the fields of one.
        is_in_memory: Whether no library takes part that may be instrumented.
    """

    def __init__(self, repo: BaseRepo) -> None:
        self.repo = self._repo = repo
        # A model without declared fields, such as dict, stores every field.
        self._fields: Mapping[str, Any] | None = getattr(repo.model, "__fields__", None)
        class_ = type(repo)
        self.is_in_memory = class_ in {MemoryRepo, BoundedMemoryRepo}
        self.takes_records = (
            repo.model is TaskEventRecord
            # Else something of the application's takes part.
            and getattr(class_, "add", None) is BaseRepo.add
            and getattr(class_, "to_item", None) is BaseRepo.to_item
        )
        # A field of the user's own that has one of these names is of another type.
        self._added = [name for name in _ADDED_FIELDS if self._is_of(name, str)]
        self._cleaned: list[tuple[str, type, Callable[[Any], Any]]] = []
        if "trace_id" in self._added:
            # A model of ours: these are stored even if the formatter leaves them out.
            self._added += ["message", "exc_text"]
            self._cleaned = [
                (name, type_, clean)
                for name, (type_, clean) in _CLEANED_FIELDS.items()
                if self._is_of(name, type_)
            ]

    def _is_of(self, name: str, type_: type) -> bool:
        field = (self._fields or {}).get(name)
        return field is not None and field.outer_type_ is type_

    def keeps(self, field: str) -> bool:
        """Return whether the model of the repository stores a field."""
        return self._fields is None or field in self._fields

    def adds(self, field: str) -> bool:
        """Return whether the model keeps a field that only this project fills."""
        return field in self._added

    def complete(self, fields: dict[str, Any], observation: Observation) -> None:
        """Add to ``fields`` those that a model stores beyond Rocketry's own."""
        if not self._added:
            return
        event, ids = observation.event, observation.ids
        exception = event.exception
        trace_id, span_id = ids and ids.trace_hex, ids and ids.span_hex
        if ids is None and event.action == CRASH:
            trace_id, span_id = self._ids_alone(event).trace_hex, NO_SPAN
        found = {
            "trace_id": trace_id,
            "span_id": span_id,
            "execution": event.execution,
            "exc_type": exception and exception.type,
            "exc_message": exception and exception.message,
            "message": event.message,
            "exc_text": exception and exception.stacktrace,
            "attributes": attributes_as_text(event.attributes),
            "events": events_as_text(event.events),
            "links": links_as_text(event.links),
        }
        # An application may have put values of its own on the record under these names.
        for name in self._added:
            fields[name] = found[name]
        for name, type_, clean in self._cleaned:
            # A float is clean where one is wanted.
            if name in fields and (type_ is not float or type(fields[name]) is not float):
                fields[name] = clean(fields[name])

    def find_beginning(self, ending: TaskEvent) -> TaskEvent | None:
        """Return the event that began the run of an ending; ``None`` if it is not stored.

        Rocketry logs a crash without a run id: it ends the newest run of the task. For all other
        endings the run id identifies the run.
        """
        query: dict[str, Any] = {"task_name": ending.task_name, "action": RUN}
        if ending.action != CRASH:
            if ending.run_id is None or not self.keeps("run_id"):
                return None
            query["run_id"] = ending.run_id
        began = self._last(query)
        if began is None:
            return None
        # A user's function may give a run id twice; and after a clock was set back, Rocketry logs
        # a crash of a run that has ended.
        return None if self._has_ended(began) else began

    def find_beginning_again(
        self, ending: TaskEvent, fields: Mapping[str, Any]
    ) -> TaskEvent | None:
        """Return the event that began the run of an ending that is itself stored.

        Args:
            ending: The ending.
            fields: The fields of its record.

        Returns:
            ``None`` if it is not stored, or if another ending has ended that run.
        """
        trace_id = _trace_id_in(fields)
        if trace_id is None:
            began = self._beginning_before(ending)
            return None if began is None or self._has_ended(began, ending) else began
        if trace_id == self._ids_alone(ending).trace_hex:
            return None
        events = self._events(self._same_run(ending, fields, trace_id))
        return next((event for event in events if event.action == RUN), None)

    def is_first_ending(self, ending: TaskEvent, fields: Mapping[str, Any]) -> bool:
        """Return whether no other ending that is stored has ended the same run before."""
        trace_id = _trace_id_in(fields)
        if trace_id is None:
            return True
        events = self._events(self._same_run(ending, fields, trace_id))
        first = next((event for event in events if event.action in ENDINGS), ending)
        return (first.created, first.action) == (ending.created, ending.action)

    @staticmethod
    def _same_run(ending: TaskEvent, fields: Mapping[str, Any], trace_id: str) -> dict[str, Any]:
        query: dict[str, Any] = {"task_name": ending.task_name, "trace_id": trace_id}
        if fields.get("span_id"):
            # Several runs can be in the trace of one request.
            query["span_id"] = fields["span_id"]
        if ending.run_id is not None and ending.action != CRASH:
            # The repository has an index of it.
            query["run_id"] = ending.run_id
        return query

    def _ids_alone(self, ending: TaskEvent) -> RunIds:
        return ids_of_run(ending, keeps_run_id=self.keeps("run_id"))

    def _has_ended(self, began: TaskEvent, before: TaskEvent | None = None) -> bool:
        """Return whether an ending of a run is stored, older than ``before`` if that is given."""
        query: dict[str, Any] = {"task_name": began.task_name}
        if began.run_id is not None and self.keeps("run_id"):
            query["run_id"] = began.run_id
        first = began.created
        if before is None and "trace_id" in self._added:
            # This does not depend on the clock.
            ids, first = self._ids_alone(began), 0
            query["trace_id"] = ids.trace_hex
            if "span_id" in self._added:
                query["span_id"] = ids.span_hex
        else:
            query["created"] = _not_before(began.created)
        return any(
            event.action in ENDINGS
            and first <= event.created
            and (before is None or event.created < before.created)
            for event in self._events(query)
        )

    def has_named_ending(self, began: TaskEvent) -> bool:
        """Return whether an ending is stored that names a run by its id, as no crash does."""
        if began.run_id is None or not self.keeps("run_id"):
            return False
        query = {"task_name": began.task_name, "run_id": began.run_id}
        return any(
            event.action in ENDINGS and event.created >= began.created
            for event in self._events(query)
        )

    def newest(self, task_name: str, action: str) -> TaskEvent | None:
        """Return the newest event of a task with an action, by Rocketry's own order."""
        return self._last({"task_name": task_name, "action": action})

    def times_of(self, task_name: str, actions: tuple[str, ...], since: float) -> list[float]:
        """Return when a task's events of these actions were, in seconds since the epoch.

        Args:
            task_name: The name of the task.
            actions: The actions.
            since: The earliest time.
        """
        query = {
            "task_name": task_name,
            "action": in_(list(actions)),
            "created": greater_equal(since),
        }
        return [event.created / NANOSECONDS for event in self._events(query)]

    def ids_of(self, event: TaskEvent) -> RunIds:
        """Return the ids of the run that a stored event began or ended."""
        named_by = event
        if event.action != RUN:
            named_by = self._beginning_before(event) or event
        return ids_of_run(named_by)

    def span_of(
        self, id_: str, beside: Iterable[Mapping[str, Any]] = ()
    ) -> tuple[int, int | None] | None:
        """Return the times of the first and the last record of the runs with an id.

        Args:
            id_: A run id or a trace id, whole.
            beside: The fields of records that are kept beside the repository.

        Returns:
            Nanoseconds since the epoch; ``None`` if no record has this id. The second is ``None``
            if a run goes on: another program may have stored a crash that names no run.
        """
        found: list[Mapping[str, Any]] = []
        if self.keeps("run_id"):
            found += self._fields_of({"run_id": id_})
        if "trace_id" in self._added:
            # A crash has no run id.
            traces = {id_} | {its for fields in found if (its := _trace_id_in(fields))}
            found += [it for its in traces for it in self._fields_of({"trace_id": its})]
            found += [fields for fields in beside if _trace_id_in(fields) in traces]
        if not found:
            return None
        begun: set[Any] = set()
        ended: set[Any] = set()
        for fields in found:
            same = begun if fields.get("action") == RUN else ended
            same.add(fields.get("span_id") or fields.get("run_id"))
        times = [parse_event(fields).created for fields in found]
        return min(times), max(times) if begun <= ended else None

    def trace_id_of(self, record: Any) -> str | None:
        """Return the trace id of the run that a stored record belongs to."""
        fields = fields_of(record)
        stored = _trace_id_in(fields)
        if stored is not None:
            return stored
        event = parse_event(fields)
        return self.ids_of(event).trace_hex if event.is_task_event else None

    def _beginning_before(self, ending: TaskEvent) -> TaskEvent | None:
        """Return the beginning of a stored ending's run: by its run id, else by order."""
        query: dict[str, Any] = {"task_name": ending.task_name, "action": RUN}
        if ending.run_id is not None:
            query["run_id"] = ending.run_id
        return _newest(self._events(query), not_after=ending.created)

    def _last(self, query: dict[str, Any]) -> TaskEvent | None:
        if isinstance(self._repo, JSONDirectoryRepo) and not is_ordered(self._repo):
            # The names of its files have no order.
            return _newest(self._events(query), not_after=None)
        try:
            item = self._repo.filter_by(**query).last()
        except _FOREIGN_ROWS:
            fields = None
            for fields in self._fields_one_by_one(query):  # noqa: B007  # the last one counts
                pass
            return None if fields is None else parse_event(fields)
        return None if item is None else parse_event(fields_of(item))

    def _events(self, query: dict[str, Any]) -> Iterator[TaskEvent]:
        """Yield the events that match; some may come twice."""
        yield from map(parse_event, self._fields_of(query))

    def _fields_of(self, query: dict[str, Any]) -> Iterator[Mapping[str, Any]]:
        """Yield the fields of the records that match; some may come twice."""
        try:
            yield from map(fields_of, self._repo.filter_by(**query))
        except _FOREIGN_ROWS:
            yield from self._fields_one_by_one(query)

    def _fields_one_by_one(self, query: dict[str, Any]) -> Iterator[Mapping[str, Any]]:
        """Yield the fields of the records that match, without the rows that cannot be read.

        Red Bird's own reading ends at the first of those.
        """
        for fields in stream_of(self._repo).read(Window()):
            if all(satisfies(fields.get(name), wanted) for name, wanted in query.items()):
                yield fields


def ends_nothing(event: TaskEvent, fields: Mapping[str, Any]) -> bool:
    """Return whether a stored record is a crash that was logged of a run that went on."""
    return event.action == CRASH and fields.get("span_id") == NO_SPAN


def ids_in(fields: Mapping[str, Any]) -> RunIds | None:
    """Return the ids that are stored in a record; ``None`` if none are."""
    trace_id, span_id = _trace_id_in(fields), fields.get("span_id")
    if trace_id is None or not isinstance(span_id, str) or not _SPAN_ID.fullmatch(span_id):
        return None
    ids = RunIds(int(trace_id, 16), int(span_id, 16))
    return ids if all(ids) else None  # zero means no id in OpenTelemetry


def _trace_id_in(fields: Mapping[str, Any]) -> str | None:
    stored = fields.get("trace_id")
    return stored if isinstance(stored, str) and _TRACE_ID.fullmatch(stored) else None


def _not_before(created: int) -> Any:
    # Repositories store times as fractions of seconds: a millisecond earlier misses none.
    return greater_equal(created / NANOSECONDS - 0.001)


def _newest(events: Iterable[TaskEvent], *, not_after: int | None) -> TaskEvent | None:
    # The last() of a JSON directory would follow the names of its files.
    newest = None
    for event in events:
        if not_after is not None and event.created > not_after:
            continue
        if newest is None or event.created >= newest.created:
            newest = event
    return newest

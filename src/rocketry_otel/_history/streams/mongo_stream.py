"""The records of a collection in MongoDB."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from bson import Decimal128, ObjectId, Timestamp

from rocketry_otel._model.event import nanoseconds

from .base import OUTLINE, Place, RecordStream, Window

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from redbird.repos import MongoRepo

    from .base import Fields, Unwanted

    _Document = dict[str, Any]

_PAGE = 1_000

# In MongoDB's order. A comparison matches values of one of these groups alone.
_TYPES: tuple[Any, ...] = (
    (int, float, Decimal128),
    str,
    dict,
    (bytes, UUID),
    ObjectId,
    bool,
    datetime,
    Timestamp,
)


def stream_of(repo: MongoRepo) -> MongoStream:
    """Return the records of a collection, of ours or of Red Bird's."""
    return MongoStream(repo)


class MongoStream(RecordStream):
    """The records of a collection, read by the page: a server closes a cursor that is idle."""

    can_go_on = True

    def __init__(self, repo: MongoRepo) -> None:
        super().__init__(repo, repo.collection)
        self._documents = repo.get_collection()
        # Red Bird stores the id field of a record as the id of the document.
        self._names = {name: "_id" if name == repo.id_field else name for name in OUTLINE}
        self._created = self._names["created"]
        # MongoDB's own ids have the order of their creation; others have none.
        by_id = repo.id_field is None or self._created == "_id"
        self._order = ["_id"] if by_id else [self._created, "_id"]

    def read(self, window: Window, place: Place | None = None) -> Iterator[Fields]:
        """Give the fields of each record, in the order in which they were added."""
        place = place or Place()
        for page in self._pages(window, last=place.last):
            for document in page:
                place.pass_by(self._key(document))
                fields = self.fields(document)
                if fields is not None and window.holds(fields):
                    yield fields

    def is_whole(self, window: Window, place: Place, rest: Callable[[], bool]) -> bool:
        """Return whether a reading has met all documents that are there now before its place.

        Clients make the ids: within a second, their order is not that of the inserts.
        """
        pages = self._pages(window, [])
        return place.has_met_all((self._key(one) for page in pages for one in page), rest)

    def item(self, data: Any) -> Any:
        """Return the record of a document."""
        if self.repo.id_field is not None:
            return self.repo.data_to_item(data)
        del data["_id"]
        return self.repo.model(**data)

    def outlines(self, window: Window) -> Iterator[Fields]:
        """Give the fields that pair the records of a run."""
        return (fields for page in self._outlined(window) for _, fields in page)

    def _outlined(self, window: Window) -> Iterator[list[tuple[Any, Fields]]]:
        """Give the ids and the outlines of the documents within a window, by the page."""
        for page in self._pages(window, self._names.values()):
            found = [(document["_id"], self._outline(document)) for document in page]
            yield [(name, fields) for name, fields in found if window.holds(fields)]

    def _outline(self, document: _Document) -> Fields:
        return {name: document.get(place) for name, place in self._names.items()}

    def earliest_of_newest(self, count: int) -> int:
        """Return the earliest time among the records added last, in nanoseconds."""
        # A document of another program may have no time, or an odd one.
        found = self._documents.find({self._created: {"$gt": 0}}, [self._created])
        documents = found.sort(self._sort(-1)).limit(count)
        return min((nanoseconds(one.get(self._created)) for one in documents), default=0)

    def newest(self, kinds: Collection[tuple[Any, Any]]) -> dict[tuple[Any, Any], Fields]:
        """Return the record added last of each kind: a task name and an action."""
        found = {}
        for kind in kinds:
            wanted = dict(zip((self._names["task_name"], self._names["action"]), kind, strict=True))
            document = self._documents.find_one(wanted, sort=self._sort(-1))
            if document is not None:
                found[kind] = self._outline(document)
        return found

    def remove(self, window: Window, is_unwanted: Unwanted) -> int:
        """Remove the records that are unwanted, and return how many these were."""
        removed = 0
        for page in self._outlined(window):
            unwanted = [name for name, fields in page if is_unwanted(fields)]
            if unwanted:
                removed += self._documents.delete_many({"_id": {"$in": unwanted}}).deleted_count
        return removed

    def _pages(
        self,
        window: Window,
        places: Iterable[str] | None = None,
        last: Sequence[Any] | None = None,
    ) -> Iterator[list[_Document]]:
        """Give the documents within a window, and some more, by the page."""
        projection = None if places is None else [*places, *self._order]
        begin = -1 if last is None else _rank(last[0])
        for rank, bounds in self._bounds(window):
            if rank < begin:
                continue
            behind = last if rank == begin else None
            while page := self._page(
                projection, bounds, *([] if behind is None else [self._is_after(behind)])
            ):
                # The caller may change a document.
                behind = self._key(page[-1])
                yield page

    def _key(self, document: _Document) -> tuple[Any, ...]:
        return tuple(document[place] for place in self._order)

    def _page(self, projection: list[str] | None, *conditions: Any) -> list[_Document]:
        found = self._documents.find({"$and": conditions}, projection)
        return list(found.sort(self._sort(1)).limit(_PAGE))

    def _bounds(self, window: Window) -> Iterator[tuple[int, _Document]]:
        """Give conditions for a window, limited to the documents that exist now.

        Another program may have added documents with ids of other types. Each group of
        types has a condition of its own, which comes with the rank of the group.
        """
        times = {"$gte": window.lower, "$lte": window.upper}
        times = {name: bound for name, bound in times.items() if bound is not None}
        leading = self._order[0]
        wanted: list[_Document] = [{leading: {"$ne": None}}]
        if times:
            wanted.append({self._created: times})
        # There may be a group more than in the table: a number that is none.
        for _ in range(len(_TYPES) + 2):
            first = self._end(wanted, 1)
            if first is None:
                return
            group = {leading: {"$gte": first}}
            last = self._end([*wanted, group], -1)
            # Otherwise it was removed just now.
            if last is not None:
                yield _rank(first), {leading: {"$gte": first, "$lte": last}}
            wanted.append({"$nor": [group]})

    def _end(self, wanted: Sequence[_Document], direction: int) -> Any:
        leading = self._order[0]
        document = self._documents.find_one(
            {"$and": wanted}, [leading], sort=[(leading, direction)]
        )
        return None if document is None else document[leading]

    def _is_after(self, key: Sequence[Any]) -> _Document:
        """Return the condition on the documents behind one."""
        cases = []
        same: _Document = {}
        for place, value in zip(self._order, key, strict=True):
            cases.append({**same, place: {"$gt": value}})
            same[place] = value
        return {"$or": cases}

    def _sort(self, direction: int) -> list[tuple[str, int]]:
        return [(place, direction) for place in self._order]


def _rank(value: Any) -> int:
    """Return the rank of a value's group of types in MongoDB's order."""
    if isinstance(value, bool):
        return _TYPES.index(bool)
    ranks = (rank for rank, types in enumerate(_TYPES) if isinstance(value, types))
    return next(ranks, len(_TYPES))

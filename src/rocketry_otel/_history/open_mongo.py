"""Opening a collection of records of any model, to read it only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pymongo.errors
from redbird.repos import MongoRepo

from rocketry_otel._repositories.mongo_repo import cannot_open, connect

from .history_record import TOLERANT, HistoryRecord, check_names, not_there

if TYPE_CHECKING:
    from contextlib import ExitStack

    from redbird import BaseRepo


_OF_A_TASK = {"task_name": {"$exists": True}, "action": {"$exists": True}}


class _HistoryMongoRepo(MongoRepo):  # type: ignore[misc]
    """Red Bird's ``MongoRepo`` without an id field."""

    id_field: str | None = None

    def data_to_item(self, json: dict[str, Any]) -> HistoryRecord:
        """Return the record of a document."""
        return HistoryRecord(**{name: value for name, value in json.items() if name != "_id"})


def open_mongo(url: str, closing: ExitStack) -> BaseRepo:
    """Open the collection of a ``mongodb://`` or ``mongodb+srv://`` URL.

    Args:
        url: The URL.
        closing: Gets the callbacks that close it.

    Raises:
        RepositoryURLError: pymongo does not understand the URL.
        RepositoryMismatchError: There are no records of tasks.
        RepositoryError: It is missing, or the database does not answer, or refuses.
    """
    session, database, collection = connect(url)
    closing.callback(session.remove)
    try:
        names = session.client[database].list_collection_names()
        documents = session.client[database][collection]
        # Another program may have added the first document.
        document = documents.find_one(_OF_A_TASK) or documents.find_one() or {}
    except (pymongo.errors.PyMongoError, ValueError) as error:
        raise cannot_open(url, error) from None
    if collection not in names:
        raise not_there(url, f"collection; there are {', '.join(sorted(names)) or 'none'}")
    place: dict[str, Any] = {"session": session, "database": database, "collection": collection}
    if "created" not in document and isinstance(document.get("_id"), float):
        # Red Bird has used it as the id field.
        document["created"] = document["_id"]
        place["id_field"] = "created"
    if document:
        check_names(document, f"the collection {collection}")
    repo_class = MongoRepo if "id_field" in place else _HistoryMongoRepo
    return repo_class(**place, model=HistoryRecord, errors_query=TOLERANT)

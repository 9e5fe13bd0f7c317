"""A repository in a collection of MongoDB."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any
from weakref import finalize

import bson
import pymongo
import pymongo.errors
from pydantic.v1 import PrivateAttr
from pymongo import uri_parser
from redbird.repos import MongoRepo
from redbird.repos.mongo import MongoSession

from rocketry_otel._errors import RepositoryError
from rocketry_otel._model.record import TaskEventRecord
from rocketry_otel._runtime.forks import after_fork_in_child

from .skipped import SkippedRows
from .urls import mask_url, refusal, without_secrets
from .values import storable, storable_query, storable_record
from .weak_references import Referable

if TYPE_CHECKING:
    from collections.abc import Iterator

_DATABASE = "rocketry"
_COLLECTION = "rocketry_task_events"
_SELECTION = "serverSelectionTimeoutMS"

# For text that is not UTF-8, and times after the year 9999. pymongo knows the latter since 4.3.
_TOLERANT: dict[str, Any] = {
    "unicode_decode_error_handler": "replace",
    **({"datetime_conversion": "DATETIME_AUTO"} if hasattr(bson, "DatetimeMS") else {}),
}

# Clients of the parent process, which a child must not close.
_abandoned: list[object] = []


def open_url(url: str) -> TaskEventMongoRepo:
    """Open the repository of a ``mongodb://`` or ``mongodb+srv://`` URL.

    Raises:
        RepositoryURLError: pymongo does not understand the URL.
        RepositoryError: The database does not answer, or refuses.
    """
    session, database, collection = connect(url)
    repo = TaskEventMongoRepo(
        session=session, database=database, collection=collection, model=TaskEventRecord
    )
    finalize(repo, session.remove)
    try:
        repo.prepare()
    except (pymongo.errors.PyMongoError, ValueError) as error:
        session.remove()
        raise cannot_open(url, error) from None
    return repo


def connect(url: str) -> tuple[ForkSafeMongoSession, str, str]:
    """Return a session for a URL, not connected yet, with the names of database and collection.

    Raises:
        RepositoryURLError: pymongo does not understand the URL.
    """
    base, _, query = url.partition("?")
    collection = _COLLECTION
    options = []
    for option in filter(None, query.split("&")):
        name, _, value = option.partition("=")
        if name == "collection":
            collection = value
        else:
            options.append(option)
    database = _checked(url, base, "&".join(options))
    if not collection or collection.startswith("system.") or set(collection) & set("$%\0"):
        raise refusal(url, "collection is the name of a collection, without $ and %")
    if not any(option.lower().startswith(f"{_SELECTION.lower()}=") for option in options):
        # pymongo's half a minute is too long for an application that starts.
        options.append(f"{_SELECTION}=5000")
    slash = "" if "/" in base.partition("://")[2] else "/"
    session = ForkSafeMongoSession(f"{base}{slash}?{'&'.join(options)}")
    return session, database, collection


def cannot_open(url: str, error: Exception) -> RepositoryError:
    """Return the error of a database that cannot be opened, without secrets."""
    return RepositoryError(f"cannot open {mask_url(url)}: {without_secrets(str(error), url)}")


def _checked(url: str, base: str, options: str) -> str:
    """Return the name of the database, after a check of the URL."""
    # pymongo looks a `mongodb+srv` URL up in the DNS: too much for a check.
    address = base.partition("://")[2]
    try:
        database = uri_parser.parse_uri(f"mongodb://{address}")["database"]
        if options:
            uri_parser.split_options(options, warn=False)
    except (pymongo.errors.PyMongoError, ValueError) as error:
        raise refusal(
            url,
            f"pymongo does not understand it: {without_secrets(str(error), url)}; expected is "
            "mongodb://user:password@host:port/database?option=value, percent-encoded, where "
            "?collection= and any option of pymongo are allowed",
        ) from None
    return database or _DATABASE


class ForkSafeMongoSession(MongoSession):  # type: ignore[misc]
    """Red Bird's session, with a new client in each forked child."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        after_fork_in_child(self._start_afresh)

    def create_client(self, url: str | None = None) -> Any:
        """Return a client that stops at no value that a document of another program may have."""
        return pymongo.MongoClient(self.url if url is None else url, **_TOLERANT)

    def _start_afresh(self) -> None:
        _abandoned.append(self._bind)
        self._bind: Any = None


class TaskEventMongoRepo(MongoRepo, Referable):  # type: ignore[misc]
    """Red Bird's ``MongoRepo``, in which MongoDB gives ids to the documents, in order."""

    id_field: str | None = None

    _skipped: SkippedRows = PrivateAttr()

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        self._skipped = SkippedRows(f"the collection {self.collection}")

    def get_client(self) -> Any:
        """Return the client of this process."""
        return self.session.client

    def prepare(self) -> None:
        """Make the indices, and with them the collection.

        Raises:
            PyMongoError: The database does not answer, or refuses.
        """
        documents = self.get_collection()
        documents.create_index([("task_name", 1), ("action", 1), ("created", 1)])
        documents.create_index([("created", 1)])
        documents.create_index([("run_id", 1)])

    def insert(self, item: TaskEventRecord) -> None:
        """Add a record."""
        self.get_collection().insert_one(storable_record(item))

    def upsert(self, item: TaskEventRecord) -> None:
        """Add a record: a record has no id of its own, and so replaces no other."""
        self.insert(item)

    def query_items(self, query: dict[str, Any]) -> Iterator[TaskEventRecord]:
        """Yield the records that match, in the order in which they were added."""
        return self._find(query, pymongo.ASCENDING)

    def _find(self, query: dict[str, Any], order: int, most: int = 0) -> Iterator[TaskEventRecord]:
        """Yield the records that match, up to so many; 0 is no limit."""
        count = skipped = 0
        for document in self._documents(query, order, most):
            count += 1
            record = self._skipped.record(document)
            if record is None:
                skipped += 1
            else:
                yield record
        if skipped and count == most:
            # Others take the place of the skipped ones.
            others = self._documents(query, order, 0)
            records = (self._skipped.record(document) for document in islice(others, count, None))
            yield from islice((record for record in records if record is not None), skipped)

    def _documents(self, query: dict[str, Any], order: int, limit: int) -> Iterator[dict[str, Any]]:
        found = self.get_collection().find(query, {"_id": False})
        with found.sort("_id", order).limit(limit) as documents:
            yield from documents

    def query_read_first(self, query: dict[str, Any]) -> TaskEventRecord | None:
        """Return the oldest record that matches."""
        return next(self._find(query, pymongo.ASCENDING, 1), None)

    def query_read_last(self, query: dict[str, Any]) -> TaskEventRecord | None:
        """Return the newest record that matches."""
        return next(self._find(query, pymongo.DESCENDING, 1), None)

    def query_read_limit(self, query: dict[str, Any], n: int) -> list[TaskEventRecord]:
        """Return up to this many of the oldest records that match."""
        # For MongoDB, a limit of 0 is no limit.
        return list(self._find(query, pymongo.ASCENDING, n)) if n > 0 else []

    def query_update(self, query: dict[str, Any], values: dict[str, Any]) -> None:
        """Change the records that match."""
        super().query_update(query, {name: storable(name, one) for name, one in values.items()})

    def format_query(self, query: dict[str, Any]) -> dict[str, Any]:
        """Return the query for MongoDB, with its texts in their stored form."""
        formatted: dict[str, Any] = super().format_query(storable_query(query))
        return formatted

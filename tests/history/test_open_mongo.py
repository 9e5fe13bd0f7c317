"""Opening a collection that any model has left, to be read alone."""

from __future__ import annotations

from typing import Any

import pytest
from mongomock import MongoClient

from rocketry_otel import RepositoryError, RepositoryMismatchError
from rocketry_otel._history.open_history import open_history


def test_missing_collection_is_not_made(mongo_server: Any) -> None:
    """Nor is a database; the error names the existing collections."""
    client = MongoClient("mongodb://h/d", _store=mongo_server)
    words = r"^cannot open mongodb://u:\*\*\*@h/d: there is no such collection; there are "
    for there in ("none", "a, b"):
        with (
            pytest.raises(RepositoryError, match=f"{words}{there}$"),
            open_history("mongodb://u:secret@h/d"),
        ):
            pass
        for name in ("a", "b"):
            client["d"][name].insert_one({})
    assert client["d"].list_collection_names() == ["a", "b"]


def test_foreign_collection_is_refused(mongo_server: Any) -> None:
    """The error names the missing fields."""
    client = MongoClient("mongodb://h/d", _store=mongo_server)
    client["d"]["c"].insert_one({"task_name": "etl"})
    words = "^the collection c has no records of tasks; missing: action, created$"
    with (
        pytest.raises(RepositoryMismatchError, match=words),
        open_history("mongodb://h/d?collection=c"),
    ):
        pass


def test_empty_collection_has_no_records(mongo_server: Any) -> None:
    """It can be read."""
    MongoClient("mongodb://h/d", _store=mongo_server)["d"].create_collection("c")
    with open_history("mongodb://h/d?collection=c") as repo:
        assert repo.filter_by().all() == []


def test_unreachable_mongodb_is_an_error() -> None:
    """The error does not show the password."""
    url = "mongodb://u:secret@127.0.0.1:1/d?serverSelectionTimeoutMS=50"
    with (
        pytest.raises(RepositoryError, match=r"^cannot open mongodb://u:\*\*\*@.*refused"),
        open_history(url),
    ):
        pass


def test_first_document_of_another_program_hides_no_history(mongo_server: Any) -> None:
    """A collection with records of tasks is opened, whatever else is in it."""
    documents = MongoClient("mongodb://h/d", _store=mongo_server)["d"]["c"]
    documents.insert_one({"x": 1})
    documents.insert_one({"task_name": "etl", "action": "run", "created": 1.0})
    with open_history("mongodb://h/d?collection=c") as repo:
        assert [one.task_name for one in repo.filter_by()] == ["etl"]

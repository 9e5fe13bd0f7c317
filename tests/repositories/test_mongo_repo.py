"""The repository in MongoDB: its behaviour by mongomock, its opening by pymongo itself."""

from __future__ import annotations

import functools
import socket

import mongomock
import pymongo
import pytest
from redbird.repos import MongoRepo

from rocketry_otel._errors import RepositoryError, RepositoryURLError
from rocketry_otel._model.record import TaskEventRecord
from rocketry_otel._repositories.open_repository import open_repository

from .records import FULL, record


@pytest.fixture
def asked(mongo_server, monkeypatch):
    """The URLs that clients were asked to connect to."""
    urls = []

    def connect(url, **options):
        urls.append(url)
        return mongomock.MongoClient(url, _store=mongo_server, **options)

    monkeypatch.setattr(pymongo, "MongoClient", connect)
    return urls


@pytest.mark.parametrize(
    ("url", "connected", "database", "collection"),
    [
        (
            "mongodb://h",
            "mongodb://h/?serverSelectionTimeoutMS=5000",
            "rocketry",
            "rocketry_task_events",
        ),
        (
            "mongodb://h/?w=1",
            "mongodb://h/?w=1&serverSelectionTimeoutMS=5000",
            "rocketry",
            "rocketry_task_events",
        ),
        (
            "mongodb://u:p%40x@h:1,g:2/ours?collection=mine&authSource=admin",
            "mongodb://u:p%40x@h:1,g:2/ours?authSource=admin&serverSelectionTimeoutMS=5000",
            "ours",
            "mine",
        ),
        (
            "mongodb://h/ours?serverselectiontimeoutms=70&collection=a.b",
            "mongodb://h/ours?serverselectiontimeoutms=70",
            "ours",
            "a.b",
        ),
    ],
)
def test_url_names_database_and_collection(asked, url, connected, database, collection):
    """The database is in the path, the collection is an option, and the rest is pymongo's."""
    repo = open_repository(url)
    assert isinstance(repo, MongoRepo)
    assert asked == [connected]
    assert (repo.database, repo.collection) == (database, collection)
    assert repo.get_collection().full_name == f"{database}.{collection}"


def test_documents_and_indices(mongo_server):
    """A document is the record and an id of MongoDB's own, and there are three indices."""
    repo = open_repository("mongodb://localhost/telemetry")
    repo.add(FULL)
    documents = repo.get_collection()
    (document,) = documents.find()
    assert {**FULL.dict(), "_id": document["_id"]} == document
    assert [index["key"] for index in documents.index_information().values()] == [
        [("_id", 1)],
        [("task_name", 1), ("action", 1), ("created", 1)],
        [("created", 1)],
        [("run_id", 1)],
    ]


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("mongodb://", "does not understand it"),
        ("mongodb://u:a/b@h/x", "does not understand it"),
        ("mongodb://h:port/x", "does not understand it"),
        ("mongodb://h/x?colour=red", "does not understand it: Unknown option"),
        ("mongodb://h/x?w", "does not understand it"),
        ("mongodb://h/x?collection=", "collection is the name"),
        ("mongodb://h/x?collection=$a", "collection is the name"),
        ("mongodb://h/x?collection=system.users", "collection is the name"),
    ],
)
def test_urls_that_are_refused(url, why):
    """A URL that pymongo does not understand is refused, and so is a name that is none."""
    with pytest.raises(RepositoryURLError, match=why):
        open_repository(url)


@pytest.mark.parametrize("scheme", ["mongodb", "mongodb+srv"])
def test_unreachable_server_is_an_error(scheme):
    """The error comes soon, with the masked URL."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    options = "serverSelectionTimeoutMS=200&connectTimeoutMS=200"
    # Of a name in `.invalid` there is never an address.
    place = address if scheme == "mongodb" else "cluster.example.invalid"
    with pytest.raises(RepositoryError) as caught:
        open_repository(f"{scheme}://user:s3cret@{place}/x?{options}")
    assert type(caught.value) is RepositoryError
    assert str(caught.value).startswith(f"cannot open {scheme}://user:***@{place}/x?{options}: ")
    assert "s3cret" not in str(caught.value)


def test_forked_child_has_a_client_of_its_own(asked):
    """After a fork the parent's client is neither used nor closed."""
    repo = open_repository("mongodb://h/x")
    parents = repo.get_client()
    repo.add(record())
    # What is called in the child.
    repo.session._start_afresh()
    assert repo.filter_by().all() == [record()]
    assert repo.get_client() is not parents
    assert len(asked) == 2


def test_repository_that_is_no_longer_used_closes_its_client(mongo_server):
    """When the repository is freed, its client is closed."""
    repo = open_repository("mongodb://h/x")
    session = repo.session
    assert session._bind is not None
    del repo
    assert session._bind is None


def test_limit_of_zero_gives_nothing(mongo_server):
    """To MongoDB, zero means no limit."""
    repo = open_repository("mongodb://h/x")
    repo.add(record())
    assert repo.filter_by().limit(0) == []
    assert repo.filter_by().limit(-1) == []


def test_repository_of_red_bird_shares_the_collection(mongo_server):
    """A plain repository of Red Bird with the same model and an id field adds to it."""
    ours = open_repository("mongodb://localhost/telemetry")
    plain = MongoRepo(
        uri="mongodb://localhost",
        database="telemetry",
        collection="rocketry_task_events",
        model=TaskEventRecord,
        id_field="run_id",
    )
    plain.add(FULL)
    assert plain.filter_by().all() == [FULL]
    # It has moved the run's id to `_id`.
    assert ours.filter_by().all() == [FULL.copy(update={"run_id": None})]


def test_fixture_is_one_server(mongo_server):
    """Clients of a test see the same data, or the tests of two repositories would show nothing."""
    assert isinstance(pymongo.MongoClient, functools.partial)
    pymongo.MongoClient("mongodb://a").x.y.insert_one({"z": 1})
    assert pymongo.MongoClient("mongodb://b").x.y.count_documents({}) == 1

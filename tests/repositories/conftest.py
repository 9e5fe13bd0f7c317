"""Repositories of every kind, each real but MongoDB's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import mongomock
import pymongo
import pytest
from mongomock.store import ServerStore

from support.postgresql import PostgreSQL, run_postgresql

KINDS = ("memory", "csv", "json", "sqlite", "postgresql", "mongodb")


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A PostgreSQL server for the whole session."""
    with run_postgresql() as server:
        yield server


@pytest.fixture
def mongo_server(monkeypatch: pytest.MonkeyPatch) -> ServerStore:
    """What every client of MongoDB in a test is connected to."""
    store = ServerStore()
    monkeypatch.setattr(pymongo, "MongoClient", partial(mongomock.MongoClient, _store=store))
    return store


@pytest.fixture
def make_url(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], str]:
    """Makes the URL of an empty repository of a kind."""

    def make(kind: str) -> str:
        if kind == "postgresql":
            server: PostgreSQL = request.getfixturevalue("postgresql")
            return server.url(server.new_database())
        if kind == "mongodb":
            request.getfixturevalue("mongo_server")
            return "mongodb://localhost/telemetry"
        return {
            "memory": "memory://",
            "csv": f"csv://{tmp_path}/made/too/events.csv",
            "json": f"json://{tmp_path}/made/too",
            "sqlite": f"sqlite:///{tmp_path}/made/too/events.db",
        }[kind]

    return make

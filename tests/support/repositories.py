"""Repositories of every kind, ours and as users make them of Red Bird's.

All are real but ``mongodb``, which is a stand-in; ``ferretdb`` is a real server of its protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import mongomock
import pymongo
import pytest
import sqlalchemy as sa
import sqlalchemy.orm
from mongomock.store import ServerStore
from redbird.base import BaseRepo
from redbird.repos import CSVFileRepo, JSONDirectoryRepo, MemoryRepo, MongoRepo, SQLRepo

from rocketry_otel import TaskEventRecord, open_repository
from tests.support.ferretdb import FerretDB, run_ferretdb
from tests.support.mariadb import MariaDB, run_mariadb
from tests.support.postgresql import PostgreSQL, run_postgresql

PLAIN = [
    *("plain-memory", "plain-csv", "plain-json", "plain-mongodb"),
    *("plain-sqlite", "plain-sqlite-text", "plain-postgresql"),
]
KINDS = ("memory", "csv", "json", "sqlite", "postgresql", "mariadb", "mongodb")


Make = Callable[..., BaseRepo]


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A PostgreSQL server for the whole session."""
    with run_postgresql() as server:
        yield server


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDB]:
    """A MariaDB server for the whole session."""
    with run_mariadb() as server:
        yield server


@pytest.fixture(scope="session")
def ferretdb() -> Iterator[FerretDB]:
    """A FerretDB server for the whole session."""
    with run_ferretdb() as server:
        yield server


@pytest.fixture
def mongo_server(monkeypatch: pytest.MonkeyPatch) -> ServerStore:
    """The server of every MongoDB client in a test."""
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
        if kind == "mariadb":
            maria: MariaDB = request.getfixturevalue("mariadb")
            return maria.url(maria.new_database())
        if kind == "ferretdb":
            ferret: FerretDB = request.getfixturevalue("ferretdb")
            return ferret.url(ferret.new_database())
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


def columns(model: Any, key: str) -> list[sa.Column[Any]]:
    """Return the columns that a user would give a table for a model."""
    types = {str: sa.Text, float: sa.Float(53), int: sa.BigInteger}
    return [
        sa.Column(name, types.get(field.type_, sa.Text), primary_key=name == key)
        for name, field in (TaskEventRecord if model is dict else model).__fields__.items()
    ]


@pytest.fixture
def make_repo(
    request: pytest.FixtureRequest, tmp_path: Path, make_url: Callable[[str], str]
) -> Iterator[Make]:
    """Makes a repository of ours or, of a model, one of Red Bird's as users do."""
    made = ExitStack()

    def make_sql(url: str, model: Any, key: str) -> SQLRepo:
        engine = sa.create_engine(url)
        made.callback(engine.dispose)
        number = [sa.Column("id", sa.Integer, primary_key=True)] if key == "id" else []
        sa.Table("tasks", sa.MetaData(), *number, *columns(model, key)).create(engine)
        repo = SQLRepo(engine=engine, model=model, table="tasks", id_field=key)
        made.callback(repo.session.remove)
        return repo

    def make(kind: str, model: Any = TaskEventRecord, key: str = "message") -> BaseRepo:
        if kind in KINDS:
            repo = open_repository(make_url(kind))
        elif kind == "plain-memory":
            repo = MemoryRepo(model=model)
        elif kind == "plain-csv":
            names = list(TaskEventRecord.__fields__) if model is dict else None
            repo = CSVFileRepo(filename=tmp_path / "x.csv", model=model, fieldnames=names)
        elif kind == "plain-json":
            path = tmp_path / "json"
            path.mkdir(exist_ok=True)
            repo = JSONDirectoryRepo(path=path, model=model, id_field=key)
        elif kind == "plain-mongodb":
            request.getfixturevalue("mongo_server")
            repo = MongoRepo(
                uri="mongodb://h", database="x", collection="y", model=model, id_field=key
            )
        elif kind == "plain-postgresql":
            server: PostgreSQL = request.getfixturevalue("postgresql")
            # Each SQLAlchemy has a driver that it takes first.
            driver = "psycopg2" if sa.__version__.startswith("1.") else "psycopg"
            repo = make_sql(server.url(server.new_database(), driver), model, "id")
        else:
            key = key if kind == "plain-sqlite-text" else "id"
            repo = make_sql(f"sqlite:///{tmp_path}/plain.db", model, key)
        return repo

    with made:
        yield make

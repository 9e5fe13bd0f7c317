from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pymongo
import pytest
import sqlalchemy as sa
import sqlalchemy.orm  # Red Bird uses it without importing it
from redbird.base import BaseRepo
from redbird.repos import CSVFileRepo, JSONDirectoryRepo, MemoryRepo, MongoRepo, SQLRepo
from rocketry.log import LogRecord

from rocketry_otel import open_repository
from rocketry_otel._delivery.state_path import state_folder


class Column(LogRecord):
    """A record with a key, as Red Bird's SQL repository needs one."""

    id: int | None


_engines: list[sa.engine.Engine] = []


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    """Close the repositories that a test has opened."""
    yield
    while _engines:
        _engines.pop().dispose()


def sql_repo(url: str, table: str = "tasks") -> SQLRepo:
    """Return a repository as users make one."""
    engine = sa.create_engine(url)
    _engines.append(engine)
    repo = SQLRepo(engine=engine, model=Column, table=table, if_missing="create", id_field="id")
    repo.session.remove()
    return repo


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory where users have their state."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "rocketry-otel"


def test_state_is_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the same for each way to open the file."""
    monkeypatch.chdir(tmp_path)
    csv, json = (
        CSVFileRepo(filename="a.csv", model=LogRecord),
        JSONDirectoryRepo(path="b", id_field="id"),
    )
    assert state_folder(csv, None) == tmp_path / "a.csv.delivery"
    assert state_folder(json, None) == tmp_path / "b.delivery"
    for url, name in {
        "csv://a.csv": "a.csv.delivery",
        f"json://{tmp_path}/b": "b.delivery",
        "sqlite:///c.db": "c.db.delivery",
        "sqlite:///c.db?table=other": "c.db.other.delivery",
        "sqlite:///file:d.db?uri=true": "d.db.delivery",
    }.items():
        assert state_folder(open_repository(url), None) == tmp_path / name


def test_each_table_of_a_file_has_its_own_state(tmp_path: Path) -> None:
    """Their deliveries are independent, also those of Red Bird's own repository."""
    url = f"sqlite:///{tmp_path}/a.db"
    assert state_folder(sql_repo(url), None) == tmp_path / "a.db.tasks.delivery"
    ours = open_repository(f"{url}?table=events")
    assert state_folder(ours, None) == tmp_path / "a.db.events.delivery"


@pytest.mark.filterwarnings("ignore:Selection of the SingletonThreadPool")
@pytest.mark.parametrize(
    "make",
    [
        lambda: MemoryRepo(model=dict),
        lambda: open_repository("memory://"),
        lambda: sql_repo("sqlite://"),
        lambda: sql_repo("sqlite:///:memory:"),
        lambda: sql_repo("sqlite:///file:x?mode=memory&uri=true"),
    ],
)
def test_memory_repository_has_no_durable_state(
    make: Callable[[], BaseRepo], tmp_path: Path
) -> None:
    """A directory of the user's choice does not change that."""
    repo = make()
    assert state_folder(repo, None) is None
    assert state_folder(repo, str(tmp_path)) is None


class Unknown(BaseRepo):
    """A foreign repository."""

    def insert(self, item: Any) -> None:
        """Do nothing."""

    filter_by = insert


def test_unknown_repository_has_no_folder() -> None:
    """Its place is not known."""
    assert state_folder(Unknown(model=dict), None) is None


def engine_of(url: str) -> SQLRepo:
    """Return a repository that seems to be on a server."""
    repo = sql_repo("sqlite://")
    repo.engine = type("Engine", (), {"url": sa.engine.make_url(url)})()
    return repo


def test_state_of_a_server_table_is_in_the_home_directory(home: Path) -> None:
    """Its name is readable, with a digest that contains no user and no password."""
    one = engine_of("postgresql://a:secret@host:5432/db")
    same = engine_of("postgresql+psycopg://b:other@host:5432/db")
    other = engine_of("postgresql://a:secret@host2:5432/db")
    bare = engine_of("postgresql:///db")
    folders = [state_folder(repo, None) for repo in (one, same, other, bare)]
    assert folders[0] == folders[1]
    assert len(set(folders)) == 3
    assert all(
        folder is not None and folder.parent == home and folder.name.startswith("tasks-")
        for folder in folders
    )


def test_state_of_a_collection_is_in_the_home_directory(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server, which may be away, is not asked."""
    monkeypatch.setattr(pymongo, "MongoClient", partial(pymongo.MongoClient, connect=False))
    uri = "mongodb://u:p@h:1,g:2/?replicaSet=x"
    repos = [
        MongoRepo(uri=uri, database=database, collection=collection, id_field="id")
        for database, collection in (("db", "events"), ("db", "tasks"), ("other", "events"))
    ]
    folders = [state_folder(repo, None) for repo in repos]
    for repo in repos:
        repo.get_client().close()
    assert [folder and folder.name.rpartition("-")[0] for folder in folders] == [
        "events",
        "tasks",
        "events",
    ]
    assert len(set(folders)) == 3
    assert {folder and folder.parent for folder in folders} == {home}


def test_home_without_a_variable_follows_the_standard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The XDG base directory specification gives the default."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    folder = state_folder(engine_of("postgresql://h/db"), None)
    assert folder is not None
    assert folder.parent == tmp_path / ".local" / "state" / "rocketry-otel"


def test_user_chooses_the_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One directory serves many repositories, and a tilde is expanded."""
    monkeypatch.setenv("HOME", str(tmp_path))
    repos = [open_repository(f"csv://{tmp_path}/{name}/tasks.csv") for name in "ab"]
    folders = [state_folder(repo, "~/kept") for repo in repos]
    assert len(set(folders)) == 2
    for folder in folders:
        assert folder is not None
        assert folder.parent == tmp_path / "kept"
        assert folder.name.startswith("tasks.csv-")

"""``open_repository``, with ``read_only`` and without."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rocketry_otel import RepositoryError, RepositoryURLError, TaskEventRecord, open_repository
from tests.support.histories import write_by_red_bird
from tests.support.repositories import make_url, mongo_server, postgresql  # noqa: F401

FIELDS: dict[str, Any] = {"task_name": "etl", "action": "run", "created": 1.5, "run_id": "r1"}
CHANGES: list[Callable[[Any], object]] = [
    lambda repo: repo.add(repo.model(**FIELDS)),
    lambda repo: repo.insert(repo.model(**FIELDS)),
    lambda repo: repo.upsert(repo.model(**FIELDS)),
    lambda repo: repo.delete(repo.model(**FIELDS)),
    lambda repo: repo.update(repo.model(**FIELDS)),
    lambda repo: repo.replace(repo.model(**FIELDS)),
    lambda repo: repo.filter_by(task_name="etl").delete(),
    lambda repo: repo.filter_by(task_name="etl").update(action="fail"),
    lambda repo: repo.filter_by(task_name="etl").replace(action="fail"),
]


def files(folder: Path) -> list[tuple[str, int]]:
    """Return each file and folder below, with the time of its last change."""
    return sorted((str(path), path.stat().st_mtime_ns) for path in folder.rglob("*"))


@pytest.mark.parametrize("kind", ["csv", "json", "sqlite", "postgresql", "mongodb"])
def test_reading_only(kind: str, make_url: Callable[[str], str], tmp_path: Path) -> None:  # noqa: F811
    """Records are read, each change is refused, and no file appears or changes."""
    url = make_url(kind)
    open_repository(url).add(TaskEventRecord(**FIELDS))
    gc.collect()
    before = files(tmp_path)
    repo = open_repository(url, read_only=True)
    assert [(it.task_name, it.run_id) for it in repo.filter_by(task_name="etl").all()] == [
        ("etl", "r1")
    ]
    for change in CHANGES:
        with pytest.raises(RepositoryError, match=r"^the repository was opened only to be read$"):
            change(repo)
    assert [it.action for it in repo] == ["run"]
    assert files(tmp_path) == before


@pytest.mark.parametrize("kind", ["csv", "json", "sqlite", "postgresql", "mongodb"])
def test_what_does_not_exist(
    kind: str,
    make_url: Callable[[str], str],  # noqa: F811
    tmp_path: Path,
) -> None:
    """The error names it, and nothing is created, no folder either."""
    with pytest.raises(RepositoryError, match=r"no such (file|directory|collection)|no table"):
        open_repository(make_url(kind), read_only=True)
    assert files(tmp_path) == []


@pytest.mark.parametrize("kind", ["csv", "json", "sqlite"])
def test_models_of_rocketry(kind: str, make_url: Callable[[str], str]) -> None:  # noqa: F811
    """A repository of Red Bird's own is read."""
    url = make_url(kind)
    Path(url.partition("://")[2].removeprefix("/" if kind == "sqlite" else "")).parent.mkdir(
        parents=True, exist_ok=True
    )
    write_by_red_bird(url)
    (record,) = open_repository(url, read_only=True)
    assert (record.task_name, record.action, record.created) == ("etl", "run", 1.5)


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """A database in it is read; root could write there, so the folder shows it too."""
    url = f"sqlite:///{tmp_path}/tasks.db"
    open_repository(url).add(TaskEventRecord(**FIELDS))
    gc.collect()
    os.chmod(tmp_path / "tasks.db", 0o444)  # noqa: PTH101
    tmp_path.chmod(0o555)
    try:
        assert len(list(open_repository(url, read_only=True))) == 1
        assert [path.name for path in tmp_path.iterdir()] == ["tasks.db"]
    finally:
        tmp_path.chmod(0o755)


def test_memory_cannot_be_read_only() -> None:
    """Nothing can be there."""
    with pytest.raises(RepositoryURLError, match="ends with its process"):
        open_repository("memory://", read_only=True)


def test_connections_are_closed_with_the_repository(tmp_path: Path) -> None:
    """Nothing holds the file afterwards; warnings would be errors."""
    url = f"sqlite:///{tmp_path}/tasks.db"
    open_repository(url).add(TaskEventRecord(**FIELDS))
    repo = open_repository(url, read_only=True)
    assert len(list(repo)) == 1
    del repo
    gc.collect()

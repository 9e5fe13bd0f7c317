"""Opening what any model has left, to be read alone."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from redbird.oper import greater_equal
from rocketry.log import MinimalRunRecord, RunRecord, TaskRunRecord

from rocketry_otel import RepositoryError, RepositoryMismatchError, RepositoryURLError
from rocketry_otel._history.open_history import open_history, open_to_remove
from rocketry_otel._history.retention import prune
from rocketry_otel._history.streams.base import fields_of
from rocketry_otel._model.retention import Retention
from rocketry_otel._repositories.open_repository import open_repository
from tests.repositories.records import FULL, record
from tests.support.histories import ROW, write_by_red_bird

KINDS = ("csv", "json", "sqlite", "postgresql", "mongodb")


@pytest.mark.parametrize("kind", KINDS)
def test_records_of_red_bird_are_read(kind: str, make_url: Any) -> None:
    """The fields are the written ones, in each kind of repository."""
    url = make_url(kind)
    write_by_red_bird(url)
    write_by_red_bird(url, created=2.5, action="success")
    with open_history(url) as repo:
        found = [fields_of(item) for item in repo.filter_by(created=greater_equal(1.0))]
        (only,) = repo.filter_by(task_name="etl", action="success").all()
    assert [{name: one[name] for name in ROW} for one in found] == [
        ROW,
        {**ROW, "created": 2.5, "action": "success"},
    ]
    assert (only.created, only.message, only.trace_id) == (2.5, None, None)


@pytest.mark.parametrize("kind", KINDS)
def test_records_of_this_project_are_read(kind: str, make_url: Any) -> None:
    """Every field of telemetry is there, in each kind of repository."""
    url = make_url(kind)
    written = open_repository(url)
    written.add(FULL)
    with open_history(url) as repo:
        (item,) = repo.filter_by().all()
    fields = fields_of(item)
    expected = {name: value for name, value in FULL.dict().items() if name in fields}
    assert len(expected) >= 16
    assert {**fields, "process": int(fields["process"])} == {**fields, **expected}
    if hasattr(written, "engine"):
        written.engine.dispose()


def files_in(path: Path) -> dict[str, bytes]:
    """Return every file below a directory, with its content."""
    return {str(one): one.read_bytes() for one in path.rglob("*") if one.is_file()}


@pytest.mark.parametrize("kind", ["csv", "json", "sqlite"])
@pytest.mark.parametrize("writer", ["red_bird", "ours"])
def test_nothing_is_written(kind: str, writer: str, make_url: Any, tmp_path: Path) -> None:
    """Files are the same to the byte, and there are no others."""
    url = make_url(kind)
    if writer == "ours":
        repo = open_repository(url)
        repo.add(record())
        if kind == "sqlite":
            repo.engine.dispose()
    else:
        write_by_red_bird(url)
    before = files_in(tmp_path)
    with open_history(url) as repo:
        assert len(repo.filter_by().all()) == 1
    assert files_in(tmp_path) == before


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("csv://{}/no.csv", "file"),
        ("json://{}/no", "directory"),
        ("sqlite:///{}/no.db", "file"),
        ("sqlite:///file:{}/no.db?uri=true", "file"),
    ],
)
def test_missing_repository_is_not_made(url: str, what: str, tmp_path: Path) -> None:
    """The error names it."""
    url = url.format(tmp_path)
    words = f"^cannot open {url}: there is no such {what}$".replace("?", r"\?")
    with pytest.raises(RepositoryError, match=words), open_history(url):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("memory://", "a repository in memory ends with its process"),
        ("tasks.csv", "this is not the URL of a repository; examples: memory://, .*"),
        ("nothing://x", "the scheme 'nothing' is neither memory, csv, json, .*"),
        ("sqlite://", None),
        ("csv://", "this names no file; .*"),
    ],
)
def test_unusable_url_is_an_error(url: str, words: str | None) -> None:
    """The error has the reason."""
    kind = RepositoryURLError if words else RepositoryError
    with (
        pytest.raises(kind, match=f"^{url}: {words}$" if words else "there is no such file$"),
        open_history(url),
    ):
        pass


@pytest.mark.parametrize("module", ["sqlalchemy", "pymongo"])
def test_missing_package_is_an_error(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the package."""
    for name in [*sys.modules]:
        if name.startswith(f"{module}.") or name in {
            "rocketry_otel._repositories.sql_repo",
            "rocketry_otel._repositories.mongo_repo",
        }:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    url = {"sqlalchemy": "postgresql://h/d", "pymongo": "mongodb://h/d"}[module]
    with (
        pytest.raises(RepositoryURLError, match=r"pip install 'rocketry-otel\["),
        open_history(url),
    ):
        pass


def test_foreign_csv_file_is_refused(tmp_path: Path) -> None:
    """It has no records, or cannot be opened."""
    path = tmp_path / "x.csv"
    path.write_text("task_name,amount\n1,2\n", encoding="utf-8")
    words = f"^the file {path} has no records of tasks; missing: action, created$"
    with pytest.raises(RepositoryMismatchError, match=words), open_history(f"csv://{path}"):
        pass


def test_empty_file_has_no_records(tmp_path: Path) -> None:
    """An application that has just begun has such a file."""
    open_repository(f"csv://{tmp_path}/x.csv")
    with open_history(f"csv://{tmp_path}/x.csv") as repo:
        assert repo.filter_by().all() == []


def test_unopenable_file_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error has the reason."""
    path = tmp_path / "x.csv"
    path.touch()

    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # the superuser is refused nothing
    with pytest.raises(RepositoryError, match="Permission denied"), open_history(f"csv://{path}"):
        pass


def test_unreadable_records_hide_no_others(tmp_path: Path) -> None:
    """They are skipped, in each kind of Red Bird's repositories."""
    path = tmp_path / "x.csv"
    rows = ["task_name,action,created", "a,run,1.5", "b,run,never", "c,run", "d,run,2.5,x,y"]
    path.write_bytes("\r\n".join([*rows, "e\0\xe9,run,3.5", ""]).encode("latin-1"))
    with open_history(f"csv://{path}") as repo:
        assert [one.task_name for one in repo.filter_by().all()] == ["a", "e\\x00\\xe9"]
    folder = tmp_path / "x"
    folder.mkdir()
    for number, text in enumerate(
        [json.dumps(ROW), "{", '{"task_name": "x"}', "\xff", "[" * 100_000]
    ):
        (folder / f"{number}.json").write_text(text, encoding="latin-1")
    with open_history(f"json://{folder}") as repo:
        assert [one.run_id for one in repo.filter_by().all()] == ["r1"]


@pytest.mark.parametrize("model", [MinimalRunRecord, RunRecord, TaskRunRecord])
def test_fields_of_rocketrys_models_are_read(model: Any, tmp_path: Path) -> None:
    """Columns that telemetry does not need are ignored."""
    url = f"csv://{tmp_path}/x.csv"
    write_by_red_bird(
        url, model, message="m", exc_text="e", start=1.0, runtime=2.0, process=7, thread=2**40,
        **dict.fromkeys(("name", "msg", "levelname", "pathname", "filename", "module"), "x"),
        **dict.fromkeys(("levelno", "lineno", "msecs", "relativeCreated"), 1),
        **dict.fromkeys(("funcName", "threadName", "processName", "formatted_message"), "x"),
    )  # fmt: skip
    with open_history(url) as repo:
        (item,) = repo.filter_by().all()
    found = {name: value for name, value in fields_of(item).items() if value is not None}
    texts = {"message": "m", "exc_text": "e"}
    place = {"process": "7", "thread": str(2**40)}
    kept = {MinimalRunRecord: {}, TaskRunRecord: texts, RunRecord: {**texts, **place}}
    assert found == {**ROW, **kept[model]}


@pytest.mark.parametrize("kind", ["json", "sqlite", "postgresql", "mongodb"])
def test_records_of_red_bird_are_removed(kind: str, make_url: Any) -> None:
    """Old ones go, and the fields of the others stay as they were."""
    url = make_url(kind)
    for number in range(4):
        write_by_red_bird(url, action="inaction", created=number + 0.5, run_id=f"r{number}")
    now = time.time_ns()
    with open_to_remove(url) as repo:
        assert prune(repo, Retention.parse("1"), acknowledged=now, now=now).removed == 3
    with open_history(url) as repo:
        (only,) = [fields_of(item) for item in repo.filter_by(created=greater_equal(0.0))]
    expected = {"task_name": "etl", "action": "inaction", "created": 3.5, "run_id": "r3"}
    assert {name: only[name] for name in expected} == expected


def test_records_of_red_birds_csv_file_are_not_removed(tmp_path: Path) -> None:
    """Red Bird adds rows without a lock: one that it adds meanwhile would be lost."""
    url = f"csv://{tmp_path}/its.csv"
    for number in range(3):
        write_by_red_bird(url, action="inaction", created=number + 0.5)
    before = (tmp_path / "its.csv").read_bytes()
    now = time.time_ns()
    with (
        open_to_remove(url) as repo,
        pytest.raises(RepositoryError, match=r"records cannot be removed from .* one by one"),
    ):
        prune(repo, Retention.parse("1"), acknowledged=now, now=now)
    assert (tmp_path / "its.csv").read_bytes() == before

"""The records of a directory of JSON files of Red Bird's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from redbird.repos import JSONDirectoryRepo
from rocketry.log import MinimalRecord

from rocketry_otel._history.streams.base import Window
from rocketry_otel._history.streams.stream_of import stream_of
from tests.support.stored import records


@pytest.fixture
def repo(tmp_path):
    """A repository with three records."""
    repo = JSONDirectoryRepo(path=tmp_path, model=MinimalRecord, id_field="task_name")
    for number, name in enumerate("cab"):
        repo.add(MinimalRecord(task_name=name, action="run", created=float(number)))
    return repo


def names(repo) -> str:
    """Return the names of the tasks that are read."""
    return "".join(fields["task_name"] for fields in records(repo))


@pytest.mark.parametrize("text", ["", "{", "[1]", "5", '{"task_name": "x"}', '{"created": 1}'])
def test_unreadable_file_is_skipped(repo, text: str, caplog) -> None:
    """One warning is logged."""
    for name in ("a1", "a2"):
        (repo.path / f"{name}.json").write_text(text)
    assert names(repo) == names(repo) == "cab"
    (record,) = caplog.records
    assert record.getMessage().startswith(
        f"records of JSONDirectoryRepo {repo.path} that cannot be"
    )


def test_half_written_file_is_read_later(repo, caplog) -> None:
    """Red Bird writes into the visible file: half of it may be there."""
    text = json.dumps(repo.read_file("a"))
    (repo.path / "a.json").write_text(text[:10])
    reading = records(repo)
    assert next(reading)["task_name"] == "c"
    (repo.path / "a.json").write_text(text)
    assert [fields["task_name"] for fields in reading] == ["b", "a"]
    assert not caplog.records


def test_file_removed_meanwhile_is_skipped(repo, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    """It may vanish at any moment."""
    reading = records(repo)
    assert next(reading)["task_name"] == "c"
    (repo.path / "b.json").unlink()
    assert [fields["task_name"] for fields in reading] == ["a"]
    gone = [repo.path / "gone.json", repo.path / "a.json"]
    monkeypatch.setattr(Path, "glob", lambda *_: iter(gone))
    assert names(repo) == "a"
    assert not caplog.records


def test_unwanted_files_are_removed(repo) -> None:
    """Files outside of the window are not checked."""
    removed = stream_of(repo).remove(
        Window(1_000_000_000), lambda fields: fields["task_name"] in {"a", "c"}
    )
    assert removed == 1
    assert sorted(path.name for path in repo.path.iterdir()) == ["b.json", "c.json"]

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
def test_a_file_that_is_no_record_is_passed_over(repo, text: str, caplog) -> None:
    """It is said once."""
    for name in ("a1", "a2"):
        (repo.path / f"{name}.json").write_text(text)
    assert names(repo) == names(repo) == "cab"
    (told,) = caplog.records
    assert told.getMessage().startswith(f"records of JSONDirectoryRepo {repo.path} that cannot be")


def test_a_file_that_is_just_being_written_is_read_later(repo, caplog) -> None:
    """Red Bird writes into the file that is there: half of it may be seen."""
    text = json.dumps(repo.read_file("a"))
    (repo.path / "a.json").write_text(text[:10])
    reading = records(repo)
    assert next(reading)["task_name"] == "c"
    (repo.path / "a.json").write_text(text)
    assert [fields["task_name"] for fields in reading] == ["b", "a"]
    assert not caplog.records


def test_a_file_that_is_removed_meanwhile(repo, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    """It is as if it had never been there, at whatever moment."""
    reading = records(repo)
    assert next(reading)["task_name"] == "c"
    (repo.path / "b.json").unlink()
    assert [fields["task_name"] for fields in reading] == ["a"]
    gone = [repo.path / "gone.json", repo.path / "a.json"]
    monkeypatch.setattr(Path, "glob", lambda *_: iter(gone))
    assert names(repo) == "a"
    assert not caplog.records


def test_removing(repo) -> None:
    """Each file goes or stays as it is; what lies outside of the time is not asked about."""
    removed = stream_of(repo).remove(
        Window(1_000_000_000), lambda fields: fields["task_name"] in {"a", "c"}
    )
    assert removed == 1
    assert sorted(path.name for path in repo.path.iterdir()) == ["b.json", "c.json"]

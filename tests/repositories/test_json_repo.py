"""The repository in a directory of JSON files."""

from __future__ import annotations

import json
import os
import re
import resource
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from redbird.repos import JSONDirectoryRepo

from rocketry_otel._errors import RepositoryError, RepositoryURLError
from rocketry_otel._model.record import TaskEventRecord
from rocketry_otel._repositories.open_repository import open_repository
from tests.support.processes import run_python

from .records import FULL, record


@pytest.fixture
def repo(tmp_path):
    """The repository of an empty directory."""
    return open_repository(f"json://{tmp_path}")


def names(path):
    """Return the names of all files, sorted."""
    return sorted(file.name for file in path.iterdir())


def test_each_record_is_a_file(repo, tmp_path):
    """It is UTF-8, has all fields, and is named by its time and process."""
    assert isinstance(repo, JSONDirectoryRepo)
    before = time.time_ns()
    repo.add(record("Grüße", message="\ud800"))
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    assert json.loads(content) == record("Grüße", message="\\ud800").dict()
    assert "Grüße".encode() in content
    stamp, process, _ = re.fullmatch(r"(\d{19})-(\d+)-([0-9a-f]{12})\.json", file.name).groups()
    assert before <= int(stamp) <= time.time_ns()
    assert int(process) == os.getpid()


def test_paths(tmp_path, monkeypatch):
    """Three slashes are absolute and two are relative to where the process was at opening."""
    monkeypatch.chdir(tmp_path)
    repos = [open_repository(url) for url in (f"json://{tmp_path}/a/b", "json://c", "json://./d")]
    monkeypatch.chdir("/")
    for repo in repos:
        repo.add(record())
    assert [len(names(tmp_path / name)) for name in ("a/b", "c", "d")] == [1, 1, 1]


def test_file_is_refused(tmp_path):
    """A file is no directory, and neither is a path below one."""
    (tmp_path / "file").touch()
    with pytest.raises(RepositoryURLError, match="this is a file"):
        open_repository(f"json://{tmp_path}/file")
    with pytest.raises(RepositoryError, match="Not a directory"):
        open_repository(f"json://{tmp_path}/file/within")


def test_url_without_a_directory_is_refused():
    """The error names the form of the URL."""
    with pytest.raises(RepositoryURLError, match="names no file"):
        open_repository("json://")


@pytest.mark.parametrize("clock", [lambda: 1_600_000_000_000_000_000, lambda: 0])
def test_order_survives_the_clock(repo, tmp_path, monkeypatch, clock):
    """Records stay in the order of their adding whatever the clock shows, also at a restart."""
    repo.add(record(created=0))
    monkeypatch.setattr(time, "time_ns", clock)
    for number in range(1, 12):
        repo.add(record(created=number))
    again = open_repository(f"json://{tmp_path}")
    again.add(record(created=12))
    assert [one.created for one in again.filter_by()] == list(range(13))


@pytest.mark.slow
def test_processes_write_at_once(tmp_path):
    """Files of several processes never have the same name."""
    script = """
        import sys
        from rocketry_otel._model.record import TaskEventRecord
        from rocketry_otel._repositories.open_repository import open_repository
        repo = open_repository(sys.argv[1])
        for number in range(100):
            repo.add(TaskEventRecord(task_name=sys.argv[2], action="run", created=number))
    """
    with ThreadPoolExecutor(3) as threads:
        finished = [
            threads.submit(run_python, script, f"json://{tmp_path}", name) for name in "abc"
        ]
        assert [one.result().stderr for one in finished] == [""] * 3
    repo = open_repository(f"json://{tmp_path}")
    assert [
        [one.created for one in repo.filter_by(task_name=name)] for name in ("a", "b", "c")
    ] == [list(range(100))] * 3


@pytest.mark.parametrize(
    "content", [b"", b'{"task_name": "a", "act', b"[1, 2]", b'{"name": "x"}', b"\xff\xfe{}"]
)
def test_unreadable_file_is_skipped(repo, tmp_path, caplog, content):
    """Half a file, or a foreign one, is logged once and stays as it is."""
    repo.add(record("a"))
    foreign = tmp_path / "package.json"
    foreign.write_bytes(content)
    (tmp_path / "notes.txt").write_text("no record either", encoding="utf-8")
    repo.add(record("b"))
    repo.filter_by(action="run").update(message="seen")
    assert [one.task_name for one in repo.filter_by()] == ["a", "b"]
    assert repo.filter_by(task_name="a", action="run").last().message == "seen"
    repo.filter_by().delete()
    assert names(tmp_path) == ["notes.txt", "package.json"]
    assert foreign.read_bytes() == content
    assert [(one.name, one.levelname) for one in caplog.records] == [("rocketry_otel", "WARNING")]
    assert caplog.records[0].getMessage().startswith(f"{foreign} is no task event and is left")


def test_directory_named_like_a_record_is_skipped(repo, tmp_path, caplog):
    """One warning is logged."""
    (tmp_path / "x.json").mkdir()
    repo.add(record())
    assert repo.filter_by().all() == [record()]
    assert repo.filter_by().count() == 1
    assert len(caplog.records) == 1


def test_record_removed_during_a_reading_is_skipped(repo, tmp_path, caplog):
    """No warning is logged."""
    for number in range(3):
        repo.add(record(created=number))
    result = iter(repo.filter_by())
    assert next(result).created == 0.0
    repo.filter_by(created=1.0).delete()
    assert [one.created for one in result] == [2.0]
    assert caplog.records == []


def test_full_disk_raises_and_leaves_no_file(repo, tmp_path):
    """The disk has no room for the record."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            repo.add(record(message="x" * 5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names(tmp_path) == []


def test_update_keeps_order_and_names(repo, tmp_path):
    """A change rewrites the record's own file."""
    for number in range(3):
        repo.add(record(created=number))
    before = names(tmp_path)
    repo.filter_by(created=1.0).update(action="fail")
    assert names(tmp_path) == before
    assert [one.action for one in repo.filter_by()] == ["run", "fail", "run"]


def test_last_record_is_found_from_the_end(repo, tmp_path):
    """No older file is opened for the last record."""
    repo.add(record("a"))
    (oldest,) = tmp_path.iterdir()
    repo.add(record("a", message="newest"))
    oldest.write_bytes(b"not read, or there would be a warning")
    assert repo.filter_by(task_name="a").last().message == "newest"
    assert repo._skipped == set()


def test_repository_of_red_bird_shares_the_directory(tmp_path):
    """Files of a plain repository with the same model are read, and the other way round."""
    plain = JSONDirectoryRepo(path=tmp_path, model=TaskEventRecord, id_field="run_id")
    plain.add(FULL)
    ours = open_repository(f"json://{tmp_path}")
    assert ours.filter_by().all() == [FULL]

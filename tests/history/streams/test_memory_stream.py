"""The records of a repository in memory of Red Bird's."""

from __future__ import annotations

from redbird.repos import MemoryRepo
from rocketry.log import MinimalRecord

from rocketry_otel._history.streams.base import Window
from rocketry_otel._history.streams.stream_of import stream_of
from tests.support.stored import records


def filled() -> MemoryRepo:
    """Return a repository with five records."""
    return MemoryRepo(
        model=MinimalRecord,
        collection=[
            MinimalRecord(task_name=name, action="run", created=float(number))
            for number, name in enumerate("abcde")
        ],
    )


def names(repo: MemoryRepo) -> str:
    """Return the names of the tasks that are read."""
    return "".join(fields["task_name"] for fields in records(repo))


def test_unreadable_item_is_skipped(caplog) -> None:
    """A list can hold anything."""
    repo = filled()
    repo.collection.insert(1, {"task_name": "x"})
    repo.collection.insert(2, {"task_name": "y", "action": "run", "created": 1})
    assert names(repo) == "aybcde"
    assert len(caplog.records) == 1


def test_removal_disturbs_no_reader_or_writer() -> None:
    """A reader reads to the end, and records that are added meanwhile stay."""
    repo = filled()
    reading = iter(repo.filter_by())
    assert next(reading).task_name == "a"

    def unwanted(fields) -> bool:
        if fields["task_name"] == "b":
            repo.add(MinimalRecord(task_name="new", action="run", created=0.0))
        return fields["task_name"] in "abd"

    assert stream_of(repo).remove(Window(until=2_000_000_000), unwanted) == 2
    assert names(repo) == "cdenew"
    assert [one.task_name for one in reading][:4] == ["b", "c", "d", "e"]


def test_empty_removal_keeps_the_list() -> None:
    """It is the same list as before."""
    repo = filled()
    before = repo.collection
    assert stream_of(repo).remove(Window(), lambda _: False) == 0
    assert repo.collection is before

"""The records of a collection in MongoDB, as mongomock has it."""

from __future__ import annotations

from itertools import islice

import pytest

from rocketry_otel import TaskEventRecord
from rocketry_otel._history.streams.base import Place, Window
from rocketry_otel._history.streams.mongo_stream import _rank
from rocketry_otel._history.streams.stream_of import stream_of
from tests.repositories.records import record
from tests.support.repositories import Make
from tests.support.stored import records


@pytest.mark.parametrize("kind", ["mongodb", "plain-mongodb"])
def test_unreadable_document_is_skipped(make_repo: Make, kind: str, caplog) -> None:
    """One warning is logged."""
    repo = make_repo(kind)
    documents = repo.get_collection()
    repo.add(record("a", message="1"))
    documents.insert_many([{"created": 1.0, "x": 5}, {"created": 1.0, "task_name": "b"}])
    repo.add(record("c", message="2"))
    assert {fields["task_name"] for fields in records(repo)} == {"a", "c"}
    (message,) = [one.getMessage() for one in caplog.records]
    assert message.startswith(f"records of {type(repo).__name__} {repo.collection} that cannot be")
    caplog.clear()


def test_id_field_is_found_in_the_document(make_repo: Make) -> None:
    """Red Bird stores the id field as `_id`."""
    for key in ("task_name", "created", "run_id"):
        repo = make_repo("plain-mongodb", TaskEventRecord, key)
        repo.get_collection().delete_many({})
        repo.add(record("etl", created=7.0, run_id="r"))
        stream = stream_of(repo)
        (fields,) = stream.outlines(Window())
        assert fields == {
            "task_name": "etl", "action": "run", "created": 7.0, "run_id": "r",
            "process": None, "thread": None,
        }  # fmt: skip
        assert stream.newest([("etl", "run"), ("etl", "fail")]) == {("etl", "run"): fields}
        assert stream.earliest_of_newest(5) == 7_000_000_000


def test_empty_collection_has_no_records(make_repo: Make) -> None:
    """Nothing is read, found or removed."""
    stream = stream_of(make_repo("mongodb"))
    assert list(stream.outlines(Window())) == []
    assert stream.newest([("etl", "run")]) == {}
    assert stream.earliest_of_newest(5) == 0
    assert stream.remove(Window(), lambda _: True) == 0
    stream.repo.add(record())
    assert stream.remove(Window(), lambda _: False) == 0


def test_ids_of_other_types_end_no_reading(make_repo: Make) -> None:
    """MongoDB compares values of one type alone; a reading goes through all types, and resumes."""
    repo = make_repo("mongodb")
    documents = repo.get_collection()
    for number, key in enumerate((3, 1.5, "x", {"a": 1}, b"b", True)):
        documents.insert_one({"_id": key, **record("theirs", created=float(number + 1)).dict()})
    repo.add(record("ours", created=50.0))
    for window in (Window(), Window(since=1)):
        assert [one["task_name"] for one in records(repo, *window)].count("theirs") == 6
        stream, place, found = stream_of(repo), Place(), []
        for _ in range(9):
            # Each reading goes on behind the last record of the one before.
            found += [fields["task_name"] for fields in islice(stream.read(window, place), 1)]
        assert sorted(found) == ["ours"] + ["theirs"] * 6
        assert stream.is_whole(window, place, lambda: True)
    assert stream.earliest_of_newest(7) == 1_000_000_000
    assert stream.remove(Window(), lambda fields: fields["task_name"] == "theirs") == 6


def test_group_of_ids_that_goes_during_a_reading_ends_no_other(make_repo: Make) -> None:
    """Another process removes documents between two requests of the reading."""
    repo = make_repo("mongodb")
    documents = repo.get_collection()
    documents.insert_one({"_id": "x", **record("theirs").dict()})
    repo.add(record("ours"))
    stream = stream_of(repo)
    end = stream._end

    def removing(wanted, direction):
        if direction == -1:
            documents.delete_one({"_id": "x"})
        return end(wanted, direction)

    stream._end = removing
    assert [fields["task_name"] for fields in stream.read(Window())] == ["ours"]


def test_documents_without_end_end_a_reading(make_repo: Make) -> None:
    """A value that is no match of itself keeps no reading for good."""
    stream = stream_of(make_repo("mongodb"))
    stream._end = lambda _, direction: 1.0 if direction == 1 else None
    assert list(stream.read(Window())) == []
    assert stream._key({"_id": 5}) == (5,)


@pytest.mark.parametrize(("value", "rank"), [(True, 5), (1, 0), ("x", 1), (object(), 8)])
def test_rank_of_a_value_is_that_of_its_type(value, rank: int) -> None:
    """A truth value is no number; an unknown type comes last."""
    assert _rank(value) == rank

"""The records of a collection in MongoDB, as mongomock has it."""

from __future__ import annotations

import pytest

from rocketry_otel import TaskEventRecord
from rocketry_otel._history.streams.base import Window
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

"""The repository in memory."""

from __future__ import annotations

import threading

import pytest
from redbird import oper
from redbird.repos import MemoryRepo

from rocketry_otel._errors import RepositoryURLError
from rocketry_otel._model.record import TaskEventRecord
from rocketry_otel._repositories.memory_repo import BoundedMemoryRepo
from rocketry_otel._repositories.open_repository import open_repository

from .records import record


def times(repo):
    """Return the times of all records."""
    return [one.created for one in repo.filter_by()]


def test_default_limit_is_a_hundred_thousand():
    """The newest records stay."""
    repo = open_repository("memory://")
    assert isinstance(repo, MemoryRepo)
    assert repo.max_records == 100_000
    for number in range(100_001):
        repo.insert(record(created=number))
    assert repo.filter_by().count() == 100_000
    assert repo.filter_by().first().created == 1.0
    assert repo.filter_by().last().created == 100_000.0


def test_option_sets_the_limit():
    """The newest records stay."""
    repo = open_repository("memory://?max_records=3")
    for number in range(5):
        repo.add(record(created=number))
    assert times(repo) == [2.0, 3.0, 4.0]


@pytest.mark.parametrize(
    "value", ["0", "-1", "1.5", "", "many", "²", "1e3", "2147483648", "9" * 5000]
)
def test_bad_limit_is_refused(value):
    """The error has the allowed range."""
    with pytest.raises(RepositoryURLError, match="from 1 to 2147483647"):
        open_repository(f"memory://?max_records={value}")


def test_record_beyond_the_limit_is_not_found_as_the_last():
    """The limit has removed it."""
    repo = open_repository("memory://?max_records=2")
    repo.add(record("a", "fail", 1.0))
    repo.add(record("a", "run", 2.0))
    repo.add(record("a", "run", 3.0))
    assert repo.filter_by(task_name="a", action="fail").last() is None
    assert repo.filter_by(task_name="a", action=oper.in_(["fail", "run"])).last().created == 3.0


def test_one_record_added_twice():
    """A record that is there twice is found until both have left."""
    repo = open_repository("memory://?max_records=2")
    twice = record("a", "fail", 1.0)
    repo.add(twice)
    repo.add(twice)
    repo.add(record("b"))
    assert repo.filter_by(task_name="a", action="fail").last() is twice
    repo.add(record("b"))
    assert repo.filter_by(task_name="a", action="fail").last() is None


def test_limit_holds_after_changes():
    """Updates and removals change neither the limit nor the answers."""
    repo = open_repository("memory://?max_records=3")
    for number in range(3):
        repo.add(record("a", "run", number))
    repo.filter_by(created=1.0).delete()
    repo.filter_by(created=2.0).update(action="fail")
    assert times(repo) == [0.0, 2.0]
    for number in (3, 4):
        repo.add(record("a", "run", number))
    assert times(repo) == [2.0, 3.0, 4.0]
    assert repo.filter_by(task_name="a", action="fail").last().created == 2.0
    repo.add(record("a", "run", 5))
    assert repo.filter_by(task_name="a", action="fail").last() is None


def test_unknown_field_is_refused():
    """An update of a field that the model does not have raises."""
    repo = open_repository("memory://")
    repo.add(record())
    with pytest.raises(ValueError, match="has no field"):
        repo.filter_by().update(colour="red")


def test_records_to_begin_with():
    """Records given at the start are kept as far as there is room."""
    repo = BoundedMemoryRepo(
        model=TaskEventRecord,
        collection=[record(created=number) for number in range(3)],
        max_records=2,
    )
    assert times(repo) == [1.0, 2.0]
    assert repo.filter_by(task_name="fetch", action="run").last().created == 2.0


def test_reader_sees_one_moment():
    """Records added during a reading are left out, and do not disturb it."""
    repo = open_repository("memory://?max_records=2")
    repo.add(record(created=1))
    repo.add(record(created=2))
    result = iter(repo.filter_by())
    assert next(result).created == 1.0
    repo.add(record(created=3))
    assert [one.created for one in result] == [2.0]


def test_reading_never_raises_while_another_thread_adds():
    """Reading a full repository, which each addition changes at both ends, never raises."""
    repo = open_repository("memory://?max_records=500")
    done, full = threading.Event(), threading.Event()

    def add():
        number = 0
        while not done.is_set():
            number += 1
            repo.add(record(created=number))
            if number == 500:
                full.set()

    adder = threading.Thread(target=add)
    adder.start()
    try:
        for _ in range(100):
            seen = times(repo)
            assert seen == sorted(seen)
            repo.filter_by(created=oper.greater_equal(5)).last()
            repo.filter_by(task_name="fetch", action="run").last()
        assert full.wait(20)
    finally:
        done.set()
        adder.join()
    assert repo.filter_by().count() == 500


def test_lock_that_was_held_at_a_fork_is_free_in_the_child():
    """A child of a fork can add, though another thread was adding at that moment."""
    repo = open_repository("memory://")
    held, free = threading.Event(), threading.Event()

    def hold():
        with repo._lock:
            held.set()
            free.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    try:
        # What is called in the child; here the holder lives on, and would be waited for.
        repo._renew_lock()
        repo.add(record())
    finally:
        free.set()
        holder.join()
    assert times(repo) == [1.0]


def test_records_share_the_set_of_their_field_names():
    """A change of one record changes no other, and all are equal to those that were added."""
    repo = open_repository("memory://")
    for number in range(2):
        repo.add(record(created=number))
    first, second = repo.filter_by().all()
    assert (first, second) == (record(created=0), record(created=1))
    assert first.__fields_set__ is second.__fields_set__
    first.message = "changed"
    assert (first.message, second.message) == ("changed", None)
    assert second == record(created=1)
    assert first.copy(update={"run_id": "2"}).run_id == "2"
    assert first.__fields_set__ == set(TaskEventRecord.__fields__)


def test_record_of_a_class_of_the_users_stays_as_it_is():
    """Its set of field names may be another."""

    class Mine(TaskEventRecord):
        host: str = "here"

    repo = BoundedMemoryRepo(model=Mine)
    repo.add(Mine(task_name="fetch", action="run", created=1))
    (kept,) = repo.filter_by().all()
    assert kept.__fields_set__ == {"task_name", "action", "created"}

"""The contract of every kind of repository."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import islice
from uuid import uuid4

import pytest
from redbird import oper
from redbird.base import BaseRepo
from redbird.logging import RepoHandler

from rocketry_otel._model.record import TaskEventRecord
from rocketry_otel._model.text import safe_text
from rocketry_otel._repositories.open_repository import open_repository
from tests.support.repositories import KINDS

from .records import FULL, record

ODD_TEXTS = [
    "NUL \0 within",
    "\ud800 alone, \udfff too",
    'quotes "a" \'b\' ""',
    "lines\nof\r\nevery\rkind\n",
    "a,b;c\td",
    "Grüße, 世界 🌍",
    "\ufeff\u2028\x1a\x7f\\",
    " ",
    "=1+1",
    "long " * 100_000,
]


# A real server of MongoDB's protocol is built with the stack, and so left to the full run.
@pytest.fixture(params=[*KINDS, pytest.param("ferretdb", marks=pytest.mark.conservation)])
def url(request, make_url):
    """The URL of an empty repository of each kind."""
    return make_url(request.param)


@pytest.fixture
def repo(url):
    """An empty repository of each kind."""
    return open_repository(url)


@pytest.fixture
def filled(repo):
    """A repository with six records, added in another order than that of their times."""
    for one in (
        record("a", "run", 5.0, run_id="1"),
        record("b", "run", 4.0, run_id="2"),
        record("a", "success", 4.0, run_id="1", runtime=1.5),
        record("b", "fail", 3.0, run_id="2", runtime=0.5),
        record("a", "run", 2.0, run_id="3"),
        record("a", "terminate", 9.0, run_id="3", runtime=2.5),
    ):
        repo.add(one)
    return repo


@pytest.fixture
def logger(repo):
    """A logger that adds to the repository."""
    logger = logging.getLogger(uuid4().hex)
    logger.setLevel(logging.INFO)
    logger.addHandler(RepoHandler(repo=repo))
    return logger


def created(records):
    """Return keys of records: all but two differ in their times."""
    return [(one.created, one.action) for one in records]


ALL = [
    (5.0, "run"),
    (4.0, "run"),
    (4.0, "success"),
    (3.0, "fail"),
    (2.0, "run"),
    (9.0, "terminate"),
]


def test_repository_is_empty_and_of_our_model(repo):
    """It is one of Red Bird's repositories, its model is ours, and it is empty."""
    assert isinstance(repo, BaseRepo)
    assert repo.model is TaskEventRecord
    assert repo.filter_by().all() == []
    assert repo.filter_by().first() is None
    assert repo.filter_by().last() is None
    assert repo.filter_by().count() == 0


def test_record_is_read_as_it_was_written(repo):
    """Every field of a record has the same value and type afterwards."""
    repo.add(FULL)
    (kept,) = repo.filter_by().all()
    assert type(kept) is TaskEventRecord
    assert kept == FULL
    assert [type(value) for value in kept.dict().values()] == [
        type(value) for value in FULL.dict().values()
    ]


def test_unset_fields_are_none(repo):
    """Optional fields without a value are None, and nothing else."""
    repo.add(record())
    assert repo.filter_by().all() == [record()]


def test_repository_serves_a_log_handler(repo, logger):
    """A handler of Red Bird on a real logger keeps each record with its traceback."""
    try:
        int("no")
    except ValueError:
        logger.exception("it %s", "failed", extra={"task_name": "fetch", "action": "fail"})
    kept = repo.filter_by(task_name="fetch", action="fail").last()
    assert kept.message == "it failed"
    assert kept.exc_text.startswith("Traceback (most recent call last):\n")
    assert kept.exc_text.endswith("\nValueError: invalid literal for int() with base 10: 'no'")
    assert type(kept.created) is float
    assert type(kept.process) is int
    assert kept.thread == str(threading.get_ident())


def test_records_are_in_the_order_of_their_adding(filled):
    """The order of records is neither that of their times nor that of their texts."""
    assert created(filled.filter_by()) == ALL
    assert created(filled.filter_by().all()) == ALL
    assert created(filled) == ALL
    assert created(filled.filter_by(task_name="a").all()) == ALL[0:1] + ALL[2:3] + ALL[4:]


def test_first_last_limit_and_count(filled):
    """Of the records that match, the first, the last, the first few and the number are right."""
    assert created([filled.filter_by().first(), filled.filter_by().last()]) == [ALL[0], ALL[5]]
    runs = filled.filter_by(action="run")
    assert created([runs.first(), runs.last()]) == [ALL[0], ALL[4]]
    assert [created(runs.limit(n)) for n in (0, 1, 2, 9)] == [
        [],
        ALL[0:1],
        ALL[0:2],
        [*ALL[0:2], ALL[4]],
    ]
    assert runs.count() == 3
    assert filled.filter_by(task_name="c").first() is None


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"action": "run"}, ALL[4]),
        ({"action": "fail"}, None),
        ({"action": oper.in_(["success", "fail"])}, ALL[2]),
        ({"action": oper.in_(("run", "success", "terminate"))}, ALL[5]),
        ({"action": oper.in_(["crash"])}, None),
        ({"action": oper.in_([])}, None),
        ({"action": oper.not_equal("terminate")}, ALL[4]),
        ({}, ALL[5]),
    ],
)
def test_last_record_of_a_task_is_found(filled, query, expected):
    """The newest record of a task and an action, as Rocketry asks for it, is found."""
    last = filled.filter_by(task_name="a", **query).last()
    assert (last and (last.created, last.action)) == expected


def test_last_record_is_right_after_changes(filled):
    """An answer about the newest record is right again after an addition, a change, a removal."""
    asked = {"task_name": "a", "action": "run"}
    assert filled.filter_by(**asked).last().run_id == "3"
    filled.add(record("a", "run", 1.0, run_id="4"))
    assert filled.filter_by(**asked).last().run_id == "4"
    filled.filter_by(run_id="4").update(action="crash")
    assert filled.filter_by(**asked).last().run_id == "3"
    filled.filter_by(**asked).delete()
    assert filled.filter_by(**asked).last() is None
    assert filled.filter_by(task_name="a", action="crash").last().run_id == "4"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"created": oper.between(3.0, 4.0)}, ALL[1:4]),
        ({"created": oper.greater_equal(5.0)}, [ALL[0], ALL[5]]),
        ({"created": oper.less_than(3.0)}, [ALL[4]]),
        ({"created": oper.greater_than(5.0), "action": "terminate"}, [ALL[5]]),
        ({"created": oper.less_equal(3.0), "action": oper.in_(["run"])}, [ALL[4]]),
        ({"created": 4.0, "task_name": oper.not_equal("a")}, [ALL[1]]),
        # A missing runtime is neither more nor less than any value.
        ({"runtime": oper.greater_equal(1.5)}, [ALL[2], ALL[5]]),
        ({"runtime": oper.between(0.0, 1.5)}, [ALL[2], ALL[3]]),
        ({"run_id": "2", "action": oper.skip}, [ALL[1], ALL[3]]),
        ({"message": "there is none"}, []),
    ],
)
def test_operations_of_red_bird(filled, query, expected):
    """Each query operation of Red Bird finds the right records."""
    assert created(filled.filter_by(**query).all()) == expected
    assert filled.filter_by(**query).count() == len(expected)


def test_update_and_delete(filled):
    """A change or a removal reaches the records that match, and no others."""
    filled.filter_by(run_id="1").update(message="seen", runtime=7.0)
    assert [(one.message, one.runtime) for one in filled.filter_by()] == [
        ("seen", 7.0),
        (None, None),
        ("seen", 7.0),
        (None, 0.5),
        (None, None),
        (None, 2.5),
    ]
    filled.filter_by(action="run").delete()
    assert created(filled.filter_by()) == [ALL[2], ALL[3], ALL[5]]
    filled.add(record("c", "run", 6.0))
    assert created(filled.filter_by()) == [ALL[2], ALL[3], ALL[5], (6.0, "run")]


def test_record_is_replaced(filled):
    """A record that is replaced is the newest."""
    filled.filter_by(action="success").replace(task_name="a", action="crash", created=8.0)
    assert created(filled.filter_by()) == [*ALL[:2], *ALL[3:], (8.0, "crash")]


def test_odd_text(repo, url):
    """Every text is accepted and comes back, with NUL and lone surrogates escaped."""
    for text in ODD_TEXTS:
        repo.add(record(task_name=text[:200], message=text))
    shown = (lambda text: text) if url == "memory://" else safe_text
    kept = repo.filter_by().all()
    assert [one.task_name for one in kept] == [shown(text[:200]) for text in ODD_TEXTS]
    assert [one.message for one in kept] == [shown(text) for text in ODD_TEXTS]


@pytest.mark.parametrize("text", ODD_TEXTS[:-1])
def test_odd_text_is_found(repo, text):
    """A query finds text as it was added, in a value and within operations."""
    repo.add(record(task_name=text, action="run", message=text))
    repo.add(record(task_name="other", action="run", message="other"))
    asked = {"task_name": text, "action": "run"}
    assert repo.filter_by(**asked).count() == 1
    assert repo.filter_by(**asked).last() is not None
    assert repo.filter_by(message=oper.in_([text])).count() == 1
    assert repo.filter_by(message=oper.not_equal(text)).count() == 1
    repo.filter_by(**asked).update(message=f"{text}!")
    assert repo.filter_by(message=f"{text}!").count() == 1


def test_empty_task_name_is_read(repo):
    """A task without a name does not make reading fail."""
    repo.add(record(task_name="", action="run"))
    assert repo.filter_by().all() == [record(task_name="", action="run")]
    assert repo.filter_by(task_name="", action="run").last() == record(task_name="")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("process", 2**63),
        ("process", -(2**63) - 1),
        ("runtime", float("nan")),
        ("start", float("inf")),
        ("end", float("-inf")),
    ],
)
def test_too_large_number_refuses_no_record(repo, url, field, value):
    """Only memory stores such a number."""
    repo.add(record(**{field: value}))
    (kept,) = repo.filter_by().all()
    expected = value if url == "memory://" else None
    assert repr(getattr(kept, field)) == repr(expected)


@pytest.mark.parametrize("value", [2**63 - 1, -(2**63), 0])
def test_largest_numbers_are_stored(repo, value):
    """They are the largest and smallest integers of 64 bits."""
    repo.add(record(process=value))
    assert repo.filter_by(process=value).first().process == value


def test_threads_add_while_others_read(repo, logger):
    """Nothing is lost and nothing raises while four threads add and two read."""
    done = threading.Event()

    def add(task_name):
        for number in range(50):
            logger.info("%d", number, extra={"task_name": task_name, "action": "run"})

    def read():
        while not done.is_set():
            repo.filter_by(action="run").all()
            repo.filter_by(task_name="t1", action="run").last()
            list(islice(repo.filter_by(task_name="t2"), 3))

    with ThreadPoolExecutor(6) as threads:
        readers = [threads.submit(read) for _ in range(2)]
        adders = [threads.submit(add, f"t{number}") for number in range(4)]
        wait(adders)
        done.set()
        for future in readers + adders:
            future.result()
    for number in range(4):
        kept = repo.filter_by(task_name=f"t{number}").all()
        assert [one.message for one in kept] == [str(number) for number in range(50)]


def test_records_survive_reopening(filled, url):
    """Another repository of the same URL has the same records, but in memory."""
    again = open_repository(url)
    assert created(again.filter_by()) == ([] if url == "memory://" else ALL)
    again.add(record("c", "run", 6.0))
    assert created([again.filter_by(task_name="c", action="run").last()]) == [(6.0, "run")]


def test_mapping_is_added_like_a_record(repo):
    """The fields of the model are stored."""
    repo.add({"task_name": "a", "action": "run", "created": 1.0, "levelname": "INFO"})
    assert repo.filter_by().all() == [record("a")]


@pytest.mark.parametrize("if_exists", ["ignore", "update"])
def test_records_have_no_id_in_red_birds_sense(repo, if_exists):
    """Red Bird's other ways of adding store the record too, since no field is an id."""
    for _ in range(2):
        repo.add(record("a"), if_exists=if_exists)
    assert repo.filter_by().all() == [record("a"), record("a")]


@pytest.mark.parametrize("url", ["memory", "csv", "json"], indirect=True)
def test_only_unwanted_records_are_removed(filled):
    """Each matching record is checked, and the number of removed ones is returned."""
    asked = []

    def is_unwanted(one):
        asked.append(one.action)
        return one.created == 4.0

    assert filled.remove({"created": oper.less_than(5.0)}, is_unwanted) == 2
    assert asked == ["run", "success", "fail", "run"]
    assert created(filled.filter_by()) == [ALL[0], *ALL[3:]]
    assert filled.filter_by(task_name="a", action="success").last() is None
    assert filled.filter_by(task_name="a", action="run").last().created == 2.0
    filled.add(record("c", "run", 6.0))
    assert created(filled.filter_by()) == [ALL[0], *ALL[3:], (6.0, "run")]

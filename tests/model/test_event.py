import json
import math

import pytest

from rocketry_otel._model.annotations import RunEvent, RunLink
from rocketry_otel._model.event import TaskEvent, live_event, nanoseconds, parse_event
from rocketry_otel._model.record import TaskEventRecord
from tests.support.records import START, raised, task_record


class Evil:
    def __float__(self) -> float:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (1_700_000_000.25, int(1_700_000_000.25 * 1e9)),
        (1_700_000_000, 1_700_000_000_000_000_000),
        ("1700000000.5", int(1_700_000_000.5 * 1e9)),
        (0.0, 0),
        (-1.0, 0),
        (math.nan, 0),
        (-math.inf, 0),
        (math.inf, 2**63 - 1),
        (1e300, 2**63 - 1),
        (10**400, 2**63 - 1),
        (9.3e9, 2**63 - 1),
        (None, 0),
        ("soon", 0),
        (Evil(), 0),
    ],
    ids=lambda value: str(value)[:20],
)
def test_any_time_is_in_the_range_of_otlp(seconds: object, expected: int) -> None:
    """A value that is no time becomes 0, unknown; one out of range becomes the end of the range."""
    assert nanoseconds(seconds) == expected
    assert type(nanoseconds(seconds)) is int


def test_run_record_has_all_parts_of_an_event() -> None:
    """Every part of an event comes from the record's own fields."""
    record = task_record(
        "run", run_id="r1", execution="thread", process=7, thread=123456789012345, levelno=20
    )
    assert parse_event({**vars(record), "message": "hello"}) == TaskEvent(
        task_name="etl",
        action="run",
        created=int(START * 1e9),
        run_id="r1",
        message="hello",
        level=20,
        exception=None,
        execution="thread",
        process="7",
        thread="123456789012345",
        attributes=(),
    )


def test_stored_record_gives_the_same_event() -> None:
    """A stored record gives the same event as the live one, but for the level."""
    fields = {**vars(task_record("fail", run_id="r1", exc_info=raised(ValueError("boom"))))}
    live = live_event({**fields, "process": 7, "exc_text": "of another handler"}, "m")
    assert live.exception is not None
    assert live.exception.stacktrace is not None
    assert "in raised" in live.exception.stacktrace
    fields |= {"message": "m", "exc_type": "ValueError", "exc_message": "boom", "process": 7}
    fields["exc_text"] = live.exception.stacktrace
    stored = TaskEventRecord(**fields).dict()
    assert parse_event(stored) == live._replace(level=None)


def test_minimal_record_gets_rocketrys_own_message() -> None:
    """A model that keeps no message is replayed with the text that Rocketry logs."""
    event = parse_event({"task_name": "etl", "action": "run", "created": START})
    assert event.message == "Task 'etl' status: 'run'"
    assert event.is_task_event


@pytest.mark.parametrize(
    "fields",
    [{}, {"task_name": "etl"}, {"action": "run"}, {"task_name": None, "action": "run"}],
    ids=str,
)
def test_record_without_task_or_action_is_no_task_event(fields: dict[str, object]) -> None:
    """A repository keeps only records with both."""
    assert not parse_event(fields).is_task_event


def test_only_failures_and_plain_records_have_an_exception() -> None:
    """An ``exc_info`` that hangs on a success is not the run's error."""
    exc_info = raised(ValueError("boom"))
    assert parse_event(vars(task_record("success", exc_info=exc_info))).exception is None
    assert parse_event(vars(task_record(None, exc_info=exc_info))).exception is not None


@pytest.mark.parametrize("execution", ["fast", 5, None, ["main"]], ids=str)
def test_unknown_execution_is_left_out(execution: object) -> None:
    """Only Rocketry's four modes are shown."""
    assert parse_event({"execution": execution}).execution is None


@pytest.mark.parametrize(
    ("stored", "attributes"),
    [
        (
            '{"b": 1, "a": "x", "c": true, "d": 1.5}',
            (("a", "x"), ("b", 1), ("c", True), ("d", 1.5)),
        ),
        (
            {"n": None, "big": 2**70, "inf": math.inf},
            (("big", str(2**70)), ("inf", "inf"), ("n", "None")),
        ),
        ("no json", ()),
        ("[1]", ()),
        (5, ()),
        ("{}", ()),
    ],
    ids=str,
)
def test_added_attributes_are_plain_and_sorted(stored: object, attributes: object) -> None:
    """They have types of OTLP, in one order; text that is no JSON object gives none."""
    assert parse_event({"attributes": stored}).attributes == attributes


def test_added_events_and_links_are_read() -> None:
    """From their columns, as text or as a database has parsed them."""
    events = [{"name": "e", "time": 5, "attributes": {"b": 1, "a": None}}]
    links = [{"trace_id": f"{10:032x}", "span_id": f"{11:016x}", "link": "dependency"}]
    for fields in (
        {"events": events, "links": links},
        {"events": json.dumps(events), "links": json.dumps(links)},
    ):
        event = parse_event(fields)
        assert event.events == (RunEvent("e", 5, (("a", "None"), ("b", 1))),)
        assert event.links == (RunLink(10, 11, "dependency"),)


@pytest.mark.parametrize("stored", ["no json", 5, [5], {}, "", None, '[{"name": "e"}]'], ids=str)
def test_columns_that_are_none_of_ours_give_nothing(stored: object) -> None:
    """A user's own field of that name is no event and no link."""
    event = parse_event({"events": stored, "links": stored})
    assert (event.events, event.links) == ((), ())


def test_group_whose_members_were_cut_off_is_read() -> None:
    """The group's own type and message are there, without the exceptions that it holds."""
    text = (
        "  + Exception Group Traceback (most recent call last):\n"
        '  |   File "x", line 1, in f\n'
        "  | ExceptionGroup: two of them (2 sub-exceptions)"
    )
    exception = parse_event({"action": "fail", "exc_text": text}).exception
    assert exception is not None
    assert (exception.type, exception.message) == (
        "ExceptionGroup",
        "two of them (2 sub-exceptions)",
    )

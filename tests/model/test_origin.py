from __future__ import annotations

from typing import Any

import pytest

from rocketry_otel._model.event import TaskEvent, parse_event
from rocketry_otel._model.ids import ids_of
from rocketry_otel._model.origin import is_from, may_have_crashed, with_origin
from rocketry_otel._model.runs import Run
from rocketry_otel._model.signals import span_signal


def began(**fields: Any) -> TaskEvent:
    """Return the event that begins a run."""
    return parse_event({"task_name": "etl", "action": "run", "created": 1.0, **fields})


def test_beginning_has_its_origin() -> None:
    """As a record keeps it: by name, sorted."""
    event = with_origin(began(process=7), "host", "7-1-a")
    assert event.attributes == (
        ("host.name", "host"),
        ("process.pid", 7),
        ("rocketry.scheduler", "7-1-a"),
    )
    assert is_from(event, "host", "7-1-a")
    assert not is_from(event, "other", "7-1-a")
    assert not is_from(event, "host", "8-1-a")


@pytest.mark.parametrize(
    ("version", "stored"),
    [("1.2.3", "1.2.3"), ("\udc80", "\\udc80"), ("9" * 2_000, None), ("", None), (None, None)],
)
def test_beginning_has_the_version(version: str | None, stored: str | None) -> None:
    """If there is one: as clean text of a length that is sent, also on the span."""
    event = with_origin(began(), "host", "7-1-a", version)
    kept = dict(event.attributes).get("service.version")
    if version and stored is None:
        assert isinstance(kept, str)
        assert len(kept) < 1_100
    else:
        assert kept == stored
    assert event.attributes == tuple(sorted(event.attributes))
    ended = parse_event({"task_name": "etl", "action": "success", "created": 2.0})
    span = span_signal(Run(ids_of("etl", None, 1), began=event, ended=ended), ended, "full")
    assert span.attributes.get("service.version") == kept


@pytest.mark.parametrize("process", [None, "x", -1, "9" * 30])
def test_odd_process_is_left_out(process: object) -> None:
    """An application may have put anything on a record."""
    event = with_origin(began(process=process), "host", "7-1-a")
    assert event.attributes == (("host.name", "host"), ("rocketry.scheduler", "7-1-a"))


def test_span_shows_host_and_process() -> None:
    """The name of the scheduler's process is of no use there; ours win over those of the body."""
    event = with_origin(began(process=7), "host", "7-1-a")
    ended = parse_event(
        {
            "task_name": "etl",
            "action": "success",
            "created": 2.0,
            "attributes": '{"host.name": "mine", "rows": 5}',
        }
    )
    span = span_signal(Run(ids_of("etl", None, 1), began=event, ended=ended), ended, "full")
    assert span.attributes == {
        "task_name": "etl",
        "host.name": "host",
        "process.pid": 7,
        "rocketry.action": "success",
        "rows": 5,
    }


@pytest.mark.parametrize(
    ("host", "alive", "may"),
    [("host", False, True), ("host", True, False), ("other", False, False), ("other", True, False)],
)
def test_crash_is_that_of_a_dead_process_of_this_host(host: str, alive: bool, may: bool) -> None:  # noqa: FBT001
    """A living process ends its run itself, and of another host nothing is known here."""
    event = with_origin(began(process=7), host, "7-1-a")
    assert may_have_crashed(event, "host", lambda name: alive and name == "7-1-a") is may


@pytest.mark.parametrize(
    "attributes", [None, '{"host.name": "other"}', '{"host.name": "x", "rocketry.scheduler": 5}']
)
def test_run_without_origin_may_have_crashed(attributes: str | None) -> None:
    """Its record was written by an earlier version, or with another model."""
    assert may_have_crashed(began(attributes=attributes), "host", lambda _: True)

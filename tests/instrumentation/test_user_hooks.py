from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest

from rocketry_otel._export.counters import Counters
from rocketry_otel._instrumentation.user_hooks import UserHooks
from rocketry_otel._model.event import parse_event

if TYPE_CHECKING:
    from collections.abc import Mapping

FIELDS = {"task_name": "etl", "action": "success", "created": 1.0, "run_id": "r1", "rows": 5}
EVENT = parse_event(FIELDS)


class Evil:
    def __str__(self) -> str:
        raise RuntimeError("no")


def broken(*_: Any) -> Any:
    """Be a hook that raises."""
    raise RuntimeError("a hook of the user's")


def test_without_hooks_it_is_nothing() -> None:
    """It is false, so that nobody has to call it; either hook makes it true."""
    assert not UserHooks()
    assert UserHooks(name_span=broken)
    assert UserHooks(enrich=broken)
    assert UserHooks().of(EVENT, FIELDS, Counters()) == {}


def test_hooks_are_given_the_task_the_record_and_how_it_ended() -> None:
    """Each is an ordinary callable with three arguments; what they return is what is added."""
    seen: list[Any] = []
    task = object()

    def name_span(*arguments: Any) -> str:
        seen.append(arguments)
        return "named"

    def enrich(*arguments: Any) -> dict[str, object]:
        seen.append(arguments)
        return {"team": "data", "rows": arguments[1]["rows"]}

    user_hooks = UserHooks(name_span, enrich, {"etl": task}.get)
    counters = Counters()
    assert user_hooks.of(EVENT, FIELDS, counters) == {
        "team": "data",
        "rows": 5,
        "rocketry.span_name": "named",
    }
    assert seen == [(task, FIELDS, "success")] * 2
    assert counters.of("traces", "hook_error") == {}


def test_a_task_that_nobody_knows_is_none() -> None:
    """A handler put in place by hand knows no tasks, and a task may be gone."""
    seen: list[object] = []
    UserHooks(enrich=lambda task, *_: seen.append(task)).of(EVENT, FIELDS, Counters())  # type: ignore[arg-type, return-value]
    UserHooks(enrich=lambda task, *_: seen.append(task), task_of=broken).of(  # type: ignore[arg-type, return-value]
        EVENT, FIELDS, Counters()
    )
    assert seen == [None, None]


def test_what_a_record_lacks_is_empty_text() -> None:
    """Hooks get texts, whatever a record lacks."""
    seen: list[object] = []

    def name_span(task: object, record: Mapping[str, object], outcome: str) -> str:
        seen.extend([task, dict(record), outcome])
        return ""

    assert UserHooks(name_span, task_of=str).of(parse_event({}), {}, Counters()) == {}
    assert seen == ["", {}, ""]


@pytest.mark.parametrize("nothing", [None, ""])
def test_a_hook_that_names_nothing_leaves_the_name(nothing: Any) -> None:
    """A span is never called ``None``, nor nothing at all."""
    counters = Counters()
    assert UserHooks(lambda *_: nothing, lambda *_: None).of(EVENT, FIELDS, counters) == {}  # type: ignore[arg-type, return-value]
    assert counters.of("traces", "hook_error") == {}


def test_a_name_that_is_no_text_becomes_one() -> None:
    """What a hook returns as the name is shown as text."""
    assert UserHooks(lambda *_: 5).of(EVENT, FIELDS, Counters()) == {"rocketry.span_name": "5"}  # type: ignore[arg-type, return-value]


def test_hooks_cannot_change_the_record() -> None:
    """What the repository is about to write is none of theirs; to try is a fault of the hook."""
    fields = dict(FIELDS)
    counters = Counters()

    def change(_: object, record: Any, __: str) -> Any:
        record["task_name"] = "changed"

    assert UserHooks(enrich=change).of(EVENT, fields, counters) == {}
    assert fields == FIELDS
    assert counters.of("traces", "hook_error") == {"enrich": 1}


@pytest.mark.parametrize("odd", [5, [1], "text", [("a", 1), 5]], ids=str)
def test_what_is_no_mapping_adds_nothing(odd: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A hook that returns something else has failed, and nothing of it is half added."""
    counters = Counters()
    user_hooks = UserHooks(lambda *_: "named", lambda *_: odd)
    assert user_hooks.of(EVENT, FIELDS, counters) == {"rocketry.span_name": "named"}
    assert counters.of("traces", "hook_error") == {"enrich": 1}
    assert [record.getMessage() for record in caplog.records] == [
        "The hook enrich raised; further ones are not reported"
    ]


@pytest.mark.parametrize("hook", ["name_span", "enrich"])
def test_a_hook_that_raises_costs_not_the_other(
    hook: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged once with its traceback, counted each time, and the other hook works."""
    hooks: dict[str, Any] = {
        "name_span": lambda *_: "named",
        "enrich": lambda *_: {"team": "data"},
        hook: broken,
    }
    user_hooks = UserHooks(**hooks)
    counters = Counters()
    left = {"enrich": {"rocketry.span_name": "named"}, "name_span": {"team": "data"}}[hook]
    for _ in range(3):
        assert user_hooks.of(EVENT, FIELDS, counters) == left
    assert counters.of("traces", "hook_error") == {f"{hook}": 3}
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("rocketry_otel", logging.ERROR)
    assert record.getMessage() == f"The hook {hook} raised; further ones are not reported"
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "a hook of the user's"


def test_both_hooks_may_raise(caplog: pytest.LogCaptureFixture) -> None:
    """Each is logged once and counted under its own name; a name that cannot be shown too."""
    user_hooks = UserHooks(lambda *_: Evil(), broken)  # type: ignore[arg-type, return-value]
    counters = Counters()
    for _ in range(2):
        assert user_hooks.of(EVENT, FIELDS, counters) == {}
    assert counters.of("traces", "hook_error") == {"enrich": 2, "name_span": 2}
    assert [record.getMessage().split()[2] for record in caplog.records] == ["enrich", "name_span"]

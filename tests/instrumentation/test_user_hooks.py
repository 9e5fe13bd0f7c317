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
    """Raise, as a broken hook does."""
    raise RuntimeError("a hook of the user's")


def test_no_hooks_are_false() -> None:
    """No call is needed then; either hook makes it true."""
    assert not UserHooks()
    assert UserHooks(name_span=broken)
    assert UserHooks(enrich=broken)
    assert UserHooks().of(EVENT, FIELDS, Counters()) == {}


def test_hooks_get_task_record_and_outcome() -> None:
    """Each is a callable with three arguments, and its result is added."""
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


def test_unknown_task_is_none() -> None:
    """A handler put in place by hand knows no tasks, and a task may be deleted."""
    seen: list[object] = []
    UserHooks(enrich=lambda task, *_: seen.append(task)).of(EVENT, FIELDS, Counters())  # type: ignore[arg-type, return-value]
    UserHooks(enrich=lambda task, *_: seen.append(task), task_of=broken).of(  # type: ignore[arg-type, return-value]
        EVENT, FIELDS, Counters()
    )
    assert seen == [None, None]


def test_missing_field_is_an_empty_text() -> None:
    """Hooks always get texts."""
    seen: list[object] = []

    def name_span(task: object, record: Mapping[str, object], outcome: str) -> str:
        seen.extend([task, dict(record), outcome])
        return ""

    assert UserHooks(name_span, task_of=str).of(parse_event({}), {}, Counters()) == {}
    assert seen == ["", {}, ""]


@pytest.mark.parametrize("nothing", [None, ""])
def test_empty_name_leaves_the_name(nothing: Any) -> None:
    """A span is never called ``None``, nor an empty text."""
    counters = Counters()
    assert UserHooks(lambda *_: nothing, lambda *_: None).of(EVENT, FIELDS, counters) == {}  # type: ignore[arg-type, return-value]
    assert counters.of("traces", "hook_error") == {}


def test_name_becomes_a_text() -> None:
    """Any result of the hook is shown as text."""
    assert UserHooks(lambda *_: 5).of(EVENT, FIELDS, Counters()) == {"rocketry.span_name": "5"}  # type: ignore[arg-type, return-value]


def test_hooks_cannot_change_the_record() -> None:
    """An attempt is an error of the hook; the repository writes the record unchanged."""
    fields = dict(FIELDS)
    counters = Counters()

    def change(_: object, record: Any, __: str) -> Any:
        record["task_name"] = "changed"

    assert UserHooks(enrich=change).of(EVENT, fields, counters) == {}
    assert fields == FIELDS
    assert counters.of("traces", "hook_error") == {"enrich": 1}


@pytest.mark.parametrize("odd", [5, [1], "text", [("a", 1), 5]], ids=str)
def test_other_result_adds_nothing(odd: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A hook that returns no mapping has failed, and no part of its result is added."""
    counters = Counters()
    user_hooks = UserHooks(lambda *_: "named", lambda *_: odd)
    assert user_hooks.of(EVENT, FIELDS, counters) == {"rocketry.span_name": "named"}
    assert counters.of("traces", "hook_error") == {"enrich": 1}
    assert [record.getMessage() for record in caplog.records] == [
        "The hook enrich raised; further ones are not reported"
    ]


@pytest.mark.parametrize("hook", ["name_span", "enrich"])
def test_raising_hook_does_not_stop_the_other(hook: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged once with its traceback and counted each time."""
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


def test_both_hooks_can_raise(caplog: pytest.LogCaptureFixture) -> None:
    """Each is logged once and counted by name, also for a name that cannot be shown."""
    user_hooks = UserHooks(lambda *_: Evil(), broken)  # type: ignore[arg-type, return-value]
    counters = Counters()
    for _ in range(2):
        assert user_hooks.of(EVENT, FIELDS, counters) == {}
    assert counters.of("traces", "hook_error") == {"enrich": 2, "name_span": 2}
    assert [record.getMessage().split()[2] for record in caplog.records] == ["enrich", "name_span"]

"""The verdicts on a condition, since when they hold, and what is missing."""

from __future__ import annotations

import datetime as dt
import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rocketry import conds
from rocketry.conditions.func import FuncCond
from rocketry.conditions.task import TaskInacted
from rocketry.core.condition import All, AlwaysFalse, AlwaysTrue, Not
from rocketry.core.condition import Any as AnyCondition

from rocketry_otel._schedule import conditions
from rocketry_otel._schedule.conditions import AllOf, AnyOf, Node, parse
from rocketry_otel._schedule.explanation import missing, missing_leaves, part_of
from rocketry_otel._schedule.verdicts import Moment, evaluate
from tests.schedule.programs import START, STEPS, UserFunction, trees, world


def is_ready() -> bool:
    """Fail: only Rocketry may ask."""
    raise AssertionError


READY = FuncCond(func=is_ready)


def with_changes(
    node: Node, moment: Moment, changes: dict[int, bool], *, wanted: bool = True
) -> Any:
    """Return Rocketry's condition of a tree, whose leaves have their verdicts or the changed ones.

    A part that nobody has evaluated is as bad for the condition as it can be.
    """
    if isinstance(node, conditions.Not):
        return Not(with_changes(node.part, moment, changes, wanted=not wanted))
    if isinstance(node, AllOf | AnyOf):
        parts = [with_changes(part, moment, changes, wanted=wanted) for part in node.parts]
        return All(*parts) if isinstance(node, AllOf) else AnyCondition(*parts)
    value = changes.get(id(node), evaluate(node, moment))
    return AlwaysTrue() if (not wanted if value is None else value) else AlwaysFalse()


@settings(max_examples=60)
@given(data=st.data(), steps=STEPS)
def test_missing_is_enough_and_not_too_much(
    data: st.DataObject, steps: list[tuple[str, Any]]
) -> None:
    """With it Rocketry's condition is true, and with any smaller part of it false."""
    functions: list[UserFunction] = []
    tree = data.draw(trees(functions))
    with world() as it:
        it.use(tree)
        for step in steps:
            it.step(*step)
        node, moment = it.conditions.of(it.task).tree, it.moment()
        leaves = missing_leaves(node, moment)
        assert (leaves == ()) is (evaluate(node, moment) is True)
        changes = {id(leaf): wanted for leaf, wanted in leaves}
        assert len(changes) == len(leaves)
        assert with_changes(node, moment, changes).observe() is True
        for left_out in changes:
            fewer = {key: value for key, value in changes.items() if key != left_out}
            assert with_changes(node, moment, fewer).observe() is False
        assert not any(function.calls for function in functions)


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        (conds.true, ()),
        (conds.false, ("never",)),
        (Not(conds.true), ("not always",)),
        (conds.after_success("load") & conds.retry, ("after success of load", "retry")),
        (conds.false | conds.after_success("load"), ("after success of load",)),
        (READY | conds.after_success("load"), ("after success of load",)),
        (
            READY & conds.after_success("load"),
            ("is_ready (not evaluated)", "after success of load"),
        ),
        (~READY, ("not is_ready (not evaluated)",)),
        (READY & ~READY, ("is_ready (not evaluated)", "not is_ready (not evaluated)")),
        (conds.retry & conds.retry, ("retry",)),
        (conds.retry & (conds.retry(2) | conds.true), ("retry",)),
    ],
)
def test_missing_parts_are_named(condition: Any, words: tuple[str, ...]) -> None:
    """The way that is possible, known and short comes first."""
    with world() as it:
        it.use(condition)
        assert missing(parse(condition), it.moment()) == words


# The verdict, and the seconds since the start of the world at which it began. The report begins
# at 0 and fails at 100; the load succeeds at 200; it is 1,000 then.
SINCE: list[tuple[Any, bool | None, float | None]] = [
    (conds.true, True, None),
    (READY, None, None),
    (conds.every("15 min"), True, 900.0),
    (conds.every("1 h"), False, 0.0),
    (conds.every("1 h", based="success"), True, None),
    (conds.every("10 min", based="finish"), True, 700.0),
    (conds.every("1 h", based="finish"), False, 100.0),
    (conds.hourly, True, 600.0),
    (conds.daily, False, 100.0),
    (conds.daily.before("11:55"), False, 300.0),
    (conds.cron("0 * * * *"), False, 660.0),
    (conds.time_of_day.after("11:55"), True, 300.0),
    (conds.time_of_day.before("11:55"), False, 300.0),
    (conds.after_success("load"), True, 200.0),
    (conds.after_fail("load"), False, 0.0),
    (conds.after_success("extract") | conds.after_fail("load"), False, 0.0),
    (conds.succeeded("load"), True, 200.0),
    (conds.retry, True, 100.0),
    (conds.retry(0), False, 100.0),
    (conds.running("load"), False, 200.0),
    (conds.running("extract"), True, 50.0),
    (conds.running("report"), False, 100.0),
    (conds.scheduler_running("10 min"), True, 600.0),
    (conds.scheduler_running("10 h"), False, 0.0),
    (conds.scheduler_running(), True, 0.0),
    (conds.scheduler_cycles(more_than=3), False, None),
    (~conds.after_fail("load"), True, 0.0),
    (conds.after_success("load") & conds.retry, True, 200.0),
    (conds.after_success("load") | conds.retry, True, 100.0),
    (conds.after_fail("load") & conds.daily, False, 0.0),
    (conds.after_fail("load") | conds.daily, False, 100.0),
    (conds.retry & conds.true, True, None),
    (conds.after_success("nobody"), None, None),
    (TaskInacted(task="load"), False, None),
]


@pytest.mark.parametrize(("condition", "verdict", "seconds"), SINCE)
def test_verdict_has_its_time(condition: Any, verdict: bool | None, seconds: float | None) -> None:  # noqa: FBT001
    """A composed condition has that of the part that decides."""
    with world() as it:
        it.use(condition)
        for at, action, name in (
            (0.0, "run", "report"),
            (50.0, "run", "extract"),
            (100.0, "fail", "report"),
            (200.0, "success", "load"),
        ):
            it.clock.advance(START + at - it.clock())
            it.step(action, name)
        it.clock.advance(START + 1_000.0 - it.clock())
        part = part_of(it.conditions.of(it.task).tree, it.moment())
        found = None if part.since is None else round(part.since.timestamp() - START, 1)
        assert (part.verdict, found) == (verdict, seconds)
        assert part.since is None or part.since.tzinfo is not None


def test_part_is_text_and_data() -> None:
    """People see an indented tree, and programs plain values."""
    with world() as it:
        it.use(conds.after_success("load") & (READY | ~conds.true))
        it.step("success", "load")
        part = part_of(it.conditions.of(it.task).tree, it.moment())
    local = dt.datetime.fromtimestamp(START).strftime("%Y-%m-%d %H:%M:%S")  # noqa: DTZ006  # as people see it
    assert list(part.lines()) == [
        "unknown after success of load and (is_ready or not always)",
        f"  yes     after success of load, since {local}",
        "  unknown is_ready or not always",
        "    unknown is_ready (not evaluated)",
        "    no      not always",
        "      yes     always",
    ]
    time = dt.datetime.fromtimestamp(START, dt.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert part.to_dict()["parts"][0] == {
        "text": "after success of load",
        "verdict": True,
        "since": time,
        "operator": None,
        "parts": [],
    }
    operators = [part.operator, *(one.operator for one in part.parts[1].parts)]
    assert list(itertools.chain(operators)) == ["and", None, "not"]

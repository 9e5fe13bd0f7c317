"""Why a run began: the true parts of its start condition."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from rocketry import conds
from rocketry.conditions.func import FuncCond
from rocketry.core.condition import Not

from rocketry_otel._schedule.triggers import condition_attributes, true_parts
from rocketry_otel._schedule.verdicts import evaluate
from tests.schedule.programs import STEPS, World, trees, world


def is_ready() -> bool:
    """Fail: only Rocketry may ask."""
    raise AssertionError


READY = FuncCond(func=is_ready)
EVERY, NEVER = conds.every("10 s"), conds.time_of_day.between("03:00", "04:00")


def of(it: World) -> tuple[str, str]:
    """Return the trigger of a run that begins now, and its words."""
    found = condition_attributes(it.conditions.of(it.task), it.moment())
    assert list(found) == ["rocketry.trigger", "rocketry.trigger.condition"]
    return found["rocketry.trigger"], found["rocketry.trigger.condition"]


@pytest.mark.parametrize(
    ("condition", "kind", "words"),
    [
        (EVERY, "schedule", "every 10 s"),
        (conds.hourly, "schedule", "hourly"),
        (conds.after_success("load"), "dependency", "after success of load"),
        (
            EVERY & conds.after_success("load"),
            "dependency",
            "every 10 s and after success of load",
        ),
        (EVERY | conds.after_success("load"), "dependency", "every 10 s and after success of load"),
        (NEVER | EVERY, "schedule", "every 10 s"),
        (EVERY & (NEVER | conds.retry(2)), "retry", "every 10 s and retry, at most 2 times"),
        (~NEVER, "schedule", "not time of day between 03:00 and 04:00"),
        (~conds.retry, "condition", "not retry"),
        (Not(NEVER & READY), "schedule", "not time of day between 03:00 and 04:00"),
        (READY, "condition", "is_ready (not evaluated)"),
        (EVERY & READY, "schedule", "every 10 s and is_ready (not evaluated)"),
        (NEVER | READY, "condition", "is_ready (not evaluated)"),
        (EVERY | READY, "schedule", "every 10 s"),
        (~READY, "condition", "not is_ready (not evaluated)"),
        (conds.true, "condition", "always"),
        (EVERY & conds.every("10 s"), "schedule", "every 10 s"),
        # Rocketry has found it true: the time has turned since.
        (NEVER, "schedule", "time of day between 03:00 and 04:00"),
        (conds.retry(0) | NEVER, "schedule", "time of day between 03:00 and 04:00"),
        (conds.retry(0) | conds.false, "retry", "no retry and never"),
    ],
)
def test_trigger_is_the_first_of_the_true_parts(condition: Any, kind: str, words: str) -> None:
    """All true parts are named, and no function is called."""
    with world() as it:
        it.use(condition)
        it.step("success", "load")
        it.step("fail", "report")
        it.step("success", "load")
        assert of(it) == (kind, words)
        assert of(it) == (kind, words)


@settings(max_examples=30)
@given(tree=trees(), steps=STEPS)
def test_named_parts_are_true(tree: Any, steps: list[tuple[str, Any]]) -> None:
    """Each named part has that verdict, and together they make the condition true."""
    with world() as it:
        it.use(tree)
        for step in steps:
            it.step(*step)
        if not it.rocketrys():
            return
        moment = it.moment()
        parts = list(true_parts(it.conditions.of(it.task).tree, moment))
        assert parts
        for part in parts:
            assert evaluate(part.leaf, moment) is not part.is_negated

"""Verdicts on start conditions, compared with Rocketry's own."""

from __future__ import annotations

import asyncio
import itertools
import math
import multiprocessing
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rocketry import conds
from rocketry.conditions.api import failed
from rocketry.core.task import TaskRun

from rocketry_otel._schedule.conditions import After, Happened, UserCode, parse
from rocketry_otel._schedule.verdicts import alive_runs, compare, evaluate
from tests.schedule.programs import LEAVES, STEPS, UserFunction, trees, world


@settings(max_examples=40)
@given(tree=trees(), steps=STEPS)
def test_verdict_is_rocketrys(tree: Any, steps: list[tuple[str, Any]]) -> None:
    """After each step of a history, for trees of all conditions."""
    with world() as it:
        it.use(tree)
        for step in [("wait", 0.0), *steps]:
            it.step(*step)
            verdict = evaluate(it.conditions.of(it.task).tree, it.moment())
            assert verdict is it.rocketrys(), (step, parse(tree).words)


@settings(max_examples=25)
@given(data=st.data(), steps=STEPS)
def test_verdict_is_unknown_where_a_function_decides(
    data: st.DataObject, steps: list[tuple[str, Any]]
) -> None:
    """It is unknown exactly if Rocketry's verdict depends on the answers; none is called for us."""
    functions: list[UserFunction] = []
    tree = data.draw(trees(functions))
    with world() as it:
        it.use(tree)
        for step in steps:
            it.step(*step)
        verdict = evaluate(it.conditions.of(it.task).tree, it.moment())
        assert [function.calls for function in functions] == [0] * len(functions)
        found = set()
        for answers in itertools.product([False, True], repeat=len(functions)):
            for function, answer in zip(functions, answers, strict=True):
                function.answer = answer
            found.add(it.rocketrys())
        assert verdict is (found.pop() if len(found) == 1 else None)


@pytest.mark.parametrize("make", LEAVES)
def test_leaf_is_known(make: Any) -> None:
    """Every condition of Rocketry alone has a verdict, before and after runs of all tasks."""
    with world() as it:
        it.use(make())
        for name in ("report", "load", "extract"):
            assert evaluate(it.conditions.of(it.task).tree, it.moment()) is it.rocketrys()
            for action in ("run", "fail", "run", "success"):
                it.step(action, name)
                it.step("wait", 100.0)


def test_task_that_does_not_exist_is_unknown(caplog: pytest.LogCaptureFixture) -> None:
    """Rocketry raises there, and we do not."""
    caplog.set_level("DEBUG", "rocketry_otel")
    with world() as it:
        it.use(conds.after_success("nobody") | (failed("nobody").get_cond() >= 2))
        assert evaluate(After("nobody", ("success",)), it.moment()) is None
        with pytest.raises(KeyError):
            it.rocketrys()
    assert "a condition could not be looked at" in caplog.text


def test_clock_that_was_set_back_leaves_it_unknown() -> None:
    """The newest event is then after the span, and older ones are not kept."""
    with world() as it:
        it.use(conds.daily)
        it.step("success", "report")
        it.clock.advance(-90_000.0)
        assert evaluate(it.conditions.of(it.task).tree, it.moment()) is None


def test_run_is_alive_until_its_worker_has_ended() -> None:
    """A process that is about to start is not; Rocketry itself could not ask it."""

    async def verdicts() -> list[bool]:
        future = asyncio.get_running_loop().create_future()
        it.task._run_stack = [TaskRun(start=it.clock(), task=future)]
        found = [bool(alive_runs(it.task))]
        future.set_result(None)
        return [*found, bool(alive_runs(it.task))]

    with world() as it:
        assert asyncio.run(verdicts()) == [True, False]
        process = multiprocessing.get_context("spawn").Process()
        it.task._run_stack = [TaskRun(start=it.clock(), task=process)]
        assert alive_runs(it.task) == []
        # The scheduler itself runs the first, and a thread the second.
        for worker in (None, threading.current_thread()):
            it.task._run_stack = [TaskRun(start=it.clock(), task=worker)]
            assert len(alive_runs(it.task)) == 1
        it.task._run_stack = []


def test_user_code_is_unknown() -> None:
    """Also below other parts."""
    with world() as it:
        assert evaluate(UserCode("is_ready"), it.moment()) is None


@pytest.mark.parametrize(
    ("comparisons", "least", "most", "verdict"),
    [
        ((), 0, 0, False),
        ((), 1, math.inf, True),
        ((), 0, math.inf, None),
        ((("__eq__", 0),), 0, 0, True),
        ((("__ge__", 3),), 3, math.inf, True),
        ((("__ge__", 3),), 2, math.inf, None),
        ((("__lt__", 3),), 3, math.inf, False),
        ((("__ne__", 3),), 4, math.inf, True),
        ((("__gt__", 1), ("__lt__", 4)), 2, 3, True),
        ((("__gt__", 1), ("__lt__", 4)), 2, 4, None),
        ((("__eq__", 3),), 2, 4, None),
    ],
)
def test_count_is_compared(
    comparisons: Any,
    least: float,
    most: float,
    verdict: bool | None,  # noqa: FBT001  # a parameter of the test
) -> None:
    """A count between two numbers is decided if all numbers give the same."""
    assert compare(comparisons, least, most) is verdict


def test_words_of_happened_do_not_depend_on_history() -> None:
    """A tree holds no state."""
    assert Happened(("run",)).words == "this task has started"

from __future__ import annotations

import pytest
from rocketry import conds

from rocketry_otel._schedule import task_states
from rocketry_otel._schedule.task_states import TaskState
from rocketry_otel._schedule.verdicts import evaluate
from tests.schedule.programs import world


def test_failures_in_a_row_are_read_after_a_restart() -> None:
    """They are counted from the last other ending, as Rocketry does."""
    with world() as it:
        it.use(conds.retry(2))
        verdicts = []
        for action in ("success", "fail", "fail", "fail", "inaction"):
            it.step(action, "report")
            it.step("restart", "report")
            verdicts.append(evaluate(it.conditions.of(it.task).tree, it.moment()))
            assert verdicts[-1] is it.rocketrys()
        assert verdicts == [False, True, True, False, False]
        for _ in range(2):
            it.step("fail", "report")
        it.step("restart", "report")
        assert it.states.failures_in_row(it.task) == 2


def test_status_is_that_of_the_newest_event_if_rocketry_reads_it() -> None:
    """Rocketry then reads its records at each look, and we do not."""
    with world() as it:
        it.session.config.force_status_from_logs = True
        it.use(conds.retry(2))
        verdicts = []
        for action in ("run", "fail", "success"):
            it.step(action, "report")
            verdicts.append(evaluate(it.conditions.of(it.task).tree, it.moment()))
            assert verdicts[-1] is it.rocketrys()
            assert it.states.of(it.task).action == action
        assert verdicts == [False, True, False]
    assert TaskState().action is None


def test_states_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest is forgotten, and taken over again from Rocketry when it is asked for."""
    monkeypatch.setattr(task_states, "_MOST_TASKS", 2)
    with world() as it:
        it.step("success", "report")
        kept = [it.states.of(task) for task in it.tasks.values()]
        assert len(it.states._states) == 2
        again = it.states.of(it.task)
        assert again is not kept[0]
        assert again.last == kept[0].last == {"success": it.task._last_success}


def test_events_that_are_counted_already_are_not_read_again() -> None:
    """A second condition that counts the same events finds their times."""
    with world() as it:
        for _ in range(2):
            it.step("fail", "report")
        for least in (2, 3):
            it.use(conds.failed("report").this_day.get_cond() >= least)
            assert evaluate(it.conditions.of(it.task).tree, it.moment()) is it.rocketrys()
        assert it.states.of(it.task).watches(("fail",))

"""Start conditions as trees and words."""

from __future__ import annotations

import datetime as dt
import gc
import weakref
from typing import Any

import pytest
from rocketry import conds
from rocketry import time as times
from rocketry.conditions import IsEnv, IsPeriod, SchedulerStarted, TaskCond, TaskRunnable
from rocketry.conditions.api import failed, started
from rocketry.conditions.func import FuncCond
from rocketry.conditions.task import DependSuccess, TaskExecutable, TaskInacted, TaskTerminated
from rocketry.core import BaseCondition
from rocketry.core.condition import Not as RocketrysNot
from rocketry.core.time.base import All as AllPeriods
from rocketry.core.time.base import Any as AnyPeriods

from rocketry_otel._schedule.conditions import (
    CONDITION,
    DEPENDENCY,
    RETRY,
    SCHEDULE,
    After,
    AllOf,
    AnyOf,
    Conditions,
    Constant,
    Happened,
    Not,
    Once,
    UserCode,
    parse,
)
from tests.support import apps
from tests.support.apps import make_app


class FileExists(BaseCondition):
    """A condition class of an application, with a text that must not be asked for."""

    def __str__(self) -> str:
        raise AssertionError

    def get_state(self) -> bool:
        """Fail: only Rocketry may ask."""
        raise AssertionError


class StartedOften(type(started.get_cond())):  # type: ignore[misc]
    """A subclass of Rocketry's, which may decide in another way."""


def is_ready() -> bool:
    """Fail: only Rocketry may ask."""
    raise AssertionError


class Callable_:  # noqa: N801  # an object with a call
    """Something that can be called and has no name."""

    def __call__(self) -> bool:
        """Fail."""
        raise AssertionError


def extract() -> None:
    """Be a task that a condition names by its function."""


extract.__rocketry__ = {"name": "load"}  # type: ignore[attr-defined]
IS_READY = FuncCond(func=is_ready)
A, B, C = conds.after_success("a"), conds.after_fail("b"), conds.after_finish("c")

WORDS: list[tuple[Any, str, str]] = [
    (conds.true, "always", CONDITION),
    (conds.false, "never", CONDITION),
    (conds.daily, "daily", SCHEDULE),
    (conds.daily.between("10:00", "15:00"), "daily between 10:00 and 15:00", SCHEDULE),
    (conds.daily.between(10, 15), "daily between 10:00 and 16:00", SCHEDULE),
    (conds.daily.after("10:00"), "daily after 10:00", SCHEDULE),
    (conds.daily.before("10:00"), "daily before 10:00", SCHEDULE),
    (conds.daily.at("10:00:30"), "daily at 10:00:30", SCHEDULE),
    (conds.daily.at(23), "daily at 23:00", SCHEDULE),
    (conds.daily.starting("10:00"), "daily starting at 10:00", SCHEDULE),
    (conds.secondly, "every second", SCHEDULE),
    (conds.secondly.after("500"), "every second after 500 ms", SCHEDULE),
    (conds.minutely.before("45"), "minutely before 45 s", SCHEDULE),
    (conds.minutely.after(10), "minutely after 10 s", SCHEDULE),
    (conds.hourly.between("15:00", "30:00"), "hourly between 15:00 and 30:00", SCHEDULE),
    (conds.hourly.after(15), "hourly after 15:00", SCHEDULE),
    (conds.weekly.on("Monday"), "weekly on Monday", SCHEDULE),
    (conds.weekly.on(7), "weekly on Sunday", SCHEDULE),
    (conds.weekly.between(1, 5), "weekly between Monday and Friday", SCHEDULE),
    (conds.weekly.between("Mon 10:00", "Fri"), "weekly between Mon 10:00 and Fri", SCHEDULE),
    (conds.monthly.on(2), "monthly on 2nd", SCHEDULE),
    (conds.monthly.between(21, 31), "monthly between 21st and 31st", SCHEDULE),
    (conds.monthly.starting("3rd 12:00"), "monthly starting at 3rd 12:00", SCHEDULE),
    (conds.time_of_second.before("250"), "time of second before 250 ms", SCHEDULE),
    (conds.time_of_minute.after("30"), "time of minute after 30 s", SCHEDULE),
    (conds.time_of_hour, "time of hour", SCHEDULE),
    (conds.time_of_day.between("22:00", "02:00"), "time of day between 22:00 and 02:00", SCHEDULE),
    (conds.time_of_week.on("Tue"), "time of week on Tue", SCHEDULE),
    (conds.time_of_month.after("5th"), "time of month after 5th", SCHEDULE),
    (conds.every("10 seconds"), "every 10 s", SCHEDULE),
    (conds.every("1 h 5 min", based="success"), "every 1 h 5 min from the last success", SCHEDULE),
    (conds.every("1 day", based="fail"), "every 1 day from the last failure", SCHEDULE),
    (conds.every("2 days", based="finish"), "every 2 days from the last ending", SCHEDULE),
    (conds.cron("0 2 * * *"), "cron 0 2 * * *", SCHEDULE),
    (conds.cron(minute="*/5"), "cron */5 * * * *", SCHEDULE),
    (conds.crontime("* * * * mon-fri"), "time in cron * * * * mon-fri", SCHEDULE),
    (A, "after success of a", DEPENDENCY),
    (B, "after failure of b", DEPENDENCY),
    (C, "after end of c", DEPENDENCY),
    (conds.after_success(extract), "after success of load", DEPENDENCY),
    (conds.after_all_success("a", "d"), "after success of a and after success of d", CONDITION),
    (conds.after_all_fail("b"), "after failure of b", CONDITION),
    (conds.after_all_finish("c"), "after end of c", CONDITION),
    (conds.after_any_success("a", "d"), "after success of a or after success of d", CONDITION),
    (conds.after_any_fail("b"), "after failure of b", CONDITION),
    (conds.after_any_finish("c"), "after end of c", CONDITION),
    (DependSuccess("a", task="b"), "after success of a since the last start of b", DEPENDENCY),
    (conds.started, "this task has started", CONDITION),
    (conds.succeeded(task="x"), "x has succeeded", CONDITION),
    (conds.finished(task="x").today, "x has finished today", CONDITION),
    (conds.failed("x").this_hour, "x has failed this hour", CONDITION),
    (conds.succeeded.this_week.on("Monday"), "this task has succeeded this week on Monday", CONDITION),  # noqa: E501
    (failed("x").this_minute.get_cond() >= 2, "x has failed at least 2 times this minute", CONDITION),  # noqa: E501
    (started.this_month.get_cond() == 0, "this task has not started this month", SCHEDULE),
    (started("x").this_month.get_cond() == 0, "x has not started this month", CONDITION),
    (TaskTerminated(), "this task has been terminated", CONDITION),
    (TaskInacted(period=times.TimeDelta("2 min")), "this task has ended without action in the past 2 min", CONDITION),  # noqa: E501
    (conds.retry, "retry", RETRY),
    (conds.retry(3), "retry, at most 3 times", RETRY),
    (conds.running, "this task is running", CONDITION),
    (conds.running("x").more_than("5 min"), "x has been running for more than 5 min", CONDITION),
    (conds.running("x").less_than("5 s"), "x has been running for less than 5 s", CONDITION),
    (conds.running.between("5 s", "7 s"), "this task has been running for 5 s to 7 s", CONDITION),
    (conds.running("x").get_cond() >= 2, "x runs at least 2 times at once", CONDITION),
    (conds.scheduler_running("10 min"), "the scheduler has been running for more than 10 min", CONDITION),  # noqa: E501
    (conds.scheduler_running(), "the scheduler has been running", CONDITION),
    (SchedulerStarted(), "the scheduler has been running", CONDITION),
    (SchedulerStarted(times.TimeDelta("9 s")), "the scheduler has been running for less than 9 s", CONDITION),  # noqa: E501
    (SchedulerStarted(times.TimeOfDay()), "the scheduler has been running, since a beginning today", CONDITION),  # noqa: E501
    (conds.scheduler_cycles(), "the scheduler has made more than 0 cycles", CONDITION),
    (conds.scheduler_cycles(2, 9), "the scheduler has made more than 2 and fewer than 9 cycles", CONDITION),  # noqa: E501
    (IS_READY, "is_ready", CONDITION),
    (FuncCond(func=Callable_()), "Callable_", CONDITION),
    (FileExists(), "condition FileExists", CONDITION),
    (StartedOften(), "condition StartedOften", CONDITION),
    (IsEnv("prod"), "condition IsEnv", CONDITION),
    (DependSuccess(depend_task=5), "a task without a name", CONDITION),
    (A & (B | C), "after success of a and (after failure of b or after end of c)", CONDITION),
    ((A & B) | C, "(after success of a and after failure of b) or after end of c", CONDITION),
    (RocketrysNot(A & B), "not (after success of a and after failure of b)", CONDITION),
    (~conds.running("x"), "not x is running", CONDITION),
    (TaskExecutable(period=times.TimeOfDay(), retries=2), "daily, with 2 more after failures", SCHEDULE),  # noqa: E501
    (TaskRunnable(period=times.TimeOfDay(), task="x"), "daily, by the runs of x", SCHEDULE),
    (IsPeriod(times.always), "time in any time", SCHEDULE),
    (IsPeriod(times.never), "time in no time", SCHEDULE),
    (IsPeriod(times.StaticInterval(dt.datetime(2026, 1, 2), dt.datetime(2026, 1, 3))), "time in 2026-01-02 00:00:00 to 2026-01-03 00:00:00", SCHEDULE),  # noqa: DTZ001, E501
    (IsPeriod(times.RelativeDay("the_day_before")), "time in the day before", SCHEDULE),
    (IsPeriod(times.TimeOfYear("Jan", "Feb")), "time of year between Jan and Feb", SCHEDULE),
    (IsPeriod(times.TimeOfYear(2, 3)), "time of year between February and March", SCHEDULE),
    (TaskInacted(period=times.always), "this task has ended without action in any time", CONDITION),
    (IsPeriod(times.TimeOfYear(12)), "time of year after December", SCHEDULE),
    (IsPeriod(AllPeriods(times.TimeOfDay(), times.TimeOfWeek())), "time in (daily and weekly)", SCHEDULE),  # noqa: E501
    (IsPeriod(AnyPeriods(times.TimeOfDay(), times.TimeOfWeek())), "time in (daily or weekly)", SCHEDULE),  # noqa: E501
]  # fmt: skip


@pytest.mark.parametrize(("condition", "words", "kind"), WORDS, ids=[row[1] for row in WORDS])
def test_condition_has_words_and_a_kind(condition: Any, words: str, kind: str) -> None:
    """Every condition of Rocketry has, and those of an application are only named."""
    tree = parse(condition)
    assert (tree.words, tree.kind) == (words, kind)


def test_every_condition_of_rocketry_is_among_them() -> None:
    """A name that a later version adds to ``rocketry.conds`` needs words as well."""
    tested = {
        "true", "false", "every", "secondly", "minutely", "hourly", "daily", "weekly", "monthly",
        "time_of_second", "time_of_minute", "time_of_hour", "time_of_day", "time_of_week",
        "time_of_month", "after_finish", "after_success", "after_fail", "after_all_finish",
        "after_all_success", "after_all_fail", "after_any_finish", "after_any_success",
        "after_any_fail", "started", "succeeded", "failed", "finished", "retry",
        "scheduler_running", "scheduler_cycles", "running", "cron", "crontime", "condition",
    }  # fmt: skip
    assert {name for name in vars(conds) if not name.startswith("_")} == tested


def test_tree_has_the_parts_of_a_condition() -> None:
    """Names of tasks and periods are in its leaves."""
    tree = parse((conds.every("10 s") | A) & ~IS_READY)
    period = times.TimeDelta("10 s")
    every = Happened(("run",), period, None, (("__eq__", 0),))
    assert tree == AllOf((AnyOf((every, After("a", ("success",)))), Not(UserCode("is_ready"))))
    assert [leaf.words for leaf in tree.leaves()] == [
        "every 10 s",
        "after success of a",
        "is_ready",
    ]
    assert every.interval == 10.0
    assert tree.holds_user_code
    assert not every.holds_user_code
    assert parse(started.get_cond()).interval is None  # type: ignore[attr-defined]
    assert (AllOf(()).words, AnyOf(()).words) == ("always", "never")


def test_task_cond_is_named_by_its_function() -> None:
    """Another task evaluates it."""
    app = make_app()
    made = TaskCond(session=app.session, syntax="is ready")
    made(is_ready)
    assert parse(made) == UserCode("is_ready")


def test_condition_with_an_odd_attribute_is_named() -> None:
    """A condition of another version of Rocketry may lack what is read here."""
    condition = TaskExecutable(period=times.TimeOfDay())
    del condition.period
    assert parse(condition) == UserCode("condition TaskExecutable")


def test_tree_is_parsed_once() -> None:
    """The same condition gives the same tree; a new one, or a change of it, gives another."""
    app = make_app()
    task = app.session.create_task(func=apps.succeed, name="etl", start_cond="daily")
    trees = Conditions()
    parsed = trees.of(task)
    assert parsed.tree == Once(times.TimeOfDay(), ("success", "inaction", "fail", "terminate"))
    assert trees.of(task) is parsed
    task.start_cond = conds.false
    assert trees.of(task).tree == Constant(value=False)


def test_tree_keeps_no_task_alive() -> None:
    """Neither the task nor the condition, which may name a task by itself."""
    app = make_app()
    task = app.session.create_task(func=apps.succeed, name="etl")
    task.start_cond = conds.after_success(task)
    trees = Conditions()
    assert trees.of(task).tree == After("etl", ("success",))
    weak = weakref.ref(task)
    del app, task
    gc.collect()
    assert weak() is None
    assert not trees._parsed

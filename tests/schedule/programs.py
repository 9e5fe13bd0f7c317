"""Generated start conditions and histories, run by Rocketry with a clock of the tests."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from hypothesis import strategies as st
from rocketry import conds
from rocketry import time as times
from rocketry.conditions.api import failed, finished, started, succeeded
from rocketry.conditions.func import FuncCond
from rocketry.conditions.task import TaskExecutable, TaskInacted, TaskTerminated
from rocketry.core.condition import Not

from rocketry_otel._history.run_lookup import RunLookup
from rocketry_otel._schedule.conditions import Conditions
from rocketry_otel._schedule.task_states import TaskStates
from rocketry_otel._schedule.verdicts import Moment, prepare
from rocketry_otel.testing import ManualClock
from tests.support import apps
from tests.support.apps import make_app

# A Friday, shortly before noon.
START = dt.datetime(2026, 1, 2, 11, 50).timestamp()  # noqa: DTZ001  # local, as Rocketry's periods
TASKS = ("report", "load", "extract")
OTHERS = ("load", "extract")

# Each call makes a new condition: Rocketry's comparisons share their object.
LEAVES: list[Callable[[], Any]] = [
    lambda: conds.true,
    lambda: conds.false,
    lambda: conds.daily,
    lambda: conds.daily.between("11:00", "12:00"),
    lambda: conds.daily.after("12:00"),
    lambda: conds.daily.at(11),
    lambda: conds.daily.starting("12:00"),
    lambda: conds.hourly,
    lambda: conds.hourly.before("30:00"),
    lambda: conds.minutely.after("30"),
    lambda: conds.secondly.before("500"),
    lambda: conds.weekly.on("Friday"),
    lambda: conds.monthly.after("3rd"),
    lambda: conds.time_of_day.between("22:00", "12:30"),
    lambda: conds.time_of_hour.after("30:00"),
    lambda: conds.time_of_week.between("Sat", "Sun"),
    lambda: conds.time_of_minute.before("30"),
    lambda: conds.time_of_month.before("5th"),
    lambda: conds.time_of_second,
    lambda: conds.every("10 min"),
    lambda: conds.every("1 h", based="success"),
    lambda: conds.every("1 h", based="fail"),
    lambda: conds.every("1 h", based="finish"),
    lambda: conds.cron("0 * * * *"),
    lambda: conds.cron("*/20 11-13 * * *"),
    lambda: conds.crontime("30-59 * * * *"),
    lambda: conds.after_success("load"),
    lambda: conds.after_fail("load"),
    lambda: conds.after_finish("extract"),
    lambda: conds.after_all_success("load", "extract"),
    lambda: conds.after_any_fail("load", "extract"),
    lambda: conds.started("load"),
    lambda: conds.succeeded("load").today,
    lambda: conds.failed("extract").this_hour,
    lambda: conds.finished("load").this_hour.after("15:00"),
    lambda: succeeded("load").today.between("11:00", "12:00"),
    lambda: started.this_hour.get_cond() == 0,
    lambda: failed.this_day.get_cond() >= 2,
    lambda: started("load").this_day.get_cond() <= 1,
    lambda: finished("extract").this_day.get_cond() == 3,
    lambda: succeeded("extract").this_day.between("12:00", "13:00") != 1,
    lambda: TaskTerminated(task="load"),
    lambda: TaskInacted(task="load", period=times.TimeDelta("30 min")),
    lambda: TaskExecutable(period=times.TimeOfDay(), retries=2),
    lambda: conds.retry,
    lambda: conds.retry(0),
    lambda: conds.retry(1),
    lambda: conds.retry(3),
    lambda: conds.running("load"),
    lambda: conds.running("load").more_than("10 min"),
    lambda: conds.running("extract").get_cond() == 0,
    lambda: conds.scheduler_running("20 min"),
    lambda: conds.scheduler_running(less_than="40 min"),
    lambda: conds.scheduler_cycles(more_than=3),
    lambda: conds.scheduler_cycles(less_than=5),
]  # fmt: skip


class UserFunction:
    """A function of an application, with an answer that a test sets."""

    def __init__(self) -> None:
        self.answer = False
        self.calls = 0
        self.__name__ = "is_ready"

    def __call__(self) -> bool:
        """Return the answer."""
        self.calls += 1
        return self.answer


@st.composite
def leaves(draw: Any, functions: list[UserFunction] | None) -> Any:
    """Make a leaf; a function is used once in a tree."""
    if functions is not None and draw(st.integers(0, 4)) == 0:
        functions.append(UserFunction())
        return FuncCond(func=functions[-1])
    return draw(st.sampled_from(LEAVES))()


@st.composite
def trees(draw: Any, functions: list[UserFunction] | None = None, depth: int = 3) -> Any:
    """Make a tree of ``&``, ``|`` and ``~``."""
    form = draw(st.sampled_from(["leaf", "and", "or", "not"])) if depth else "leaf"
    if form == "leaf":
        return draw(leaves(functions))
    first = draw(trees(functions, depth - 1))
    if form == "not":
        return Not(first)
    second = draw(trees(functions, depth - 1))
    return first & second if form == "and" else first | second


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.sampled_from([0.3, 20.0, 400.0, 1_200.0, 4_000.0, 80_000.0])),
        st.tuples(
            st.sampled_from(["success", "fail", "inaction", "terminate"]), st.sampled_from(TASKS)
        ),
        st.tuples(st.sampled_from(["run", "cycle", "restart"]), st.sampled_from(TASKS)),
    ),
    max_size=12,
)


_ITS_CLOCK = ("makeRecord", "__rocketry_wrapped__")


class _Notes(logging.Handler):
    """Notes the events of records, as the bridge does."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        """Note a record."""
        its = vars(record)
        self._world.states.add(its["task_name"], its["action"], record.created)


class _Run(NamedTuple):
    start: float
    task: None = None
    exception: None = None

    def is_alive(self) -> bool:
        """Return true: it is the run of a main-mode task."""
        return True


class World:
    """A real application, its clock, and what is kept of its tasks."""

    def __init__(self) -> None:
        self.clock = ManualClock(START)
        self.app = make_app(time_func=self.clock)
        self.session = self.app.session
        self.tasks = {
            name: self.session.create_task(func=apps.succeed, name=name, start_cond=conds.false)
            for name in TASKS
        }
        self.task = self.tasks["report"]
        self.session.scheduler.startup_time = self.session._get_datetime_now()
        self.session.scheduler.n_cycles = 0
        self.session._wrap_log_record_creation()
        self.conditions = Conditions()
        self._make_states()

    def _make_states(self) -> None:
        repo = logging.getLogger("rocketry.task").handlers[0].repo  # type: ignore[attr-defined]
        self.states = TaskStates(RunLookup(repo).times_of)

    def use(self, condition: Any) -> None:
        """Let the report have a start condition, as at the start of its scheduler."""
        self.task.start_cond = condition
        for task in self.tasks.values():
            self.states.of(task)
        prepare(self.conditions.of(self.task).tree.leaves(), self.moment())

    def moment(self) -> Moment:
        """Return the moment now."""
        return Moment(self.task, self.states, self.conditions.of(self.task).slots)

    def step(self, action: str, what: Any) -> None:
        """Let time pass, log an event by Rocketry's own code, or restart."""
        if action == "wait":
            self.clock.advance(what)
        elif action == "cycle":
            self.session.scheduler.n_cycles += 1
        elif action == "restart":
            for task in self.tasks.values():
                task._run_stack = []
                task.set_cached()
            self._make_states()
            self.use(self.task.start_cond)
        else:
            self._log(self.tasks[what], action)
            # No two events at one time: Rocketry's own order of them is that of the repository.
            self.clock.advance(0.001)

    def _log(self, task: Any, action: str) -> None:
        if action == "run":
            task._run_stack.append(_Run(self.clock()))
        else:
            task._run_stack = task._run_stack[1:]
        task._set_status(action)

    def rocketrys(self) -> bool:
        """Return Rocketry's own verdict."""
        return bool(self.task.start_cond.observe(task=self.task))


@contextmanager
def world() -> Iterator[World]:
    """Make a world without the records of other ones, and leave the logger as it was."""
    logger = logging.getLogger("rocketry.task")
    for name in _ITS_CLOCK:
        vars(logger).pop(name, None)
    # One test makes many worlds: each one finds no repository, and gets its own.
    before, logger.handlers = logger.handlers, []
    made = World()
    notes = _Notes(made)
    logger.addHandler(notes)
    try:
        yield made
    finally:
        logger.handlers = before
        # Rocketry sets the clock of the first session for good.
        for name in _ITS_CLOCK:
            vars(logger).pop(name, None)

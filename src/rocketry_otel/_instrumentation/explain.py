"""Why a task does not start now, on demand.

In: an application and a task. Out: an explanation. No condition is evaluated by Rocketry for it,
no function of the application is called, and any thread may ask.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from rocketry_otel._errors import RocketryOTelError
from rocketry_otel._schedule.conditions import task_name
from rocketry_otel._schedule.explanation import Explanation, missing, part_of
from rocketry_otel._schedule.verdicts import Moment, alive_runs, prepare

from .handler import handler_of
from .instrument import session_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .tasks import Application, Session


def explain(app: Application | Session, task: Any) -> Explanation:
    """Return why a task starts at the scheduler's next look, or why it does not.

    Nothing is changed, and no function of the application is called: a condition that only such a
    function decides is unknown. The same thread or another may ask, also while tasks run.

    Args:
        app: An instrumented ``rocketry.Rocketry`` or ``rocketry.Session``.
        task: The task, its name, or its function.

    Returns:
        The explanation. ``print(explain(app, "report"))`` shows it to people, ``to_dict()`` is
        plain data.

    Raises:
        TypeError: If ``app`` or ``task`` has another type.
        RocketryOTelError: If the application is not instrumented, or has no such task.
    """
    session: Any = session_of(app)
    handler = handler_of(session)
    if handler is None:
        raise RocketryOTelError(
            "explain needs an instrumented application: call rocketry_otel.instrument(app) first"
        )
    name = task_name(task)
    if name is None:
        raise TypeError(f"task must be a task, its name or its function, not {task!r}")
    its_task = next((one for one in session.tasks if one.name == name), None)
    if its_task is None:
        raise RocketryOTelError(f"The application has no task {name!r}")
    bridge = handler.bridge_of(session)
    parsed = bridge.conditions.of(its_task)
    tree, moment = parsed.tree, Moment(its_task, bridge.task_states, parsed.slots)
    prepare(tree.leaves(), moment)
    condition = part_of(tree, moment)
    held_back = tuple(_held_back(session, its_task))
    is_requested = bool(its_task.batches)
    verdict: bool | None = True if is_requested else condition.verdict
    return Explanation(
        name,
        datetime.fromtimestamp(moment.time, timezone.utc).astimezone(),
        False if held_back else verdict,
        is_requested,
        held_back,
        condition,
        missing(tree, moment),
    )


def _held_back(session: Any, task: Any) -> Iterator[str]:
    """Yield what keeps a task from its start, in the order in which Rocketry asks for it."""
    scheduler = session.scheduler
    if not scheduler.is_alive:
        yield "the scheduler does not run"
    if scheduler.on_hold:
        yield "the scheduler is on hold"
    if task.on_startup or task.on_shutdown:
        yield f"it runs only at the {'start' if task.on_startup else 'end'} of the scheduler"
    execution = task.get_execution()
    if execution == "process" and _processes(session) >= session.config.max_process_count:
        yield f"all {session.config.max_process_count} processes are in use"
    allows_more = session.config.multilaunch if task.multilaunch is None else task.multilaunch
    if execution != "main" and not allows_more and alive_runs(task):
        yield "it is still running"
    if task.disabled and not task.batches:
        yield "it is disabled"


def _processes(session: Any) -> int:
    return sum(
        run.task is not None and hasattr(run.task, "exitcode")
        for task in list(session.tasks)
        for run in alive_runs(task)
    )

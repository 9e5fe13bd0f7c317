from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, use_span
from rocketry import Session
from rocketry.conditions import DependFailure, DependFinish, DependSuccess, TaskStarted
from rocketry.conds import (
    after_all_fail,
    after_all_finish,
    after_all_success,
    after_any_fail,
    after_any_finish,
    after_any_success,
    after_fail,
    after_finish,
    after_success,
    daily,
    every,
)
from rocketry.core import Parameters, Task
from rocketry.core.condition import Not

from rocketry_otel._instrumentation.links import Awaited, Requests, awaited, dependency_links
from rocketry_otel._model.annotations import RunLink
from rocketry_otel._model.ids import RunIds, ids_of
from tests.support import apps
from tests.support.apps import make_app

if TYPE_CHECKING:
    from collections.abc import Iterator

SUCCESS = ("success",)
FAIL = ("fail",)
FINISH = ("success", "fail")
LOAD = ids_of("load", "r1", 1)
# The number of a span that is not sampled.
UNSAMPLED = 99


def awaited_by(condition: Any) -> list[Awaited]:
    """Return all endings that a condition waits for."""
    return list(awaited(condition))


@pytest.mark.parametrize(
    ("condition", "actions"),
    [
        (after_success("load"), SUCCESS),
        (after_fail("load"), FAIL),
        (after_finish("load"), FINISH),
        (DependSuccess(depend_task="load", task="report"), SUCCESS),
        (DependFailure(depend_task="load"), FAIL),
        (DependFinish(depend_task="load"), FINISH),
    ],
    ids=str,
)
def test_dependency_waits_for_its_task(condition: Any, actions: tuple[str, ...]) -> None:
    """Each such condition names the task and the endings that let the run start."""
    assert awaited_by(condition) == [Awaited("load", actions)]


@pytest.mark.parametrize(
    ("condition", "actions"),
    [
        (after_all_success("a", "b"), SUCCESS),
        (after_all_fail("a", "b"), FAIL),
        (after_all_finish("a", "b"), FINISH),
        (after_any_success("a", "b"), SUCCESS),
        (after_any_fail("a", "b"), FAIL),
        (after_any_finish("a", "b"), FINISH),
    ],
    ids=str,
)
def test_dependency_on_several_waits_for_each(condition: Any, actions: tuple[str, ...]) -> None:
    """With all of them or any of them, each may have let the run start."""
    assert awaited_by(condition) == [Awaited("a", actions), Awaited("b", actions)]


@pytest.mark.parametrize(
    ("condition", "names"),
    [
        (after_success("a") & after_fail("b"), ["a", "b"]),
        (after_success("a") | after_fail("b"), ["a", "b"]),
        (daily & after_success("a"), ["a"]),
        (every("10 min") | (daily.after("10:00") & after_success("a")), ["a"]),
        (~after_success("a"), []),
        (~~after_success("a"), ["a"]),
        (Not(Not(after_success("a"))), ["a"]),
        (Not(Not(Not(after_success("a")))), []),
        (after_success("a") & ~after_success("b"), ["a"]),
        (after_success("a") & ~(after_success("b") | ~after_success("c")), ["a", "c"]),
        (after_any_success("a", "b") & ~after_all_fail("c", "d") & daily, ["a", "b"]),
        (daily, []),
        (every("1 hour") & TaskStarted(task="a"), []),
        (TaskStarted(task="a") >= 2, []),
        (None, []),
        (True, []),
    ],
    ids=str,
)
def test_conditions_are_combined(condition: Any, names: list[str]) -> None:
    """A part below ``~`` is not waited for, but below two it is; times are no tasks."""
    assert [one.task_name for one in awaited_by(condition)] == names


def test_task_is_found_by_function_or_object() -> None:
    """As in Rocketry, the name is that of ``app.task`` or of the task itself."""
    app = make_app()

    @app.task(name="named")
    def load() -> None: ...

    task = app.session["named"]
    assert awaited_by(after_success(load)) == [Awaited("named", SUCCESS)]
    assert awaited_by(after_success(task)) == [Awaited("named", SUCCESS)]


@pytest.mark.parametrize("task", [object(), 5, apps.succeed])
def test_other_object_is_not_waited_for(task: object) -> None:
    """Rocketry itself finds no task there."""
    assert awaited_by(after_success(task)) == []


def linked(condition: Any, since: int, endings: dict[str, tuple[RunIds, int]]) -> Any:
    """Return the links to runs with the given endings, by task."""
    return dependency_links(condition, since, lambda one: endings.get(one.task_name))


def test_run_links_only_to_new_endings() -> None:
    """An ending before or at the last beginning belongs to an earlier run."""
    condition = after_success("load")
    for since, links in [
        (0, (RunLink(LOAD.trace_id, LOAD.span_id, "dependency"),)),
        (4, (RunLink(LOAD.trace_id, LOAD.span_id, "dependency"),)),
        (5, ()),
        (6, ()),
    ]:
        assert linked(condition, since, {"load": (LOAD, 5)}) == links
    assert linked(condition, 0, {}) == ()


def test_each_run_is_linked_once() -> None:
    """A condition may name it often; two runs are two links, in the order of the tasks."""
    other = ids_of("other", "r1", 1)
    condition = after_any_success("other", "load") & after_finish("load")
    assert linked(condition, 0, {"load": (LOAD, 5), "other": (other, 4)}) == (
        RunLink(other.trace_id, other.span_id, "dependency"),
        RunLink(LOAD.trace_id, LOAD.span_id, "dependency"),
    )


def test_condition_chooses_the_endings() -> None:
    """A failure is no reason for ``after_success``, nor a success for ``after_fail``."""
    asked: list[Awaited] = []
    condition = after_success("a") & after_fail("b") & after_finish("c")
    assert dependency_links(condition, 0, asked.append) == ()  # type: ignore[arg-type]
    assert asked == [Awaited("a", SUCCESS), Awaited("b", FAIL), Awaited("c", FINISH)]


def test_links_are_limited_to_128() -> None:
    """A task that waits for 200 others has the same links live and in a replay."""
    names = [f"t{number}" for number in range(200)]
    endings = {name: (ids_of(name, None, 1), 1) for name in names}
    links = linked(after_all_success(*names), 0, endings)
    assert [link.trace_id for link in links] == [
        ids_of(name, None, 1).trace_id for name in names[:128]
    ]


class Watched(Task):
    """A class of tasks, watched without a change to any other class."""

    def execute(self) -> None:
        """Do nothing."""

    def run(self, _params: Any = None, **kwargs: Any) -> str:
        """Request a run."""
        super().run(_params, **kwargs)
        return "asked"


@pytest.fixture
def session() -> Session:
    """Return a session of an application."""
    return make_app().session


@pytest.fixture
def requests(session: Session) -> Iterator[Requests]:
    """Requests that watch the tasks of a session."""
    requests = Requests()
    requests.watch(Watched, session)
    yield requests
    requests.unwatch(Watched, session)


def span(number: int) -> Any:
    """Return a context manager that makes a span with these ids the active one."""
    context = SpanContext(number, number, is_remote=False, trace_flags=TraceFlags(1))
    return use_span(NonRecordingSpan(context))


def taken(requests: Requests, task: Task) -> tuple[bool, RunLink | None]:
    """Act as at a launch: Rocketry takes the request, and then calls for the run's id."""
    task._get_direct_params()
    is_requested, request = requests.take(task)
    assert request is None or request.is_sampled is (request.link.trace_id != UNSAMPLED)
    return is_requested, None if request is None else request.link


def link(number: int) -> RunLink:
    """Return the link to a span that requested a run."""
    return RunLink(number, number, "request")


def test_request_inside_a_span_links_to_it(requests: Requests, session: Session) -> None:
    """Parameters, return value and name of the request are unchanged."""
    task = Watched(name="etl", session=session)
    with span(7):
        assert task.run({"a": 1}, b=2) == "asked"
    assert task.batches == [Parameters(a=1, b=2)]
    assert Watched.run.__doc__ == "Request a run."
    assert taken(requests, task) == (True, link(7))
    assert taken(requests, task) == (False, None)


def test_request_outside_of_a_span_has_no_link(requests: Requests, session: Session) -> None:
    """Its run does not link to a dependency either."""
    assert not trace.get_current_span().get_span_context().is_valid
    task = Watched(name="etl", session=session)
    task.run()
    assert taken(requests, task) == (True, None)


def test_request_shows_whether_its_span_is_sampled(requests: Requests, session: Session) -> None:
    """Only a sampled span can be the parent of a run."""
    task = Watched(name="etl", session=session)
    context = SpanContext(UNSAMPLED, UNSAMPLED, is_remote=True)
    with trace.use_span(NonRecordingSpan(context)):
        task.run()
    assert taken(requests, task) == (True, link(UNSAMPLED))


def test_requests_are_taken_in_order(requests: Requests, session: Session) -> None:
    """Each requested run links to its own span, task by task."""
    first, second = (Watched(name=name, session=session) for name in "ab")
    for number in (1, 2):
        with span(number):
            first.run()
    with span(3):
        second.run()
    first.run()
    assert [taken(requests, first) for _ in range(4)] == [
        (True, link(1)),
        (True, link(2)),
        (True, None),
        (False, None),
    ]
    assert taken(requests, second) == (True, link(3))


def test_refused_request_does_not_count(requests: Requests, session: Session) -> None:
    """An error of ``run`` is raised, and no run is expected."""
    task = Watched(name="etl", session=session)
    with span(7), pytest.raises(TypeError):
        task.run(1, 2)  # type: ignore[call-arg]
    assert not requests._asked


def test_batches_set_by_hand_are_no_requests(requests: Requests, session: Session) -> None:
    """Their caller is unknown; a request behind them keeps its span."""
    task = Watched(name="etl", session=session)
    task.batches = [Parameters()]
    with span(7):
        task.run()
    assert taken(requests, task) == (False, None)
    assert taken(requests, task) == (True, link(7))


def test_withdrawn_requests_give_no_links(requests: Requests, session: Session) -> None:
    """A later request links to its own span, and another run has no link."""
    task = Watched(name="etl", session=session)
    with span(1):
        task.run()
        task.run()
    task.batches.clear()
    with span(2):
        task.run()
    assert taken(requests, task) == (True, link(2))
    assert taken(requests, task) == (False, None)


def test_requests_are_bounded(requests: Requests, session: Session) -> None:
    """Of very many requests the newest 1,000 each link to their own span."""
    task = Watched(name="etl", session=session)
    for number in range(1, 1003):
        with span(number):
            task.run()
    assert [taken(requests, task) for _ in range(4)] == [
        (False, None),
        (False, None),
        (True, link(3)),
        (True, link(4)),
    ]


def test_deleted_task_leaves_no_request(requests: Requests, session: Session) -> None:
    """A new task at the same address starts without requests."""
    task = Watched(name="etl", session=session)
    task.run()
    gone = weakref.ref(task)
    assert len(requests._asked) == 1
    session.tasks.clear()
    del task
    gc.collect()
    assert gone() is None
    assert not requests._asked


def test_equal_tasks_are_kept_apart(requests: Requests, session: Session) -> None:
    """Two tasks with equal fields are equal to pydantic; here they are two."""
    one = Watched(name="etl", session=session)
    session.tasks.clear()
    other = Watched(name="etl", session=session)
    with span(1):
        one.run()
    other.batches = list(one.batches)
    assert one == other
    assert taken(requests, other) == (False, None)
    assert taken(requests, one) == (True, link(1))


def test_tasks_of_other_sessions_are_not_watched(requests: Requests) -> None:
    """A session that is not instrumented costs nothing and keeps nothing."""
    task = Watched(name="etl", session=make_app().session)
    with span(7):
        assert task.run() == "asked"
    assert not requests._asked


def test_unwatched_session_has_no_requests(session: Session) -> None:
    """Those of another session are kept."""
    requests, second = Requests(), make_app().session
    of_first, of_second = Watched(name="a", session=session), Watched(name="b", session=second)
    for one in (session, second):
        requests.watch(Watched, one)
    of_first.run()
    of_second.run()
    requests.unwatch(Watched, session)
    assert requests.take(of_first) == (False, None)
    assert taken(requests, of_second) == (True, None)
    requests.unwatch(Watched, second)

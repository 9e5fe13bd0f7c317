from __future__ import annotations

import asyncio
import contextvars
import logging
import pickle
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from weakref import ref

import pytest
from opentelemetry import baggage
from opentelemetry.context import attach, detach, get_current
from opentelemetry.trace import get_current_span
from redbird.repos import MemoryRepo
from rocketry.conds import after_success
from rocketry.core import Task
from rocketry.core.task import TaskRun

from rocketry_otel import (
    OTelRepoHandler,
    Settings,
    TaskEventRecord,
    current_run,
    instrument,
    uninstrument,
)
from rocketry_otel._instrumentation import hooks
from rocketry_otel._instrumentation.child_process import ChildRecords, ChildSide
from rocketry_otel._instrumentation.hooks import SchedulerHooks, _can_be_pickled, _run_id_of
from rocketry_otel._instrumentation.pending_launches import Launch
from rocketry_otel._model.annotations import RunLink
from tests.support import apps
from tests.support.apps import make_app, run_tasks
from tests.support.records import START, raised, task_record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rocketry import Rocketry

    from rocketry_otel.testing import TelemetryCapture

PROCESS = logging.getLogger("rocketry.task._process")


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave no filter, no child and no watched session."""
    monkeypatch.setattr(ChildSide, "_only", None)
    filters = PROCESS.filters
    PROCESS.filters = []
    yield
    PROCESS.filters = filters
    apps.unwatch_all_sessions()


class Parts:
    """An instrumented application, its hooks and one of its tasks."""

    def __init__(self, telemetry: TelemetryCapture, execution: Any = "main", **settings: Any):
        self.app: Rocketry = make_app(execution=execution)
        self.task = self.app.session.create_task(func=apps.succeed, name="etl")
        self.handler: OTelRepoHandler = instrument(
            self.app, settings=Settings(**settings), **telemetry.providers
        )
        self.bridge = self.handler._bridge
        self.hooks: SchedulerHooks = self.handler._hooks[0][0]

    def begin(self, run_id: Any = "r1", task: Any = None) -> None:
        """Begin a run as Rocketry does: on the stack of runs first, then in the log."""
        self.task._run_stack.append(TaskRun(start=START, task=task, run_id=run_id))
        self.handler.handle(task_record("run", run_id=run_id))

    def end(self, run_id: Any = "r1") -> None:
        """End a run."""
        self.handler.handle(task_record("success", run_id=run_id, created=START + 1))


def ids() -> tuple[int, int]:
    """Return the ids of the current span."""
    context = get_current_span().get_span_context()
    return context.trace_id, context.span_id


def send(generator: Any, *exc_info: Any) -> None:
    """Go on after the body, as Rocketry does."""
    with pytest.raises(StopIteration):
        generator.send(exc_info or (None, None, None))


@pytest.mark.parametrize("execution", ["main", "async", "thread"])
def test_body_runs_inside_its_run(execution: Any, telemetry: TelemetryCapture) -> None:
    """The run's span is current there, ``current_run`` names it, and nothing leaks out."""
    seen: dict[str, Any] = {}

    def body() -> None:
        run = current_run()
        assert run is not None
        seen["ids"] = ids()
        seen["run"] = (run.task_name, run.run_id, int(run.trace_id, 16), int(run.span_id, 16))
        run.set_attribute("rows", 5)

    app = make_app(execution=execution)
    app.session.create_task(func=body, name="etl")
    app.session.hooks.scheduler_cycle.append(lambda: seen.setdefault("cycle", []).append(ids()))
    handler = instrument(app, **telemetry.providers)
    run_tasks(app, "etl", cycles=3)
    span = telemetry.span("etl")
    assert seen["ids"] == (span.context.trace_id, span.context.span_id)
    run_id = handler.repo.filter_by(action="run").last().run_id
    assert seen["run"] == ("etl", run_id, *seen["ids"])
    assert span.attributes["rows"] == 5
    assert set(seen["cycle"]) == {(0, 0)}
    assert ids() == (0, 0)
    assert not current_run()


@pytest.mark.parametrize("execution", ["async", "thread"])
def test_overlapping_runs_are_kept_apart(execution: Any, telemetry: TelemetryCapture) -> None:
    """Each body is in its own run, though all of them go on at once."""
    seen: list[tuple[int, int]] = []
    all_there = threading.Barrier(3)

    async def in_async() -> None:
        before = ids()
        await asyncio.sleep(0.05)
        assert ids() == before
        seen.append(before)

    def in_thread() -> None:
        all_there.wait(10)
        seen.append(ids())

    app = make_app(execution=execution)
    func = in_async if execution == "async" else in_thread
    app.session.create_task(func=func, name="etl", multilaunch=True)
    instrument(app, **telemetry.providers)
    run_tasks(app, "etl", "etl", "etl", cycles=100)
    made = {(span.context.trace_id, span.context.span_id) for span in telemetry.spans}
    assert len(made) == 3
    assert sorted(seen) == sorted(made)


@pytest.mark.parametrize("execution", ["main", "async", "thread"])
def test_launcher_baggage_reaches_the_body(execution: Any, telemetry: TelemetryCapture) -> None:
    """It also reaches a thread with an empty context."""
    seen: list[Any] = []
    parts = Parts(telemetry, execution)
    parts.app.session.create_task(func=lambda: seen.append(dict(baggage.get_all())), name="body")
    token = attach(baggage.set_baggage("tenant", "acme"))
    try:
        run_tasks(parts.app, "body", cycles=3)
    finally:
        detach(token)
    assert seen == [{"tenant": "acme"}]
    assert dict(baggage.get_all()) == {}


def test_body_baggage_stays(telemetry: TelemetryCapture) -> None:
    """The launcher's baggage is only for contexts without baggage."""
    parts = Parts(telemetry)
    launch = Launch(baggage.set_baggage("tenant", "launcher"), ())
    parts.bridge.pending_launches.put("etl", "r1", launch)
    parts.begin()
    token = attach(baggage.set_baggage("tenant", "body"))
    try:
        generator = parts.hooks.around(parts.task)
        next(generator)
        assert dict(baggage.get_all()) == {"tenant": "body"}
        send(generator)
    finally:
        detach(token)


def test_context_is_restored_after_the_body(telemetry: TelemetryCapture) -> None:
    """The run is restored too, and the span has the annotations."""
    parts = Parts(telemetry)
    parts.begin()
    before = get_current()
    generator = parts.hooks.around(parts.task)
    next(generator)
    inside = ids()
    run = current_run()
    assert run is not None
    run.add_event("done")
    send(generator)
    assert get_current() == before
    assert not current_run()
    parts.end()
    span = telemetry.span("etl")
    assert inside == (span.context.trace_id, span.context.span_id)
    assert [event.name for event in span.events] == ["done"]


def test_context_is_restored_after_an_error(telemetry: TelemetryCapture) -> None:
    """Rocketry throws the error into the hook."""
    parts = Parts(telemetry)
    parts.begin()
    generator = parts.hooks.around(parts.task)
    next(generator)
    send(generator, *raised(ValueError("boom")))
    assert ids() == (0, 0)
    assert not current_run()


def test_discarded_hook_ends_silently(
    telemetry: TelemetryCapture, caplog: pytest.LogCaptureFixture
) -> None:
    """If another hook fails, Rocketry drops ours in any context, and nothing is undone."""
    parts = Parts(telemetry)
    parts.begin()
    generator = parts.hooks.around(parts.task)
    context = contextvars.copy_context()
    context.run(next, generator)
    with caplog.at_level(logging.DEBUG):
        generator.close()
    assert context.run(current_run) is not None
    assert not current_run()
    assert not caplog.records


def test_body_runs_without_its_run(
    telemetry: TelemetryCapture, caplog: pytest.LogCaptureFixture
) -> None:
    """An error while the run is set never hurts the task."""

    class Odd:
        @property
        def name(self) -> str:
            raise RuntimeError("no")

    generator = Parts(telemetry).hooks.around(Odd())
    with caplog.at_level(logging.DEBUG, "rocketry_otel"):
        next(generator)
        assert ids() == (0, 0)
        send(generator)
    assert [record.getMessage() for record in caplog.records] == [
        "the run around a body could not be set"
    ]


def test_failed_restore_raises_nothing(
    telemetry: TelemetryCapture, caplog: pytest.LogCaptureFixture
) -> None:
    """A body that ends in another context, as in no Rocketry of today, raises nothing."""
    parts = Parts(telemetry)
    parts.begin()
    generator = parts.hooks.around(parts.task)
    contextvars.copy_context().run(next, generator)
    with caplog.at_level(logging.DEBUG, "rocketry_otel"):
        send(generator)
    (record,) = [record for record in caplog.records if record.name == "rocketry_otel"]
    assert record.getMessage() == "the run around a body could not be undone"


def outside(parts: Parts) -> None:
    """Assert that a body is in no run."""
    generator = parts.hooks.around(parts.task)
    next(generator)
    assert ids() == (0, 0)
    assert not current_run()
    send(generator)


def test_excluded_task_has_no_run(telemetry: TelemetryCapture) -> None:
    """Nothing of it leaves the machine."""
    parts = Parts(telemetry, exclude="etl")
    parts.begin()
    outside(parts)


def test_unknown_run_is_no_run(telemetry: TelemetryCapture) -> None:
    """Its record is missing, it has ended, or the handler is closed."""
    parts = Parts(telemetry)
    outside(parts)
    parts.task._run_stack.append(TaskRun(start=START, task=None, run_id="r0"))
    outside(parts)
    parts.begin("r1")
    parts.bridge.pipeline.close(0.0)
    outside(parts)


def test_earlier_annotations_are_kept(telemetry: TelemetryCapture) -> None:
    """A body that is entered a second time keeps them."""
    parts = Parts(telemetry)
    parts.begin()
    for number in range(2):
        generator = parts.hooks.around(parts.task)
        next(generator)
        run = current_run()
        assert run is not None
        run.set_attribute(f"k{number}", number)
        send(generator)
    parts.end()
    attributes = telemetry.span("etl").attributes
    assert (attributes["k0"], attributes["k1"]) == (0, 1)


def test_body_finds_the_run_of_its_thread() -> None:
    """Of several runs on the stack, thread, asyncio task or main thread decide."""
    app = make_app()
    thread = threading.current_thread()
    other = threading.Thread()
    task = app.session.create_task(func=apps.succeed, name="etl", execution="thread")
    stack = [(thread, 5), (other, "other"), (None, "main")]
    task._run_stack = [TaskRun(start=START, task=one, run_id=run_id) for one, run_id in stack]
    assert _run_id_of(task) == "5"
    task.execution = "main"
    assert _run_id_of(task) == "main"
    task.execution = "async"

    async def in_a_task() -> str | None:
        mine = TaskRun(start=START, task=asyncio.current_task(), run_id=None)
        task._run_stack.insert(2, mine)
        return _run_id_of(task)

    assert asyncio.run(in_a_task()) is None
    task._run_stack = task._run_stack[1:2]
    task.execution = "thread"
    assert _run_id_of(task) is None


def test_launch_waits_for_its_first_record(telemetry: TelemetryCapture) -> None:
    """It has the launcher's context, under the id of Rocketry's function."""
    parts = Parts(telemetry)
    token = attach(baggage.set_baggage("tenant", "acme"))
    try:
        run_id = parts.app.session.config.func_run_id(parts.task, None)
    finally:
        detach(token)
    assert len(run_id) == 32
    launch = parts.bridge.pending_launches.take("etl", run_id)
    assert launch is not None
    assert baggage.get_all(launch.context) == {"tenant": "acme"}
    assert launch.links == ()


def test_user_run_ids_stay(telemetry: TelemetryCapture) -> None:
    """The session's own function is called, and is restored afterwards."""
    app = make_app()

    def number(task: Any, params: Any = None) -> Any:
        return 7

    app.session.config.func_run_id = number
    app.session.create_task(func=apps.succeed, name="etl")
    handler = instrument(app, **telemetry.providers)
    run_tasks(app, "etl")
    assert [record.run_id for record in handler.repo.filter_by().all()] == ["7", "7"]
    assert not handler._bridge.pending_launches._launches
    uninstrument(app)
    assert app.session.config.func_run_id is number


def test_launch_works_after_our_error(
    telemetry: TelemetryCapture, caplog: pytest.LogCaptureFixture
) -> None:
    """The id comes back, though a condition of the user raises."""

    class Odd:
        @property
        def subconditions(self) -> Any:
            raise RuntimeError("no")

    parts = Parts(telemetry)
    odd = SimpleNamespace(name="etl", batches=[], start_cond=Odd(), logger_name="rocketry.task")
    with caplog.at_level(logging.DEBUG, "rocketry_otel"):
        assert len(parts.hooks.launching(odd)) == 32
    assert [record.getMessage() for record in caplog.records] == ["a launch could not be noted"]
    assert not parts.bridge.pending_launches._launches


def test_run_links_to_its_dependency(telemetry: TelemetryCapture) -> None:
    """It links to the run that ended last before it; a run without a dependency has no link."""
    app = make_app()
    app.session.create_task(func=apps.succeed, name="load")
    app.session.create_task(func=apps.succeed, name="report", start_cond=after_success("load"))
    instrument(app, **telemetry.providers)
    run_tasks(app, "load", cycles=4)
    context = telemetry.span("load").context
    (link,) = telemetry.span("report").links
    assert (link.context.trace_id, link.context.span_id) == (context.trace_id, context.span_id)
    assert dict(link.attributes) == {"rocketry.link": "dependency"}
    assert telemetry.span("load").links == ()


def test_requested_run_links_to_the_caller_s_span(telemetry: TelemetryCapture) -> None:
    """A dependency adds no link then; a request outside of a span gives no link."""
    parts = Parts(telemetry)
    app = parts.app
    report = app.session.create_task(func=apps.succeed, name="report")
    report.start_cond = after_success("etl")
    tracer = telemetry.tracer_provider.get_tracer("app")
    run_tasks(app, "etl")
    telemetry.clear()
    with tracer.start_as_current_span("request") as request:
        report.run()
    context = request.get_span_context()
    run_tasks(app, cycles=1)
    (link,) = telemetry.span("report").links
    assert (link.context.trace_id, link.context.span_id) == (context.trace_id, context.span_id)
    assert dict(link.attributes) == {"rocketry.link": "request"}
    telemetry.clear()
    run_tasks(app, "report")
    assert telemetry.span("report").links == ()


def test_links_can_be_turned_off(telemetry: TelemetryCapture) -> None:
    """Runs have no links, neither to a request nor to what they waited for."""
    parts = Parts(telemetry, links=False)
    report = parts.app.session.create_task(func=apps.succeed, name="report")
    report.start_cond = after_success("etl")
    with telemetry.tracer_provider.get_tracer("app").start_as_current_span("request"):
        parts.task.run()
    run_tasks(parts.app, cycles=3)
    assert telemetry.span("etl").links == ()
    assert telemetry.span("report").links == ()


def test_start_shows_the_last_successes(telemetry: TelemetryCapture) -> None:
    """They come from the repository before any new run; cycles are counted."""
    parts = Parts(telemetry)
    record = {"task_name": "etl", "action": "success", "created": START}
    parts.handler.repo.add(parts.handler.repo.model(**record))
    points: list[Any] = []

    def read() -> None:
        # The end of the scheduler flushes metrics, and SDK 1.39 shows a gauge once.
        points.append(telemetry.metric_points("rocketry.task.last_success"))

    parts.app.session.hooks.scheduler_cycle.append(read)
    run_tasks(parts.app, cycles=2)
    (point,) = points[0]
    assert (dict(point.attributes), point.value) == ({"task_name": "etl"}, START)
    (point,) = telemetry.metric_points("rocketry.scheduler.cycles")
    assert point.value == 2


def test_hooks_are_installed_and_removed(telemetry: TelemetryCapture) -> None:
    """The hook around the body comes first, the others come last."""

    def theirs() -> None: ...

    app = make_app()
    hooks = app.session.hooks
    places = (hooks.task_execute, hooks.scheduler_startup, hooks.scheduler_cycle)
    for place in places:
        place.append(theirs)
    own = app.session.config.func_run_id
    handler = instrument(app, **telemetry.providers)
    ours = handler._hooks[0][0]
    assert hooks.task_execute == [ours.around, theirs]
    assert hooks.scheduler_startup == [theirs, ours.started]
    assert hooks.scheduler_cycle == [theirs, ours.cycling]
    assert app.session.config.func_run_id == ours.launching
    uninstrument(app)
    assert [list(place) for place in places] == [[theirs]] * 3
    assert app.session.config.func_run_id is own


def test_user_changes_stay(telemetry: TelemetryCapture) -> None:
    """Missing hooks raise nothing, and a later function of the user is kept."""
    parts = Parts(telemetry)
    session = parts.app.session
    session.hooks.task_execute.clear()

    def later(task: Any, params: Any = None) -> str:
        return "later"

    session.config.func_run_id = later
    uninstrument(parts.app)
    assert session.config.func_run_id is later
    assert session.hooks.scheduler_cycle == []


def test_hooks_travel_to_a_spawned_child(telemetry: TelemetryCapture) -> None:
    """They are pickled with the launcher's baggage and without the session, and watch again."""
    parts = Parts(telemetry, exclude="other")
    token = attach(baggage.set_baggage("tenant", "acme", baggage.set_baggage("odd", lambda: 0)))
    try:
        pickled = pickle.dumps(parts.hooks.around)
    finally:
        detach(token)
    PROCESS.filters = []
    there = pickle.loads(pickled).__self__  # noqa: S301  # our own, a moment ago
    assert isinstance(there, SchedulerHooks)
    assert there is not parts.hooks
    assert there._baggage == {"tenant": "acme"}
    assert there._settings == parts.hooks._settings
    assert there._keeps_run_id is True
    assert not hasattr(there, "_session")
    assert [type(one) for one in PROCESS.filters] == [ChildRecords]
    pickle.loads(pickled)  # noqa: S301
    assert len(PROCESS.filters) == 1
    # A child has no session whose tasks could be shown.
    generator = there.started()
    next(generator)
    send(generator)
    assert telemetry.metric_points("rocketry.task.last_success") == []


def test_unpicklable_baggage_stays_behind() -> None:
    """Baggage may hold any object."""
    assert _can_be_pickled("text")
    assert not _can_be_pickled(threading.Lock())


def test_hooks_without_a_bridge_do_nothing(telemetry: TelemetryCapture) -> None:
    """The hooks of a deleted handler cost nothing and raise nothing."""
    parts = Parts(telemetry)
    parts.begin()
    parts.hooks._key = "gone"
    outside(parts)
    assert len(parts.hooks.launching(parts.task)) == 32
    assert list(parts.hooks.cycling()) == [None]
    generator = parts.hooks.started()
    next(generator)
    send(generator)
    assert not parts.bridge.pending_launches._launches
    assert telemetry.metric_points("rocketry.scheduler.cycles") == []


def test_task_with_its_own_logger_is_watched(telemetry: TelemetryCapture) -> None:
    """The records of its children go over another logger."""
    parts = Parts(telemetry)
    parts.task.logger_name = "rocketry.task.own"
    own = logging.getLogger("rocketry.task.own._process")
    try:
        for _ in range(2):
            parts.hooks.launching(parts.task)
        assert [type(one) for one in own.filters] == [ChildRecords]
        assert len(PROCESS.filters) == 1
    finally:
        own.filters = []


def in_child(parts: Parts) -> ChildRecords:
    """Let this process be the child in which a run of the task has begun."""
    (records,) = PROCESS.filters
    assert isinstance(records, ChildRecords)
    parts.task.logger_name = PROCESS.name
    PROCESS.handlers = [logging.NullHandler()]
    PROCESS.setLevel(logging.INFO)
    PROCESS.propagate = False
    PROCESS.handle(task_record("run", run_id="r1", name=PROCESS.name))
    return records


@pytest.fixture
def _no_propagation() -> Iterator[None]:
    yield
    PROCESS.propagate = True


@pytest.mark.usefixtures("_no_propagation")
def test_child_body_runs_inside_the_parent_s_run(
    telemetry: TelemetryCapture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids, baggage and annotations are the parent's; spans of the body are flushed."""
    parts = Parts(telemetry)
    parts.handler.handle(task_record("run", "other", run_id="r0"))
    records = in_child(parts)
    parts.hooks._baggage = {"tenant": "acme"}
    flushed: list[ChildSide] = []

    def flush(side: ChildSide) -> None:
        flushed.append(side)

    monkeypatch.setattr(ChildSide, "flush", flush)
    generator = parts.hooks.around(parts.task)
    next(generator)
    inside = ids()
    assert dict(baggage.get_all()) == {"tenant": "acme"}
    run = current_run()
    assert run is not None
    assert (run.task_name, run.run_id, int(run.trace_id, 16)) == ("etl", "r1", inside[0])
    run.set_attribute("rows", 5)
    assert records.annotations.attributes == {"rows": 5}
    send(generator)
    assert flushed == [ChildSide._only]
    assert (ids(), bool(current_run()), dict(baggage.get_all())) == ((0, 0), False, {})
    began = task_record("run", run_id="r1", name=PROCESS.name)
    ended = task_record("success", run_id="r1", name=PROCESS.name, created=START + 1)
    assert records.filter(ended)
    parts.handler.handle(began)
    parts.handler.handle(ended)
    span = telemetry.span("etl")
    assert inside == (span.context.trace_id, span.context.span_id)
    assert span.attributes["rows"] == 5


@pytest.mark.usefixtures("_no_propagation")
def test_forked_child_has_the_launcher_s_baggage(telemetry: TelemetryCapture) -> None:
    """It has the launcher's context, and needs no pickled baggage."""
    parts = Parts(telemetry)
    parts.handler.handle(task_record("run", "other", run_id="r0"))
    in_child(parts)
    parts.hooks._baggage = {"tenant": "pickled"}
    token = attach(baggage.set_baggage("tenant", "inherited"))
    try:
        generator = parts.hooks.around(parts.task)
        next(generator)
        assert dict(baggage.get_all()) == {"tenant": "inherited"}
        send(generator)
    finally:
        detach(token)


@pytest.mark.parametrize("filtered", [True, False])
def test_child_without_run_record_has_no_run(
    telemetry: TelemetryCapture, *, filtered: bool
) -> None:
    """The run's ids come from this record."""
    parts = Parts(telemetry)
    parts.task.logger_name = PROCESS.name
    if not filtered:
        PROCESS.filters = []
    outside(parts)
    assert ChildSide._only is None


def test_links_are_stored_with_the_run_record(telemetry: TelemetryCapture) -> None:
    """They are known when the run begins."""
    parts = Parts(telemetry)
    link = RunLink(10, 11, "request")
    parts.bridge.pending_launches.put("etl", "r1", Launch(get_current(), (link,)))
    parts.begin()
    began = parts.handler.repo.filter_by(action="run").last()
    assert (
        began.links == f'[{{"trace_id": "{10:032x}", "span_id": "{11:016x}", "link": "request"}}]'
    )


def test_task_with_its_own_run_ids_has_links(telemetry: TelemetryCapture) -> None:
    """Rocketry calls the task's function, and the id stays as it is."""
    app = make_app()
    app.session.create_task(func=apps.succeed, name="load")
    app.session.create_task(
        func=apps.succeed,
        name="report",
        start_cond=after_success("load"),
        func_run_id=lambda task, params=None: f"own of {task.name}",
    )
    handler = instrument(app, **telemetry.providers)
    run_tasks(app, "load", cycles=4)
    context = telemetry.span("load").context
    span = telemetry.span("report")
    assert [(link.context.trace_id, link.context.span_id) for link in span.links] == [
        (context.trace_id, context.span_id)
    ]
    assert span.attributes["rocketry.run_id"] == "own of report"
    assert not handler._bridge.pending_launches._launches


def test_each_launch_is_kept_once(telemetry: TelemetryCapture) -> None:
    """Either function may give the id, with one or two instrumented sessions."""
    first, second = Parts(telemetry), Parts(telemetry)
    own = first.app.session.create_task(
        func=apps.succeed, name="own", func_run_id=lambda *_, **__: "r2"
    )
    first.task.get_run_id(TaskRun(start=START, task=None))
    own.get_run_id(TaskRun(start=START, task=None))
    second.task.get_run_id(TaskRun(start=START, task=None))
    noted = first.bridge.pending_launches._launches
    assert first.handler._bridge is second.bridge
    assert [len(kept) for kept in noted.values()] == [1, 1, 1]
    assert [name for name, _ in noted] == ["etl", "own", "etl"]


def test_last_session_restores_the_task_class(telemetry: TelemetryCapture) -> None:
    """The ids are kept as long as one session is watched."""
    original = Task.get_run_id
    handler = OTelRepoHandler(apps_repo(), **telemetry.providers)
    sessions = [make_app().session, make_app().session]
    for session in sessions:
        handler.hook_into(session)
    assert Task.get_run_id is not original
    hooks = [its for its, _ in handler._hooks]
    hooks[0].remove(sessions[0])
    assert Task.get_run_id is not original
    hooks[1].remove(sessions[1])
    assert Task.get_run_id is original


def test_scheduler_end_sends_the_queues(
    telemetry: TelemetryCapture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process may be replaced or killed next."""
    parts = Parts(telemetry)
    flushed: list[float] = []
    monkeypatch.setattr(parts.bridge.pipeline, "_send_queues", flushed.append)
    hook = parts.hooks.stopping()
    next(hook)
    assert flushed == []
    assert next(hook, "over") == "over"
    assert flushed == [5.0]
    parts.hooks._key = "of a process that is no more"
    assert list(parts.hooks.stopping()) == [None]
    assert flushed == [5.0]


def test_deleted_hooks_keep_no_launch(telemetry: TelemetryCapture) -> None:
    """A task's own function gives its id all the same."""
    parts = Parts(telemetry)
    parts.task.func_run_id = lambda *_, **__: "own"
    gone = SchedulerHooks(parts.bridge, Settings(), parts.app.session)
    hooks._hooks_of[parts.app.session] = ref(gone)
    del gone
    assert parts.task.get_run_id(TaskRun(start=START, task=None)) == "own"
    assert not parts.bridge.pending_launches._launches


def apps_repo() -> MemoryRepo:
    """Return a repository in memory."""
    return MemoryRepo(model=TaskEventRecord)


def test_error_at_the_end_of_the_scheduler_is_kept(
    telemetry: TelemetryCapture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scheduler ends as it would have without us."""
    parts = Parts(telemetry)

    def broken() -> None:
        raise OSError("a fault of ours")

    monkeypatch.setattr(parts.bridge.pipeline, "end_scheduler", broken)
    assert list(parts.hooks.stopping()) == [None]


def test_fault_in_following_a_run_never_reaches_rocketry(
    telemetry: TelemetryCapture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither at its launch nor when the runs are looked at."""
    parts = Parts(telemetry)

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no")

    monkeypatch.setattr(parts.bridge.pending_launches, "follow", fail)
    monkeypatch.setattr(parts.bridge.open_runs, "all", fail)
    run_tasks(parts.app, "etl", cycles=2)
    assert telemetry.span("etl").attributes["rocketry.action"] == "success"


@pytest.mark.parametrize(
    ("owner", "method", "message"),
    [
        (hooks.ScheduleWatch, "look", "the schedule could not be watched"),
        (hooks.RepeatedErrors, "send_due", "repeated errors could not be sent"),
    ],
)
def test_fault_in_a_look_never_reaches_the_scheduler(
    owner: type,
    method: str,
    message: str,
    telemetry: TelemetryCapture,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The other looks go on, and the task runs."""
    parts = Parts(telemetry)

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no")

    monkeypatch.setattr(owner, method, fail)
    with caplog.at_level(logging.DEBUG, "rocketry_otel"):
        run_tasks(parts.app, "etl")
    assert message in [one.getMessage() for one in caplog.records if one.name == "rocketry_otel"]
    assert telemetry.span("etl").attributes["rocketry.action"] == "success"


def test_hooks_that_were_never_in_place_are_removed(telemetry: TelemetryCapture) -> None:
    """The session is as it was."""
    parts = Parts(telemetry)
    session = make_app().session
    before = session.config.func_run_id, dict(vars(session.scheduler))
    SchedulerHooks(parts.bridge, Settings(), session).remove(session)
    assert (session.config.func_run_id, dict(vars(session.scheduler))) == before


def test_hooks_without_their_session_follow_nothing(telemetry: TelemetryCapture) -> None:
    """A spawned child has a copy of the hooks, and no bridge."""
    parts = Parts(telemetry)
    copied = pickle.loads(pickle.dumps(parts.hooks))  # noqa: S301  # of this test
    copied.cycled()
    parts.hooks.follow(parts.task, "r1", None)
    hooks._bridges.pop(parts.hooks._key)
    parts.hooks.follow(parts.task, "r1", TaskRun(start=START, task=None))
    parts.hooks.cycled()
    assert not parts.bridge.pending_launches._launches

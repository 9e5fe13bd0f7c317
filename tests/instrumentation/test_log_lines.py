"""Log lines of bodies and of schedulers: each once, without a side effect on ``logging``."""

from __future__ import annotations

import logging
import logging.config
import logging.handlers
import queue
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry._logs import NoOpLoggerProvider
from opentelemetry._logs._internal import ProxyLoggerProvider
from opentelemetry.context import Context, attach, detach
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.trace import set_span_in_context
from rocketry import Rocketry

try:
    from opentelemetry.instrumentation.logging.handler import LoggingHandler
except ImportError:  # with the oldest versions it is still the SDK's
    from opentelemetry.sdk._logs import LoggingHandler

from rocketry_otel import OTelRepoHandler, Settings, instrument, open_repository, uninstrument
from rocketry_otel._instrumentation import log_lines as module
from rocketry_otel._instrumentation.hooks import SchedulerHooks, _bridges
from rocketry_otel._runtime.suppression import suppressed
from rocketry_otel.testing import TelemetryCapture
from tests.support.apps import make_app, run_tasks
from tests.support.records import task_record

LONG = 20.0
ORIGINAL = logging.Logger.callHandlers


class OtherHandler(LoggingHandler):
    """A handler of OpenTelemetry that keeps the messages it sends."""

    def __init__(self, level: int = logging.NOTSET, provider: Any = None) -> None:
        super().__init__(level, provider or LoggerProvider(shutdown_on_exit=False))
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def sdk_handler() -> Any:
    """Return the deprecated handler of the SDK, with its messages."""
    from opentelemetry.sdk import _logs  # noqa: PLC0415  # newer SDKs may have none

    if not hasattr(_logs, "LoggingHandler"):
        pytest.skip("this SDK has no handler")

    class Deprecated(_logs.LoggingHandler):  # type: ignore[misc]
        def emit(self, record: logging.LogRecord) -> None:
            self.messages.append(record.getMessage())

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        handler = Deprecated(logger_provider=LoggerProvider(shutdown_on_exit=False))
    handler.messages = []
    return handler


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, restored after the test."""
    root = logging.getLogger()
    before = list(root.handlers), root.level
    yield root
    root.handlers[:] = before[0]
    root.setLevel(before[1])


@pytest.fixture
def logger() -> logging.Logger:
    """A logger of the application."""
    return logging.getLogger(f"shop.{uuid.uuid4().hex}")


@pytest.fixture(autouse=True)
def _unwrapped() -> Iterator[None]:
    """Each test ends without the wrapper."""
    assert logging.Logger.callHandlers is ORIGINAL
    yield
    assert logging.Logger.callHandlers is ORIGINAL


def lines_of(telemetry: TelemetryCapture) -> list[Any]:
    """Return the log records that are no records of runs."""
    return [
        record
        for record in telemetry.log_records
        if not (record.event_name or "").startswith("rocketry.task.")
    ]


def run_body(
    telemetry: TelemetryCapture,
    body: Callable[[], object],
    settings: Settings | None = None,
    before: Callable[[Rocketry], object] = lambda _: None,
) -> OTelRepoHandler:
    """Run a body once in an application that is instrumented meanwhile."""
    app = make_app()
    app.task(name="etl")(body)
    handler = instrument(app, settings=settings or Settings(), **telemetry.providers)
    try:
        before(app)
        run_tasks(app, "etl")
    finally:
        uninstrument(app)
    return handler


@pytest.mark.parametrize("execution", ["main", "async", "thread"])
def test_line_of_a_body_is_in_its_run(
    execution: str, telemetry: TelemetryCapture, logger: logging.Logger
) -> None:
    """No set-up is needed; the application's levels decide."""
    app = make_app(execution=execution)
    logger.setLevel(logging.WARNING)

    def body() -> None:
        logger.info("below the level")
        logger.warning("%d rows", 3, extra={"table": "orders"})

    app.task(name="etl", execution=execution)(body)
    instrument(app, **telemetry.providers)
    logger.warning("outside")
    run_tasks(app, "etl")
    uninstrument(app)
    (line,) = lines_of(telemetry)
    span = telemetry.span("etl")
    assert (line.trace_id, line.span_id) == (span.context.trace_id, span.context.span_id)
    assert (line.body, line.severity_text, line.event_name) == ("3 rows", "WARN", None)
    assert dict(line.attributes) == {
        "task_name": "etl",
        "rocketry.run_id": span.attributes["rocketry.run_id"],
        "table": "orders",
    }


def test_line_inside_of_a_span_belongs_to_it(
    telemetry: TelemetryCapture, logger: logging.Logger
) -> None:
    """Without any current span it belongs to the run."""
    tracer = telemetry.tracer_provider.get_tracer("test")
    inner = []

    def body() -> None:
        with tracer.start_as_current_span("inner") as span:
            inner.append(span.get_span_context().span_id)
            logger.warning("inside")
        token = attach(set_span_in_context(trace.INVALID_SPAN, Context()))
        logger.warning("no span")
        detach(token)

    run_body(telemetry, body)
    inside, bare = lines_of(telemetry)
    (run,) = [span for span in telemetry.spans if span.name == "run etl"]
    assert run.context is not None
    assert (inside.trace_id, inside.span_id) == (run.context.trace_id, inner[0])
    assert (bare.trace_id, bare.span_id) == (run.context.trace_id, run.context.span_id)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"log_lines": False}, []),
        ({"exceptions": "message"}, []),
        ({"exclude": ("etl",)}, []),
        ({"include": ("other",)}, []),
        ({"exceptions": "type", "log_lines": True}, [{"exception.type"}]),
        ({}, [{"exception.type", "exception.message", "exception.stacktrace"}]),
    ],
)
def test_settings_hold_for_lines(
    telemetry: TelemetryCapture,
    logger: logging.Logger,
    settings: dict[str, Any],
    expected: list[set[str]],
) -> None:
    """They are off where exceptions are hidden, unless they are switched on."""

    def body() -> None:
        try:
            raise ValueError("secret")
        except ValueError:
            logger.exception("failed")

    handler = run_body(telemetry, body, Settings(**settings))
    found = [
        set(line.attributes) - {"task_name", "rocketry.run_id"} for line in lines_of(telemetry)
    ]
    assert found == expected
    is_on = not ({"log_lines", "exceptions"} & set(settings)) or settings.get("log_lines") is True
    assert handler.sends_log_lines is is_on


@pytest.mark.parametrize("make_handler", [OtherHandler, sdk_handler])
def test_each_record_is_sent_once_beside_another_handler(
    make_handler: Callable[[], Any],
    telemetry: TelemetryCapture,
    root: logging.Logger,
    logger: logging.Logger,
) -> None:
    """The other handler sends the lines that it sees, and this project the records of runs."""
    other = make_handler()
    root.addHandler(other)
    other.addFilter(lambda record: "filtered" not in record.getMessage())

    def body() -> None:
        logger.warning("seen")
        logger.warning("filtered")
        logging.getLogger("rocketry.task").info("on the task logger", extra={"task_name": "etl"})

    run_body(telemetry, body)
    assert other.messages == ["seen"]
    assert [line.body for line in lines_of(telemetry)] == ["filtered", "on the task logger"]
    actions = [record.event_name for record in telemetry.log_records if record.event_name]
    assert actions == ["rocketry.task.run", "rocketry.task.success"]
    assert [type(one).__name__ for one in other.filters] == ["function"]


def test_other_handler_in_front_of_ours_gets_no_record_of_a_run(
    telemetry: TelemetryCapture,
) -> None:
    """It may be the first handler of the task logger itself."""
    other = OtherHandler()

    def put_in_front(_: Rocketry) -> None:
        logging.getLogger("rocketry.task").handlers.insert(0, other)

    run_body(telemetry, lambda: None, before=put_in_front)
    assert other.messages == []


def test_other_handler_keeps_the_records_of_excluded_tasks(
    telemetry: TelemetryCapture, root: logging.Logger
) -> None:
    """This project does not send them, and takes none from the other handler."""
    other = OtherHandler()
    root.addHandler(other)
    run_body(telemetry, lambda: None, Settings(exclude=("etl",)))
    assert other.messages == ["Task 'etl' status: 'run'", "Task 'etl' status: 'success'"]


def test_other_handler_keeps_what_no_provider_of_ours_sends(
    telemetry: TelemetryCapture, root: logging.Logger
) -> None:
    """Without a provider of log records, the other handler is the only one."""
    other = OtherHandler()
    root.addHandler(other)
    app = make_app()
    app.task(name="etl")(lambda: logging.getLogger("shop").warning("line"))
    providers = {**telemetry.providers, "logger_provider": NoOpLoggerProvider()}
    handler = instrument(app, **providers)
    run_tasks(app, "etl")
    uninstrument(app)
    assert len(other.messages) == 3
    assert not handler.sends_log_lines


@pytest.mark.parametrize("make_provider", [NoOpLoggerProvider, ProxyLoggerProvider])
def test_line_is_sent_if_the_other_handler_sends_nowhere(
    make_provider: Callable[[], Any],
    telemetry: TelemetryCapture,
    root: logging.Logger,
    logger: logging.Logger,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A handler without a provider sees a line, and sends it to nowhere."""
    monkeypatch.setattr(module, "get_logger_provider", ProxyLoggerProvider)
    root.addHandler(OtherHandler(provider=make_provider()))
    run_body(telemetry, lambda: logger.warning("line"))
    assert [line.body for line in lines_of(telemetry)] == ["line"]


def test_filter_that_is_added_later_comes_before_ours(
    telemetry: TelemetryCapture, root: logging.Logger, logger: logging.Logger
) -> None:
    """A line that it keeps from the other handler is sent by this project."""
    other = OtherHandler()
    root.addHandler(other)

    def body() -> None:
        logger.warning("theirs")
        other.addFilter(lambda _: False)
        logger.warning("ours")

    run_body(telemetry, body)
    assert other.messages == ["theirs"]
    assert [line.body for line in lines_of(telemetry)] == ["ours"]


def test_line_is_sent_if_the_other_handler_has_a_higher_level(
    telemetry: TelemetryCapture, root: logging.Logger, logger: logging.Logger
) -> None:
    """The other handler does not see it."""
    root.addHandler(OtherHandler(logging.ERROR))
    run_body(telemetry, lambda: logger.warning("line"))
    assert [line.body for line in lines_of(telemetry)] == ["line"]


def test_handler_behind_a_queue_sends_the_lines(
    telemetry: TelemetryCapture, root: logging.Logger, logger: logging.Logger
) -> None:
    """A listener that respects levels leaves the lower ones to this project."""
    waiting: queue.Queue[Any] = queue.Queue()
    other = OtherHandler(logging.ERROR)
    listener = logging.handlers.QueueListener(waiting, other, respect_handler_level=True)
    root.addHandler(logging.handlers.QueueHandler(waiting))
    listener.start()

    def body() -> None:
        logger.warning("ours")
        logger.error("theirs")

    run_body(telemetry, body)
    listener.stop()
    assert other.messages == ["theirs"]
    assert [line.body for line in lines_of(telemetry)] == ["ours"]


def test_handler_behind_a_buffer_sends_the_lines(
    telemetry: TelemetryCapture, root: logging.Logger, logger: logging.Logger
) -> None:
    """The records of runs are kept from it."""
    other = OtherHandler()
    buffer = logging.handlers.MemoryHandler(100, target=other)
    root.addHandler(buffer)

    def flush() -> None:
        buffer.flush()

    def body() -> None:
        logger.warning("theirs")

    run_body(telemetry, body, before=lambda app: app.session.hooks.scheduler_shutdown.append(flush))
    buffer.close()
    assert other.messages == ["theirs"]
    assert lines_of(telemetry) == []


def test_bare_handler_keeps_its_records_from_others(
    telemetry: TelemetryCapture, root: logging.Logger
) -> None:
    """It works without ``instrument`` and without the wrapper."""
    other = OtherHandler()
    root.addHandler(other)
    handler = OTelRepoHandler(open_repository("memory://"), **telemetry.providers)
    logger = logging.getLogger("rocketry.task")
    logger.handlers = [handler]
    for action in ("run", "success"):
        logger.handle(task_record(action, run_id="r1"))
    # Records of a logger that nothing has made yet.
    logger.handle(task_record("run", run_id="r2", name="rocketry.task.never.made"))
    assert other.messages == []
    assert len(telemetry.log_records) == 3


def test_bare_handler_survives_a_record_without_a_name(telemetry: TelemetryCapture) -> None:
    """A record that no logger has made may have any object as its name."""
    handler = OTelRepoHandler(open_repository("memory://"), **telemetry.providers)
    handler.handle(task_record("run", run_id="r1", name=7))
    assert len(telemetry.log_records) == 1


def test_other_handlers_are_not_asked_of_records_that_ours_does_not_take(
    telemetry: TelemetryCapture,
) -> None:
    """A level on our handler, or a name that it never handles."""
    handler = OTelRepoHandler(open_repository("memory://"), level=30, **telemetry.providers)
    assert not handler.sends(task_record("run"))
    assert not handler.sends(task_record("fail", name="opentelemetry.sdk"))
    assert handler.sends(task_record("fail", task_name=None))


def test_logging_is_as_before(
    telemetry: TelemetryCapture,
    root: logging.Logger,
    logger: logging.Logger,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The last resort prints, and ``basicConfig`` and ``dictConfig`` work after ``instrument``."""
    root.handlers[:] = []
    alone = logging.getLogger(f"{logger.name}.alone")
    alone.propagate = False

    def body() -> None:
        logger.warning("by the last resort")
        assert root.handlers == []
        logging.basicConfig(format="basic: %(message)s")
        logger.warning("configured")
        alone.warning("alone")

    run_body(telemetry, body)
    printed = capsys.readouterr().err.splitlines()
    assert printed == [
        *("by the last resort", "basic: configured", "alone"),
        # It is printed without this project, too.
        "basic: Task 'etl' status: 'success'",
    ]
    assert [line.body for line in lines_of(telemetry)] == [
        *("by the last resort", "configured", "alone"),
    ]


def test_line_survives_dict_config(telemetry: TelemetryCapture, logger: logging.Logger) -> None:
    """``dictConfig`` replaces handlers, and the wrapper is none."""
    own = logging.getLogger(f"{logger.name}.own")

    def body() -> None:
        logging.config.dictConfig(
            {"version": 1, "disable_existing_loggers": False, "loggers": {own.name: {"level": 10}}}
        )
        own.debug("fine")

    run_body(telemetry, body)
    assert [line.body for line in lines_of(telemetry)] == ["fine"]


def test_exporter_s_own_lines_are_not_sent(
    telemetry: TelemetryCapture, logger: logging.Logger
) -> None:
    """They would be exported without end: by name, by suppression, and while a line is sent."""

    class Talkative:
        def on_emit(self, _: object) -> None:
            logger.warning("from a processor")

        def shutdown(self) -> None:
            """Do nothing."""

        def force_flush(self, timeout_millis: int = 0) -> bool:
            return True

    telemetry.logger_provider.add_log_record_processor(Talkative())  # type: ignore[arg-type]

    def body() -> None:
        logging.getLogger("opentelemetry.sdk").warning("of the SDK")
        logging.getLogger("rocketry_otel").warning("of ours")
        with suppressed():
            logger.warning("of an exporter")
        logger.warning("a line")

    run_body(telemetry, body)
    assert [line.body for line in lines_of(telemetry)] == ["a line"]


def test_scheduler_s_lines_are_sent(telemetry: TelemetryCapture) -> None:
    """They belong to no trace; their actions are names of events."""
    logger = logging.getLogger("rocketry.scheduler")
    logger.setLevel(logging.INFO)
    try:
        run_body(telemetry, lambda: None)
    finally:
        logger.setLevel(logging.NOTSET)
    lines = [line for line in lines_of(telemetry) if line.body.startswith("Start")]
    assert [(line.body, line.event_name, line.trace_id) for line in lines] == [
        ("Starting up...", "rocketry.scheduler.setup", 0),
        ("Startup complete.", None, 0),
    ]


def test_two_applications_get_their_own_lines(logger: logging.Logger) -> None:
    """One of them has switched lines off."""
    scheduler = logging.getLogger("rocketry.scheduler")
    scheduler.setLevel(logging.INFO)
    captures = [TelemetryCapture(), TelemetryCapture()]
    apps = [make_app(), make_app()]
    for number, (app, capture) in enumerate(zip(apps, captures, strict=True)):
        app.task(name=f"etl{number}")(lambda number=number: logger.warning("body %d", number))
        settings = Settings(log_lines=number == 1)
        instrument(app, settings=settings, **capture.providers)
    for number, app in enumerate(apps):
        run_tasks(app, f"etl{number}")
    scheduler.setLevel(logging.NOTSET)
    for app in apps:
        uninstrument(app)
    silent, loud = ([line.body for line in lines_of(capture)] for capture in captures)
    assert silent == []
    assert [body for body in loud if body.startswith("body")] == ["body 1"]
    # Before the hooks of a start, it is not known which scheduler logs.
    assert "Starting up..." not in loud
    assert "Startup complete." in loud


def test_lines_go_on_when_another_application_ends(
    telemetry: TelemetryCapture, logger: logging.Logger
) -> None:
    """The wrapping is undone with the last application; the first may be collected before."""
    first, second = (Rocketry(config={"task_logger_basename": f"rocketry.task.x{n}"}) for n in "ab")
    instrument(first, **telemetry.providers)
    instrument(second, **telemetry.providers)
    wrapper = logging.Logger.callHandlers
    uninstrument(first)
    assert logging.Logger.callHandlers is wrapper
    uninstrument(second)
    assert logging.Logger.callHandlers is ORIGINAL


def test_wrapper_of_other_code_stays(
    telemetry: TelemetryCapture, logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our wrapper below it does nothing then; after another ``instrument`` lines go once."""
    app = make_app()
    app.task(name="etl")(lambda: logger.warning("line"))
    instrument(app, **telemetry.providers)
    ours = logging.Logger.callHandlers

    def other(self: logging.Logger, record: logging.LogRecord) -> None:
        ours(self, record)

    monkeypatch.setattr(logging.Logger, "callHandlers", other)
    uninstrument(app)
    assert logging.Logger.callHandlers is other
    logger.warning("unseen")
    instrument(app, **telemetry.providers)
    run_tasks(app, "etl")
    uninstrument(app)
    assert logging.Logger.callHandlers is other
    assert [line.body for line in lines_of(telemetry)] == ["line"]
    monkeypatch.undo()
    logging.Logger.callHandlers = ORIGINAL  # type: ignore[method-assign]


def test_raising_handler_of_the_application_costs_no_line(
    telemetry: TelemetryCapture, logger: logging.Logger
) -> None:
    """Its error reaches the body as before."""

    class Raising(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError(record.getMessage())

    logger.addHandler(Raising())
    caught = []

    def body() -> None:
        try:
            logger.warning("line")
        except OSError as error:
            caught.append(str(error))

    run_body(telemetry, body)
    assert caught == ["line"]
    assert [line.body for line in lines_of(telemetry)] == ["line"]


@pytest.mark.parametrize("broken", ["line_signal", "TaskRecordSender", "_is_sent_already"])
def test_error_of_ours_does_not_reach_the_body(
    broken: str,
    telemetry: TelemetryCapture,
    root: logging.Logger,
    logger: logging.Logger,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The body and the other handlers go on."""
    other = OtherHandler()
    root.addHandler(other)

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("broken")

    def body() -> None:
        other.setLevel(logging.ERROR)
        logger.warning("ours")
        other.setLevel(logging.NOTSET)
        logger.warning("theirs")

    monkeypatch.setattr(module, broken, fail)
    run_body(telemetry, body)
    assert "theirs" in other.messages
    assert telemetry.span("etl").attributes["rocketry.action"] == "success"


def test_line_with_arguments_that_do_not_fit_is_sent(
    telemetry: TelemetryCapture, logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message without its arguments is better than none."""
    monkeypatch.setattr(logging, "raiseExceptions", False)
    run_body(telemetry, lambda: logger.warning("%d rows", "no number"))
    assert [line.body for line in lines_of(telemetry)] == ["%d rows"]


def test_line_of_an_application_that_is_gone_is_not_sent(telemetry: TelemetryCapture) -> None:
    """Its bridge is collected while a thread of its body goes on."""
    handler = OTelRepoHandler(open_repository("memory://"), **telemetry.providers)
    hooks = SchedulerHooks(handler._bridge, handler.settings, make_app().session)
    lines = hooks.scheduler_lines
    assert lines is not None
    lines.send_record(task_record(name="shop"))
    assert len(telemetry.log_records) == 1
    _bridges.pop(hooks._key)
    lines.send_record(task_record(name="shop"))
    assert len(telemetry.log_records) == 1


def test_thread_without_the_context_has_no_run(
    telemetry: TelemetryCapture, logger: logging.Logger
) -> None:
    """Nothing outside of runs is sent."""

    def body() -> None:
        thread = threading.Thread(target=lambda: logger.warning("elsewhere"))
        thread.start()
        thread.join(LONG)

    run_body(telemetry, body)
    assert lines_of(telemetry) == []

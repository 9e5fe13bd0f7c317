"""Applications with a clock of their own (Rocketry's ``time_func``)."""

from __future__ import annotations

from rocketry_otel import current_run, instrument
from rocketry_otel.testing import ManualClock, TelemetryCapture
from tests.support.apps import make_app, run_tasks
from tests.support.otlp_receiver import OTLPReceiver
from tests.support.processes import run_python

SECOND = 1_000_000_000

# The clock of Rocketry's testing cookbook, sixty times as fast.
PROGRAM = """
import asyncio, datetime, time
from opentelemetry import trace
from rocketry import Rocketry
from rocketry.conditions import SchedulerCycles, TaskFinished
from rocketry_otel import current_run, instrument

began, fixed = time.time(), datetime.datetime(2014, 5, 31, 12, tzinfo=datetime.timezone.utc)
clock = lambda: fixed.timestamp() + (time.time() - began) * 60
app = Rocketry(config={"time_func": clock, "task_execution": "main"}, cycle_sleep=0.001)

def body():
    with trace.get_tracer("x").start_as_current_span("outer"):
        with trace.get_tracer("x").start_as_current_span("inner") as span:
            span.add_event("half")
            time.sleep(0.01)
    current_run().add_event("done")

async def async_body():
    body()

for mode in ("main", "async", "thread", "process"):
    function = async_body if mode == "async" else body
    app.session.create_task(func=function, name=mode, execution=mode).run()
app.session.config.shut_cond = (
    TaskFinished(task="main") & TaskFinished(task="async") & TaskFinished(task="thread")
    & TaskFinished(task="process")
)
handler = instrument(app)
app.run()
assert handler.flush(20)
"""


def test_run_and_body_have_the_clock_of_the_application_in_every_mode() -> None:
    """Spans and events of a body lie within its run, in the order in which they were."""
    with OTLPReceiver(grpc=False) as receiver:
        done = run_python(PROGRAM, env={"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint})
        assert done.returncode == 0, done.stderr
        spans = [item.span for item in receiver.spans]
    runs = {span.trace_id: span for span in spans if span.name.startswith("run ")}
    assert len(runs) == 4
    assert len(spans) == 12
    for run in runs.values():
        outer, inner = (
            next(one for one in spans if one.trace_id == run.trace_id and one.name == name)
            for name in ("outer", "inner")
        )
        (half,), (done,) = inner.events, run.events
        times = [
            run.start_time_unix_nano,
            outer.start_time_unix_nano,
            inner.start_time_unix_nano,
            half.time_unix_nano,
            inner.end_time_unix_nano,
            outer.end_time_unix_nano,
            done.time_unix_nano,
            run.end_time_unix_nano,
        ]
        assert times == sorted(times), run.name
        assert 1_401_537_600 * SECOND <= times[0] < 1_401_630_000 * SECOND
        # Ten milliseconds of the machine.
        assert times[4] - times[2] >= 60 * 9_000_000


def test_captured_telemetry_has_the_clock_of_the_test(telemetry: TelemetryCapture) -> None:
    """A body that moves a manual clock has spans, events and log records of exact times."""
    clock = ManualClock(1_000.0)
    app = make_app(time_func=clock)
    tracer = telemetry.tracer_provider.get_tracer("x")
    logger = telemetry.logger_provider.get_logger("x")

    def body() -> None:
        clock.advance(10)
        with tracer.start_as_current_span("child"):
            clock.advance(20)
            current_run().add_event("half")
        logger.emit(body="line")

    instrument(app, **telemetry.providers)
    app.session.create_task(func=body, name="etl")
    run_tasks(app, "etl")
    (child,) = [span for span in telemetry.spans if span.name == "child"]
    assert (child.start_time, child.end_time) == (1_010 * SECOND, 1_030 * SECOND)
    (event,) = telemetry.span("etl").events
    assert (event.name, event.timestamp) == ("half", 1_030 * SECOND)
    (line,) = [record for record in telemetry.log_records if record.body == "line"]
    assert line.observed_timestamp == 1_030 * SECOND

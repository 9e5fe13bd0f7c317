from __future__ import annotations

import pytest
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind

from rocketry_otel import OTelRepoHandler, Settings, instrument
from rocketry_otel.testing import ManualClock, TelemetryCapture, capture_telemetry
from tests.support import apps
from tests.support.apps import make_app, run_tasks


def test_example_of_the_documentation() -> None:
    """A user's test works, and can read the telemetry after the block."""
    app = make_app()
    app.session.create_task(func=apps.succeed, name="etl")
    with capture_telemetry(app) as telemetry:
        run_tasks(app, "etl")
    assert telemetry.span("etl").attributes["rocketry.action"] == "success"
    assert len(telemetry.log_records) == 2


def test_application_is_as_before_however_the_block_ends() -> None:
    """A test that fails within it does not take the next one along."""
    app = make_app()
    for _ in range(2):
        with pytest.raises(AssertionError), capture_telemetry(app) as telemetry:  # noqa: PT012
            handler = app.session.get_task_loggers(with_adapters=False)["rocketry.task"].handlers[0]
            assert isinstance(handler, OTelRepoHandler)
            raise AssertionError
        assert not app.session.hooks.task_execute
        assert telemetry.spans == []


def test_instrumented_application_is_instrumented_again_after_the_block(
    telemetry: TelemetryCapture,
) -> None:
    """Its repository, settings and hooks hold within the block, and its providers do after it."""
    app = make_app()
    app.session.create_task(func=apps.succeed, name="etl")
    arguments = {"settings": Settings(span_kind="server"), "name_span": lambda *_: "named"}
    repo = instrument(app, repo="memory://", **arguments, **telemetry.providers).repo
    with capture_telemetry(app) as captured:
        run_tasks(app, "etl")
    assert captured.span("etl").name == "named"
    assert captured.span("etl").kind is SpanKind.SERVER
    assert telemetry.spans == []
    run_tasks(app, "etl")
    assert [span.name for span in telemetry.spans] == ["named"]
    assert len(captured.spans) == 1
    assert [record.action for record in repo.filter_by().all()] == ["run", "success"] * 2


def test_span_that_is_not_the_only_one_is_an_error(telemetry: TelemetryCapture) -> None:
    """Asking for one span is an error if none or two were captured."""
    with pytest.raises(LookupError, match="0 spans of 'etl'"):
        telemetry.span("etl")
    tracer = telemetry.tracer_provider.get_tracer("test")
    for _ in range(2):
        tracer.start_span("run etl", attributes={"task_name": "etl"}).end()
    with pytest.raises(LookupError, match=r"2 spans of 'etl' .* \['run etl', 'run etl'\]"):
        telemetry.span("etl")


def test_clear_forgets_the_telemetry(telemetry: TelemetryCapture) -> None:
    """Between two parts of a test."""
    telemetry.tracer_provider.get_tracer("test").start_span("a").end()
    telemetry.logger_provider.get_logger("test").emit(body="b")
    assert (len(telemetry.spans), len(telemetry.log_records)) == (1, 1)
    assert telemetry.logger_provider.force_flush()
    telemetry.clear()
    assert (telemetry.spans, telemetry.log_records) == ([], [])


def test_metrics_are_those_of_now(telemetry: TelemetryCapture) -> None:
    """A metric that nothing recorded has no points."""
    assert telemetry.metric_points("x") == []
    telemetry.meter_provider.get_meter("test").create_counter("x").add(2, {"a": "b"})
    assert [point.value for point in telemetry.metric_points("x")] == [2]
    assert telemetry.metric_points("y") == []


def test_sampler_can_be_given() -> None:
    """A sampler can leave spans out."""
    with capture_telemetry(sampler=ALWAYS_OFF) as telemetry:
        telemetry.tracer_provider.get_tracer("test").start_span("a").end()
    assert telemetry.spans == []


def test_manual_clock_gives_exact_times(telemetry: TelemetryCapture) -> None:
    """Rocketry uses the test's clock, and a run has the length that the test chose."""
    clock = ManualClock(1_000.0)
    app = make_app(time_func=clock)
    handler = instrument(app, **telemetry.providers)
    app.session.create_task(func=lambda: clock.advance(90), name="etl")
    run_tasks(app, "etl")
    span = telemetry.span("etl")
    assert (span.start_time, span.end_time) == (1_000_000_000_000, 1_090_000_000_000)
    assert [record.created for record in handler.repo.filter_by().all()] == [1000.0, 1090.0]
    assert clock() == 1090.0

"""The environment of programs."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from opentelemetry.context import Context
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    TraceFlags,
    TraceState,
    set_span_in_context,
)
from rocketry.tasks import CommandTask

from rocketry_otel._instrumentation.current_run import CurrentRun, _current, current_run
from rocketry_otel._instrumentation.programs import add_context, commands
from rocketry_otel._model.annotations import Annotations
from tests.support.apps import make_app

SPAN = SpanContext(
    1, 2, is_remote=False, trace_flags=TraceFlags(1), trace_state=TraceState([("a", "b")])
)
TRACEPARENT = f"00-{1:032x}-{2:016x}-01"


def test_thread_without_a_context_uses_that_of_the_body() -> None:
    """The state of the trace is added; that of another trace is removed."""
    context = set_span_in_context(NonRecordingSpan(SPAN), Context())
    environ = {"TRACESTATE": "other=1", "BAGGAGE": "other=1", "HOME": "/"}
    add_context(environ, context, with_baggage=False)
    assert environ == {
        "TRACEPARENT": TRACEPARENT,
        "TRACESTATE": "a=b",
        "BAGGAGE": "other=1",
        "HOME": "/",
    }


def test_environment_outside_of_a_run_is_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is added."""
    monkeypatch.setenv("TRACEPARENT", "of the shell")
    assert current_run().environment()["TRACEPARENT"] == "of the shell"
    given = {"A": "1"}
    assert current_run().environment(given) == given
    assert current_run().environment(given) is not given


def command() -> Any:
    """Return a task that is a command, of an application of its own."""
    return CommandTask(command=["true"], name="etl", session=make_app().session)


def test_command_of_a_watched_session_has_the_environment_of_its_run() -> None:
    """Outside of a run it is as the task has it, as is an environment with a context of its own."""
    task = command()
    commands.watch(CommandTask, task.session)
    assert "env" not in task.get_kwargs_popen()
    run = CurrentRun("etl", annotations=Annotations(), add_context=lambda it: it.update(A="1"))
    token = _current.set(run)
    try:
        assert task.get_kwargs_popen()["env"]["A"] == "1"
        task.kwds_popen = {"env": {"TRACEPARENT": "of the application"}}
        assert task.get_kwargs_popen()["env"] == {"TRACEPARENT": "of the application"}
    finally:
        _current.reset(token)
        commands.unwatch(CommandTask, task.session)


def test_error_does_not_stop_the_command(caplog: pytest.LogCaptureFixture) -> None:
    """The program starts with the environment of its task."""

    def broken(_: dict[str, str]) -> None:
        raise RuntimeError("our own fault")

    task = command()
    commands.watch(CommandTask, task.session)
    token = _current.set(CurrentRun("etl", annotations=Annotations(), add_context=broken))
    try:
        with caplog.at_level(logging.DEBUG, "rocketry_otel"):
            assert "env" not in task.get_kwargs_popen()
    finally:
        _current.reset(token)
        commands.unwatch(CommandTask, task.session)
    assert "a call of get_kwargs_popen could not be followed" in caplog.text

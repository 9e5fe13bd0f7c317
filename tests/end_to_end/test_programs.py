"""Programs that tasks start, in the trace of their run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import baggage, trace
from opentelemetry.context import attach, detach
from rocketry.tasks import CommandTask

from rocketry_otel import Settings, current_run, instrument, open_repository, uninstrument
from tests.support.apps import MODES, make_app, run_tasks, start_method

ALL_MODES = [*MODES, ("process", "forkserver")]
WRITE = "import json, os, sys; json.dump(dict(os.environ), open(sys.argv[1], 'w'))"


@pytest.fixture(autouse=True)
def _nothing_sent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Send nothing: the programs are looked at. There is some baggage."""
    for signal in ("TRACES", "LOGS", "METRICS"):
        monkeypatch.setenv(f"OTEL_{signal}_EXPORTER", "none")
    monkeypatch.setenv("TRACEPARENT", "of the shell")
    monkeypatch.setenv("TRACESTATE", "of=the-shell")
    token = attach(baggage.set_baggage("team", "blue"))
    yield
    detach(token)


def start_a_program(file: str) -> None:
    """Start a program in a span of the body."""
    with trace.get_tracer("body").start_as_current_span("inner"):
        environ = current_run().environment()
        subprocess.run([sys.executable, "-c", WRITE, file], env=environ, check=True)


def run_task(
    make: Any, execution: str, method: str, settings: Settings | None = None
) -> tuple[Any, dict[str, str]]:
    """Run a task once; return its ``run`` record and the environment of its program."""
    before = dict(os.environ)
    with start_method(method):
        app = make_app(execution=execution)
        make(app.session)
        handler = instrument(app, repo=open_repository("memory://"), settings=settings)
        run_tasks(app, "etl")
        uninstrument(app)
    assert dict(os.environ) == before
    began, ended = handler.repo.filter_by().all()
    assert ended.action == "success"
    environ: dict[str, str] = json.loads(Path(os.environ["TEST_FILE"]).read_text(encoding="utf-8"))
    return began, environ


@pytest.mark.parametrize(("execution", "method"), ALL_MODES)
def test_command_finds_the_context_of_its_run(
    execution: str, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parent is the run's own span; the rest of the environment is as it was."""
    monkeypatch.setenv("TEST_FILE", str(tmp_path / "environment.json"))
    command = [sys.executable, "-c", WRITE, os.environ["TEST_FILE"]]

    def make(session: Any) -> None:
        CommandTask(command=command, name="etl", execution=execution, session=session)

    began, environ = run_task(make, execution, method)
    assert environ["TRACEPARENT"] == f"00-{began.trace_id}-{began.span_id}-03"
    assert "TRACESTATE" not in environ
    assert "BAGGAGE" not in environ
    assert environ["TEST_FILE"] == os.environ["TEST_FILE"]


@pytest.mark.parametrize(
    ("execution", "method"), [("async", "fork"), ("thread", "fork"), ("process", "forkserver")]
)
def test_program_of_a_body_finds_its_context(
    execution: str, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parent is the current span, in the trace of the run; the baggage comes by a setting."""
    monkeypatch.setenv("TEST_FILE", str(tmp_path / "environment.json"))

    def make(session: Any) -> None:
        file = os.environ["TEST_FILE"]
        options = {"execution": execution, "parameters": {"file": file}}
        session.create_task(func=start_a_program, name="etl", **options)

    began, environ = run_task(make, execution, method, Settings(propagate_baggage=True))
    version, trace_id, span_id, _ = environ["TRACEPARENT"].split("-")
    assert (version, trace_id, len(span_id)) == ("00", began.trace_id, 16)
    assert environ["BAGGAGE"] == "team=blue"
    assert "TRACESTATE" not in environ


def test_command_keeps_the_environment_that_its_task_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The context is added to a copy."""
    monkeypatch.setenv("TEST_FILE", str(tmp_path / "environment.json"))
    command = [sys.executable, "-c", WRITE, os.environ["TEST_FILE"]]
    given = {"COLOUR": "red"}

    def make(session: Any) -> None:
        CommandTask(command=command, name="etl", kwds_popen={"env": given}, session=session)

    began, environ = run_task(make, "main", "fork")
    assert environ["COLOUR"] == "red"
    assert "TEST_FILE" not in environ
    assert environ["TRACEPARENT"].split("-")[1] == began.trace_id
    assert given == {"COLOUR": "red"}


@pytest.mark.parametrize("settings", [Settings(), Settings(exclude=["etl"])])
def test_command_without_a_run_has_no_context(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A context that the task gives itself stays; an excluded task has none of ours."""
    monkeypatch.setenv("TEST_FILE", str(tmp_path / "environment.json"))
    command = [sys.executable, "-c", WRITE, os.environ["TEST_FILE"]]
    options = {} if settings.exclude else {"env": {"TRACEPARENT": "of the task"}}

    def make(session: Any) -> None:
        CommandTask(command=command, name="etl", kwds_popen=options, session=session)

    _, environ = run_task(make, "main", "fork", settings)
    expected = "of the shell" if settings.exclude else "of the task"
    assert environ["TRACEPARENT"] == expected

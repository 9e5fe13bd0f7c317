"""What a scheduler leaves behind when it stops, and what kept it from its work."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry._logs import SeverityNumber
from rocketry.conditions import SchedulerCycles
from rocketry.core import BaseCondition

from rocketry_otel import instrument, uninstrument
from rocketry_otel.testing import TelemetryCapture
from tests.support.apps import make_app, run_tasks, succeed
from tests.support.histories import named_by_the_environment
from tests.support.otlp_receiver import OTLPReceiver, attributes_of
from tests.support.processes import run_python

SCHEDULER = "rocketry.scheduler"

# Its scheduler dies of a condition.
PROGRAM = """
    from rocketry import Rocketry
    from rocketry.core import BaseCondition
    from rocketry_otel import instrument

    class Broken(BaseCondition):
        def observe(self, **_):
            raise LookupError("no such table")

    app = Rocketry(execution="main")
    app.session.create_task(func=lambda: None, name="etl", start_cond=Broken())
    instrument(app)
    app.run()
"""


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[OTLPReceiver]:
    """A receiver, named by the environment."""
    with named_by_the_environment(monkeypatch) as receiver:
        yield receiver


def lines_of(receiver: OTLPReceiver) -> list[Any]:
    """Return what the scheduler has logged."""
    return [one.log_record for one in receiver.log_records if one.scope.name == SCHEDULER]


def test_fatal_error_is_sent_before_the_process_ends(
    receiver: OTLPReceiver, tmp_path: Path
) -> None:
    """The last record names the error, with its traceback and the highest severity."""
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint}
    done = run_python(PROGRAM, cwd=tmp_path, env=env)
    assert done.returncode == 1
    assert "LookupError: no such table" in done.stderr
    error, fatal = lines_of(receiver)
    assert error.body.string_value == "Condition crashed for task 'etl'"
    assert (error.severity_number, error.severity_text) == (SeverityNumber.ERROR.value, "ERROR")
    assert fatal.body.string_value == "Fatal error encountered. Shutting down..."
    assert (fatal.severity_number, fatal.severity_text) == (SeverityNumber.FATAL.value, "FATAL")
    assert fatal.event_name == "rocketry.scheduler.crash"
    attributes = attributes_of(fatal.attributes)
    assert attributes["exception.type"] == "LookupError"
    assert attributes["exception.message"] == "no such table"
    assert attributes["exception.stacktrace"].endswith("LookupError: no such table")
    assert "in observe" in attributes["exception.stacktrace"]
    assert "rocketry.repeated" not in attributes


class Broken(BaseCondition):  # type: ignore[misc]  # Rocketry has no types
    """A condition that raises, with another text each time."""

    def observe(self, **_: Any) -> bool:
        """Raise an error."""
        raise LookupError(f"at {time.perf_counter_ns()}")


def test_error_of_each_cycle_is_two_records(
    receiver: OTLPReceiver, telemetry: TelemetryCapture
) -> None:
    """One is sent at once, and one at the end with the number of the others."""
    app = make_app(silence_cond_check=True)
    app.session.create_task(func=succeed, name="etl", start_cond=Broken())
    app.session.create_task(func=succeed, name="load", start_cond=Broken())
    app.session.config.shut_cond = SchedulerCycles() >= 20
    handler = instrument(app)
    app.run()
    assert handler.flush(20)
    uninstrument(app)
    counts: dict[str, list[Any]] = {}
    for line in lines_of(receiver):
        attributes = attributes_of(line.attributes)
        assert attributes["exception.type"] == "LookupError"
        counts.setdefault(line.body.string_value, []).append(attributes.get("rocketry.repeated"))
    assert counts == {
        "Condition crashed for task 'etl'": [None, 19],
        "Condition crashed for task 'load'": [None, 19],
    }


def wait_a_little() -> None:
    """Keep the scheduler for a moment."""
    time.sleep(0.05)


@pytest.mark.parametrize("execution", ["main", "thread"])
def test_run_that_keeps_the_scheduler_is_measured(
    execution: str, telemetry: TelemetryCapture
) -> None:
    """Only a task of mode main keeps it; the cycle takes as long."""
    app = make_app(execution=execution)
    app.session.create_task(func=wait_a_little, name="slow")
    instrument(app, **telemetry.providers)
    run_tasks(app, "slow", cycles=3)
    blocked = telemetry.metric_points("rocketry.scheduler.blocked")
    (cycles,) = telemetry.metric_points("rocketry.scheduler.cycle.duration")
    uninstrument(app)
    assert cycles.count == 3
    assert dict(cycles.attributes) == {}
    if execution == "thread":
        assert blocked == []
        return
    (point,) = blocked
    assert (dict(point.attributes), point.count) == ({"task_name": "slow"}, 1)
    assert point.sum >= 0.05
    assert cycles.max >= point.sum

"""The log lines of bodies, from the view of a collector."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rocketry_otel import Settings, instrument, uninstrument
from tests.support.apps import log_a_line, log_many_lines, make_app, run_tasks, start_method
from tests.support.otlp_receiver import Hang, OTLPReceiver, attributes_of

LONG = 20.0


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[OTLPReceiver]:
    """A collector that the environment names; nothing becomes global."""
    with OTLPReceiver(grpc=False) as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.http_endpoint)
        yield receiver


def lines_of(receiver: OTLPReceiver) -> list[Any]:
    """Return the log records that came from the loggers of the tests."""
    return [
        received.log_record
        for received in receiver.log_records
        if received.scope.name.startswith("tests.")
    ]


def run_once(
    body: Any, execution: str, path: Path, settings: Settings | None = None
) -> tuple[Any, bool]:
    """Run a body once; return the handler, and whether everything was accepted."""
    app = make_app(execution=execution)
    app.task(name="etl", execution=execution)(body)
    settings = settings or Settings(shutdown_timeout=LONG, global_providers=False)
    handler = instrument(app, repo=f"sqlite:///{path}/tasks.db", settings=settings)
    run_tasks(app, "etl")
    flushed = handler.flush()
    uninstrument(app)
    return handler, flushed


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_line_of_a_child_process_is_in_its_run(
    method: str, receiver: OTLPReceiver, tmp_path: Path
) -> None:
    """It is sent by the child, as its spans are."""
    with start_method(method):
        _, flushed = run_once(log_a_line, "process", tmp_path)
    assert flushed
    assert receiver.wait_for(lambda it: len(lines_of(it)) == 1, LONG)
    (line,) = lines_of(receiver)
    ((_, _, span),) = receiver.spans
    assert (line.trace_id, line.span_id) == (span.trace_id, span.span_id)
    assert line.body.string_value == "a line of 1"
    assert attributes_of(line.attributes)["task_name"] == "etl"


def test_lines_that_a_child_process_drops_are_counted(
    receiver: OTLPReceiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record that ends the run takes their number to the parent."""
    monkeypatch.setenv("OTEL_BLRP_MAX_QUEUE_SIZE", "10")

    receiver.behave(Hang())
    settings = Settings(shutdown_timeout=0.5, global_providers=False)
    with start_method("fork"):
        handler, flushed = run_once(log_many_lines, "process", tmp_path, settings)
    # Ten wait, and up to ten are in flight.
    assert 80 <= handler._pipeline.counters.of("logs", "dropped")["line_queue_full"] <= 90
    assert not flushed


@pytest.mark.slow
def test_body_that_logs_without_end_costs_no_record_of_a_run(
    receiver: OTLPReceiver, tmp_path: Path
) -> None:
    """Lines have a queue of their own; each is delivered, or dropped and counted."""
    logger = logging.getLogger("tests.many")

    def body() -> None:
        for number in range(100_000):
            logger.warning("line %d", number)

    logger.propagate = False
    logger.addHandler(logging.NullHandler())
    handler, flushed = run_once(body, "main", tmp_path)
    dropped = handler._pipeline.counters.of("logs", "dropped")
    assert set(dropped) <= {"line_queue_full"}
    assert flushed is not bool(dropped)
    assert len(lines_of(receiver)) == 100_000 - sum(dropped.values())
    events = [it.log_record.event_name for it in receiver.log_records if it.log_record.event_name]
    assert events == ["rocketry.task.run", "rocketry.task.success"]
    assert [span.name for _, _, span in receiver.spans] == ["run etl"]
    delivery = handler.delivery.logs
    assert delivery.delivered == len(lines_of(receiver)) + 2
    assert len(delivery.destinations) == 1

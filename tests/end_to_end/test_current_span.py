"""What a body adds to the current span, from the view of a collector."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from rocketry_otel import instrument, replay
from tests.support.apps import (
    annotate,
    annotate_and_fail,
    annotate_async,
    make_app,
    run_tasks,
    start_method,
)
from tests.support.histories import named_by_the_environment
from tests.support.otlp_receiver import OTLPReceiver, attributes_of


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[OTLPReceiver]:
    """A receiver, named by the environment."""
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    with named_by_the_environment(monkeypatch) as receiver:
        yield receiver


@pytest.mark.parametrize(
    ("execution", "method"),
    [
        ("main", "fork"),
        ("async", "fork"),
        ("thread", "fork"),
        ("process", "fork"),
        ("process", "spawn"),
        ("process", "forkserver"),
    ],
)
def test_body_adds_to_the_span_of_its_run(
    execution: str, method: str, receiver: OTLPReceiver, tmp_path: Path
) -> None:
    """Every call of a library is there, and a replay sends the same to the byte."""
    with start_method(method):
        app = make_app()
        handler = instrument(app, repo=f"sqlite:///{tmp_path}/tasks.db")
        good = annotate_async if execution == "async" else annotate
        app.session.create_task(func=good, name="good", execution=execution)
        app.session.create_task(func=annotate_and_fail, name="bad", execution=execution)
        run_tasks(app, "good")
        run_tasks(app, "bad")
    assert handler.flush(20.0)
    handler.close()
    spans = {one.span.name: one.span for one in receiver.spans}

    span = spans["run good"]
    attributes = attributes_of(span.attributes)
    assert {key: attributes[key] for key in ("rows", "rocketry.name")} == {
        "rows": 5,
        "rocketry.name": "nightly",
    }
    assert "rocketry.body_error" not in attributes
    assert (span.status.code, span.status.message) == (Status.STATUS_CODE_ERROR, "half of the rows")
    assert [event.name for event in span.events] == ["half", "exception"]
    assert attributes_of(span.events[1].attributes)["exception.message"] == "tried again"
    (link,) = span.links
    assert link.trace_id.hex() == f"{3:032x}"
    assert attributes_of(link.attributes) == {"why": "input"}

    span = spans["run bad"]
    assert span.status.message == "ValueError: boom"
    (event,) = span.events
    assert attributes_of(event.attributes)["exception.message"] == "boom"
    assert attributes_of(span.attributes)["rows"] == 5

    before = sorted(one.span.SerializeToString() for one in receiver.spans)
    assert replay(handler.repo).complete
    again = sorted(one.span.SerializeToString() for one in receiver.spans[2:])
    assert again == before

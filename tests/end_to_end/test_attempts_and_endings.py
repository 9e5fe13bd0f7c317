"""How a run ended, and which attempt it was, on real applications."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from rocketry.conds import true
from rocketry.core import BaseCondition

from rocketry_otel import Settings, instrument, open_repository, replay, uninstrument
from tests.support.apps import make_app, sleep, sleep_async, sleep_until_terminated
from tests.support.histories import log_records_of, named_by_the_environment, spans_of
from tests.support.otlp_receiver import OTLPReceiver, attributes_of

LONG = {"async": sleep_async, "thread": sleep_until_terminated, "process": sleep}


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[OTLPReceiver]:
    """A receiver, named by the environment."""
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    with named_by_the_environment(monkeypatch) as receiver:
        yield receiver


class When(BaseCondition):  # type: ignore[misc]  # Rocketry has no types
    """A condition that a function decides."""

    def __init__(self, is_true: Callable[[], bool]) -> None:
        """Ask a function."""
        super().__init__()
        self._is_true = is_true

    def observe(self, **_: Any) -> bool:
        """Return whether it is true."""
        return self._is_true()


@pytest.mark.parametrize("execution", list(LONG))
def test_reason_of_a_termination_is_on_the_span(execution: str, receiver: OTLPReceiver) -> None:
    """Each of the four reasons, and a replay of it all is the same to the byte."""
    app = make_app(execution=execution, max_process_count=9, instant_shutdown=True)
    session = app.session
    session.create_task(func=LONG[execution], name="timeout", timeout=0.01)
    session.create_task(func=LONG[execution], name="end_condition", end_cond=true)
    session.create_task(func=LONG[execution], name="requested")
    session.create_task(func=LONG[execution], name="shutdown")
    settings = Settings(log_lines=False)
    handler = instrument(app, repo=open_repository("memory://"), settings=settings)

    def terminate() -> None:
        if session["requested"].is_alive():
            session["requested"].terminate()

    for task in list(session.tasks):
        task.run()
    session.hooks.scheduler_cycle.append(terminate)
    ended = {"timeout", "end_condition", "requested"}
    session.config.shut_cond = When(
        lambda: {one.task_name for one in handler.repo.filter_by(action="terminate")} >= ended
    )
    app.run()
    assert handler.flush(20)
    found = {}
    for received in receiver.spans:
        attributes = attributes_of(received.span.attributes)
        found[attributes["task_name"]] = (
            attributes["rocketry.termination.reason"],
            attributes["error.type"],
            attributes["rocketry.action"],
        )
    assert found == {
        "timeout": ("timeout", "timeout", "terminate"),
        "end_condition": ("end_condition", "terminated", "terminate"),
        "requested": ("requested", "terminated", "terminate"),
        "shutdown": ("shutdown", "terminated", "terminate"),
    }
    live = spans_of(receiver), log_records_of(receiver)
    uninstrument(app)
    receiver.clear()
    assert replay(handler.repo).complete
    assert (spans_of(receiver), log_records_of(receiver)) == live

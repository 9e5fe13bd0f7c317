"""How a run ended, and which attempt it was, on real applications."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from rocketry.conds import retry, true
from rocketry.core import BaseCondition

from rocketry_otel import Settings, instrument, open_repository, replay, uninstrument
from tests.support.apps import fail, make_app, run_tasks, sleep, sleep_async, sleep_until_terminated
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


class Tries:
    """The body of a task that fails a few times."""

    def __init__(self, failures: int) -> None:
        """Fail so often, then succeed."""
        self._failures = failures

    def __call__(self) -> None:
        """Fail or succeed."""
        self._failures -= 1
        if self._failures >= 0:
            raise ValueError("not yet")


def attempts_of(receiver: OTLPReceiver) -> list[tuple[Any, Any, str]]:
    """Return attempt, limit and outcome of each run; each attempt links to the one before."""
    found, before = [], None
    spans = sorted(receiver.spans, key=lambda it: it.span.start_time_unix_nano)
    for received in spans:
        attributes = attributes_of(received.span.attributes)
        attempt, limit = (attributes.get(f"rocketry.attempt{it}") for it in ("", ".limit"))
        links = [
            link
            for link in received.span.links
            if attributes_of(link.attributes) == {"rocketry.link": "retry"}
        ]
        if attempt and attempt > 1:
            (link,) = links
            assert before is not None
            assert (link.trace_id, link.span_id) == (before.span.trace_id, before.span.span_id)
        else:
            assert links == []
        found.append((attempt, limit, attributes["rocketry.action"]))
        before = received
    return found


@pytest.mark.parametrize(
    ("execution", "condition", "failures", "limit"),
    [("main", retry(2), 2, 3), ("async", retry(2), 2, 3), ("thread", true & retry, 3, None)],
)
def test_each_attempt_has_its_number(
    execution: str, condition: Any, failures: int, limit: int | None, receiver: OTLPReceiver
) -> None:
    """The first is begun by a request; a replay of it all is the same to the byte."""
    app = make_app(execution=execution)
    app.session.create_task(func=Tries(failures), name="etl", start_cond=condition)
    settings = Settings(log_lines=False)
    handler = instrument(app, repo=open_repository("memory://"), settings=settings)
    app.session["etl"].run()
    app.session.config.shut_cond = When(
        lambda: bool(list(handler.repo.filter_by(action="success")))
    )
    app.run()
    assert handler.flush(20)
    assert attempts_of(receiver) == [
        *((number, limit, "fail") for number in range(1, failures + 1)),
        (failures + 1, limit, "success"),
    ]
    live = spans_of(receiver), log_records_of(receiver)
    uninstrument(app)
    receiver.clear()
    assert replay(handler.repo).complete
    assert (spans_of(receiver), log_records_of(receiver)) == live


def test_attempts_of_processes_go_on_after_a_restart(receiver: OTLPReceiver) -> None:
    """The numbers are stored; what Rocketry will not grant is not promised."""
    repo = open_repository("memory://")
    settings = Settings(log_lines=False)
    for number in (1, 2):
        app = make_app(execution="process")
        app.session.create_task(func=fail, name="etl", start_cond=retry(2))
        handler = instrument(app, repo=repo, settings=settings)
        if number == 1:
            app.session["etl"].run()
        ended = [2, 3][number - 1]
        app.session.config.shut_cond = When(
            lambda ended=ended: len(list(repo.filter_by(action="fail"))) >= ended
        )
        app.run()
        assert handler.flush(20)
        uninstrument(app)
    app = make_app(execution="main")
    app.session.create_task(func=fail, name="etl", start_cond=retry(2))
    handler = instrument(app, repo=repo, settings=settings)
    run_tasks(app, "etl", cycles=2)
    assert handler.flush(20)
    uninstrument(app)
    # The last run was asked for. Rocketry counts four failures then, and tries no more.
    assert attempts_of(receiver) == [
        (1, 3, "fail"),
        (2, 3, "fail"),
        (3, 3, "fail"),
        (1, None, "fail"),
    ]

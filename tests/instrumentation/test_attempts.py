"""Which attempt a run is."""

from __future__ import annotations

from typing import Any

import pytest
from redbird.repos import MemoryRepo
from rocketry.conds import after_success, daily, retry
from rocketry.log import MinimalRecord

from rocketry_otel import OTelRepoHandler, instrument, uninstrument
from rocketry_otel._instrumentation import attempts
from rocketry_otel._instrumentation.launching import Launching
from rocketry_otel.testing import TelemetryCapture
from tests.support.apps import make_app, succeed
from tests.support.records import START, task_record


class Tried:
    """A task whose records a test handles."""

    def __init__(self, telemetry: TelemetryCapture, condition: Any, model: Any = dict) -> None:
        """Begin with no run."""
        app = make_app()
        self.task = app.session.create_task(func=succeed, name="etl", start_cond=condition)
        self.handler = OTelRepoHandler(MemoryRepo(model=model), **telemetry.providers)
        self._now = START

    def log(self, *actions: str) -> None:
        """Log these records of the task."""
        for action in actions:
            self._now += 1
            self.handler.handle(task_record(action, created=self._now))
            self._be(action)

    def _be(self, action: str) -> None:
        """Let the task be as Rocketry lets it be after a record."""
        self.task.status = action
        setattr(self.task, f"_last_{action}", self._now)

    def launched(
        self, *, is_requested: bool = False, phase: str | None = None
    ) -> tuple[int | None, int | None]:
        """Return attempt and limit of a launch now, and log its beginning."""
        launching = Launching(self.task, self.handler._bridge, is_requested, phase=phase)
        found = self.handler._bridge.attempts.of(launching)
        self._now += 1
        added = found if self.handler.repo.model is dict else {}
        self.handler.handle(task_record("run", created=self._now))
        self._be("run")
        known = self.handler._bridge.attempts._known.get("etl")
        if known is not None and added:
            known.attempt = found["rocketry.attempt"]
        return found.get("rocketry.attempt"), found.get("rocketry.attempt.limit")


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (daily, (None, None)),
        (retry(0), (None, None)),
        (~retry(2), (None, None)),
        (daily & ~retry(2), (None, None)),
        (retry, (1, None)),
        (daily | retry(2), (1, 3)),
        (after_success("a") | (retry(1) & daily) | retry(4), (1, 5)),
        (retry(1) | retry, (1, None)),
    ],
)
def test_only_a_task_with_retry_has_attempts(
    condition: Any, expected: tuple[int | None, int | None], telemetry: TelemetryCapture
) -> None:
    """The limit is that of the most patient part."""
    assert Tried(telemetry, condition).launched() == expected


def test_request_and_slot_begin_anew(telemetry: TelemetryCapture) -> None:
    """The limit is left out where Rocketry counts earlier failures too."""
    tried = Tried(telemetry, daily | retry(2))
    assert tried.launched() == (1, 3)
    tried.log("fail")
    assert tried.launched() == (2, 3)
    tried.log("fail")
    assert tried.launched(is_requested=True) == (1, None)
    tried.log("fail")
    # Three failures in a row: retry is over, so a slot has begun it.
    assert tried.launched() == (1, None)
    tried.log("success")
    assert tried.launched() == (1, 3)


@pytest.mark.parametrize("ending", ["success", "inaction", "terminate", "crash"])
def test_other_ending_is_the_end_of_a_row(ending: str, telemetry: TelemetryCapture) -> None:
    """By Rocketry's rule; two records of a failure count twice."""
    tried = Tried(telemetry, retry(5))
    tried.log("run", "fail", "run", ending, "run", "fail", "fail")
    tried.handler.handle(task_record())
    assert tried.launched() == (3, 6)
    tried.handler.handle(task_record())
    tried.log(ending)
    assert tried.launched(is_requested=True) == (1, 6)


@pytest.mark.parametrize("phase", ["startup", "shutdown"])
def test_run_at_a_start_or_shutdown_is_the_first(phase: str, telemetry: TelemetryCapture) -> None:
    """That is its cause, also if the run before failed."""
    tried = Tried(telemetry, retry(5))
    tried.log("run", "fail")
    assert tried.launched(phase=phase) == (1, None)


def test_small_model_counts_by_failures(telemetry: TelemetryCapture) -> None:
    """It keeps no attempt: after a restart, the failures in a row are the attempts before."""
    tried = Tried(telemetry, retry(5), MinimalRecord)
    tried.log("run", "fail", "run", "fail")
    assert tried.launched() == (3, 6)


def test_memory_is_bounded(telemetry: TelemetryCapture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks under ever new names are forgotten, and read again."""
    monkeypatch.setattr(attempts, "_MOST", 2)
    tried = Tried(telemetry, retry(5))
    tried.log("run", "fail")
    for name in ("a", "b", "etl"):
        tried.task.name = name
        tried.launched()
    assert set(tried.handler._bridge.attempts._known) == {"etl"}


def test_count_equals_rocketrys_own(telemetry: TelemetryCapture) -> None:
    """Its condition is true exactly as long as our limit grants another attempt."""
    app = make_app()
    condition = retry(2)
    task = app.session.create_task(func=succeed, name="etl", start_cond=condition)
    handler = instrument(app, repo=MemoryRepo(model=dict), **telemetry.providers)
    limit = 3
    for number in range(1, limit + 1):
        found = handler._bridge.attempts.of(Launching(task, handler._bridge, number == 1))
        assert found == {"rocketry.attempt": number, "rocketry.attempt.limit": limit}
        task.log_running()
        handler._bridge.attempts._known["etl"].attempt = number
        task.log_failure()
        assert condition.observe(task=task, session=app.session) is (number < limit)
    uninstrument(app)

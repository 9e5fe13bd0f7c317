from __future__ import annotations

import contextvars
import time

from rocketry_otel import current_run
from rocketry_otel._instrumentation.current_run import CurrentRun, _current
from rocketry_otel._model.annotations import Annotations
from rocketry_otel._model.ids import RunIds


def test_no_run_does_nothing() -> None:
    """Code outside of a task can call all methods without a condition."""
    run = current_run()
    assert not run
    run.set_attribute("rows", 1)
    run.add_event("done", {"a": 1})
    assert (run.task_name, run.run_id, run.trace_id, run.span_id) == ("", None, "", "")


def test_run_has_name_and_ids() -> None:
    """The ids have hexadecimal digits in their full width."""
    run = CurrentRun("etl", "r1", RunIds(10, 11), Annotations())
    assert (run.task_name, run.run_id) == ("etl", "r1")
    assert (run.trace_id, run.span_id) == (f"{10:032x}", f"{11:016x}")
    assert run
    assert repr(run) == "CurrentRun(task_name='etl', run_id='r1')"


def test_run_is_found_only_in_its_context() -> None:
    """Another body does not see it."""
    run = CurrentRun("etl", None, RunIds(1, 2), Annotations())
    context = contextvars.copy_context()
    context.run(_current.set, run)
    assert context.run(current_run) is run
    assert not current_run()


def test_annotations_are_kept_for_the_span() -> None:
    """Attributes and events, with the current time, wait until the span is made."""
    annotations = Annotations()
    run = CurrentRun("etl", "r1", RunIds(1, 2), annotations)
    run.set_attribute("rows", 1)
    run.set_attribute("rows", 2)
    before = time.time_ns()
    run.add_event("downloaded", {"bytes": 52_000, "a": None})
    run.add_event("done")
    after = time.time_ns()
    assert annotations.attributes == {"rows": 2}
    first, second = annotations.events
    assert (first.name, first.attributes) == ("downloaded", (("a", "None"), ("bytes", 52_000)))
    assert (second.name, second.attributes) == ("done", ())
    assert before <= first.time <= second.time <= after

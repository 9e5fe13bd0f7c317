from __future__ import annotations

import pytest

from rocketry_otel._model.crashes import crash_fields
from rocketry_otel._model.event import parse_event
from rocketry_otel._model.ids import ids_of
from rocketry_otel._model.runs import Run
from rocketry_otel._model.signals import span_signal

BEGAN = parse_event(
    {
        "task_name": "etl",
        "action": "run",
        "created": 1_700_000_000.5,
        "run_id": "r1",
        "execution": "process",
    }
)
IDS = ids_of("etl", "r1", BEGAN.created)


def test_crash_record_names_its_run() -> None:
    """It has the fields of a stored record, with the ids of the run."""
    assert crash_fields(BEGAN, IDS, 1_700_000_002.0) == {
        "task_name": "etl",
        "action": "crash",
        "created": 1_700_000_002.0,
        "run_id": "r1",
        "execution": "process",
        "attributes": None,
        "trace_id": IDS.trace_hex,
        "span_id": IDS.span_hex,
    }


@pytest.mark.parametrize(
    ("exit_code", "attributes"),
    [
        (None, {}),
        (0, {"process.exit.code": 0}),
        (3, {"process.exit.code": 3}),
        (-9, {"rocketry.crash.signal": "SIGKILL"}),
        (-99, {"rocketry.crash.signal": "SIG99"}),
    ],
)
def test_span_shows_the_exit_of_the_child(
    exit_code: int | None, attributes: dict[str, object]
) -> None:
    """A code is a number; a signal has a name, whatever its number."""
    ended = parse_event(crash_fields(BEGAN, IDS, 1_700_000_002.0, exit_code))
    span = span_signal(Run(IDS, began=BEGAN, ended=ended), ended, "full")
    assert span.attributes == {
        "task_name": "etl",
        "rocketry.run_id": "r1",
        "rocketry.execution": "process",
        "rocketry.action": "crash",
        "error.type": "crash",
        "rocketry.end_estimated": True,
        **attributes,
    }
    assert span.end - span.start == 1_500_000_000
    assert span.error == "Task 'etl' status: 'crash'"

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic.v1 import ValidationError

from rocketry_otel import TaskEventRecord
from rocketry_otel._model.record import exact_record

NAMES = list(TaskEventRecord.__fields__)
VALUES = st.one_of(
    st.none(), st.text(max_size=5), st.integers(), st.floats(), st.booleans(), st.binary(max_size=3)
)
EXACT = {
    name: st.none()
    | {str: st.text(max_size=5), float: st.floats(allow_nan=False), int: st.integers()}[field.type_]
    for name, field in TaskEventRecord.__fields__.items()
}


def made_by_the_model(fields: dict[str, Any]) -> TaskEventRecord | None:
    """Return the record that the model makes; ``None`` if it refuses the fields."""
    try:
        return TaskEventRecord(**fields)
    except ValidationError:
        return None


@given(st.fixed_dictionaries({}, optional={**EXACT, "name": VALUES, "args": VALUES}))
def test_record_is_that_of_the_model(fields: dict[str, Any]) -> None:
    """Values, their order, and the fields that are set are the same."""
    record, expected = exact_record(fields), made_by_the_model(fields)
    assert (record is None) == (expected is None)
    if record is not None and expected is not None:
        assert type(record) is TaskEventRecord
        assert list(record.__dict__.items()) == list(expected.__dict__.items())
        assert record.__fields_set__ == expected.__fields_set__
        assert record.dict(exclude_unset=True) == expected.dict(exclude_unset=True)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(NAMES, VALUES)))
def test_other_types_are_left_to_the_model(fields: dict[str, Any]) -> None:
    """What it would convert or refuse is not taken."""
    record = exact_record(fields)
    if record is not None:
        expected = TaskEventRecord(**fields)
        assert repr(record) == repr(expected)


@pytest.mark.parametrize("missing", ["task_name", "action", "created"])
def test_required_fields_are_required(missing: str) -> None:
    """The model refuses a record without one."""
    fields = {"task_name": "etl", "action": "run", "created": 1.0}
    assert exact_record(fields) is not None
    del fields[missing]
    assert exact_record(fields) is None


def test_number_of_known_combinations_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond it, the types of each record are compared."""
    known: set[tuple[type, ...]] = set()
    monkeypatch.setattr("rocketry_otel._model.record._exact_types", known)
    monkeypatch.setattr("rocketry_otel._model.record._MOST_COMBINATIONS", 1)
    fields = {"task_name": "etl", "action": "run", "created": 1.0}
    assert exact_record(fields) is not None
    assert exact_record({**fields, "run_id": "r1"}) is not None
    assert exact_record({**fields, "run_id": 1}) is None
    assert len(known) == 1


def test_record_can_be_changed() -> None:
    """A user's change of one reaches no other."""
    fields = {"task_name": "etl", "action": "run", "created": 1.0}
    one, other = exact_record(fields), exact_record(fields)
    assert one is not None
    assert other is not None
    one.run_id = "r1"
    assert one.__fields_set__ == {"task_name", "action", "created", "run_id"}
    assert other.run_id is None
    assert other.__fields_set__ == {"task_name", "action", "created"}

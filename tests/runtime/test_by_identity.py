from __future__ import annotations

import gc

from rocketry_otel._runtime.by_identity import ByIdentity


class Equal:
    """Objects that are equal, and have no hash."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


def test_equal_objects_are_kept_apart() -> None:
    """A value belongs to the very object."""
    values, one, other = ByIdentity[str](), Equal(), Equal()
    values[one] = "one"
    assert (values.get(one), values.get(other)) == ("one", None)
    values[other] = "other"
    values[one] = "changed"
    assert [value for _, value in values.items()] == ["changed", "other"]
    assert [owner is its for (owner, _), its in zip(values.items(), (one, other), strict=True)] == [
        True,
        True,
    ]


def test_object_and_value_go_together() -> None:
    """A value that was replaced is gone at once."""
    values, one, other = ByIdentity[Equal](), Equal(), Equal()
    for owner in (one, other, other):
        values[owner] = Equal()
    del one
    gc.collect()
    assert len(values) == 1
    values.pop(other)
    values.pop(other)
    assert not values
    values[other] = other
    values.clear()
    assert values.items() == []


def test_object_that_dies_while_all_are_listed_is_left_out() -> None:
    """Its callback comes later, if it is part of a circle."""
    values, one = ByIdentity[int](), Equal()
    values[one] = 1
    weak, value = values._kept[id(one)]
    values._kept[0] = weak, value
    del one
    gc.collect()
    assert len(values) == 1
    assert values.items() == []

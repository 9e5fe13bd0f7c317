from __future__ import annotations

import datetime as dt
import enum
import json
import math
import numbers
from collections import deque
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rocketry_otel._model.plain_values import plain_value


class Evil:
    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__
    __getitem__ = __iter__ = __str__


class EvilList(list[int]):
    def __iter__(self) -> Any:
        raise RuntimeError("no")


class OddText(str):
    __slots__ = ()


class Level(enum.IntEnum):
    HIGH = 3


class Share(float, enum.Enum):
    HALF = 0.5


class Word(str, enum.Enum):  # Python 3.10 has no StrEnum
    YES = "yes"


class Color(enum.Enum):
    RED = 1


class Array:
    """What is used of a NumPy array or scalar, and of those of other libraries."""

    dtype = "any"

    def __init__(self, value: Any, ndim: int) -> None:
        self.value, self.ndim = value, ndim

    def __getitem__(self, where: slice) -> Array:
        return Array(self.value[where], self.ndim)

    def __str__(self) -> str:
        return f"[{self.value}]"

    def tolist(self) -> Any:
        return self.value


class Count(Array):
    """A scalar that is registered as a number, as those of NumPy are."""

    def __int__(self) -> int:
        return int(self.value)


numbers.Integral.register(Count)


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (True, True),
        (1, 1),
        (2**63 - 1, 2**63 - 1),
        (-(2**63), -(2**63)),
        (2**63, str(2**63)),
        (-(2**63) - 1, str(-(2**63) - 1)),
        (10**5000, "<int that cannot be shown>"),
        (1.5, 1.5),
        (math.nan, "nan"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        ("x", "x"),
        ("\ud800\x00", "\\ud800\\x00"),
        (OddText("x"), "x"),
        (None, "None"),
        (Evil(), "<Evil that cannot be shown>"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_value_is_of_a_type_that_otlp_carries(value: object, plain: object) -> None:
    """Truth values and numbers in range stay; every other value becomes clean text."""
    assert plain_value(value) == plain
    assert type(plain_value(value)) is type(plain)


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Level.HIGH, 3),
        (Share.HALF, 0.5),
        (Word.YES, "yes"),
        (Color.RED, "Color.RED"),
        (Decimal("1.5"), 1.5),
        (Decimal("sNaN"), "sNaN"),
        (Decimal("Infinity"), "Infinity"),
        (Fraction(1, 2), 0.5),
        (10**400 * Fraction(1), str(10**400)),
        (Array(7, 0), 7),
        (Array(True, 0), True),  # noqa: FBT003  # a value
        (Count(7, 0), 7),
        (Array([1, 2], 1), (1, 2)),
        (Array([[1], [2]], 2), "[[[1], [2]]]"),
        (dt.datetime(2026, 1, 2, 3, tzinfo=dt.timezone.utc), "2026-01-02T03:00:00+00:00"),
        (dt.date(2026, 1, 2), "2026-01-02"),
        (dt.time(3, 4), "03:04:00"),
        (dt.timedelta(days=1), "1 day, 0:00:00"),
        ({"a": 1}, "{'a': 1}"),
        (b"x", "b'x'"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_of_other_types_keep_their_meaning(value: object, plain: object) -> None:
    """Numbers of any library are numbers, and enumerations the type that they are based on."""
    assert plain_value(value) == plain
    assert type(plain_value(value)) is type(plain)


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        ([1, 2], (1, 2)),
        ((True, False), (True, False)),
        (["a", OddText("b")], ("a", "b")),
        ([1, 2.5], (1.0, 2.5)),
        ([Level.HIGH, Decimal(2), Count(1, 0)], (3.0, 2.0, 1.0)),
        ([Array(True, 0)], (True,)),  # noqa: FBT003
        ([Array([1], 1)], ("[[1]]",)),
        ([1, "a", None], ("1", "a", "None")),
        ([1, True], ("1", "True")),
        ([1.0, math.nan], ("1.0", "nan")),
        ({3, 1, 2}, (1, 2, 3)),
        ({"b": 1, "a": 2}.keys(), ("a", "b")),
        (range(3), (0, 1, 2)),
        (deque([1]), (1,)),
        ([[1], [2]], ("[1]", "[2]")),
        ([], ()),
        (EvilList([1]), "[1]"),
        ([Evil()], ("<Evil that cannot be shown>",)),
    ],
    ids=lambda value: str(type(value).__name__),
)
def test_sequences_are_lists_of_one_type(value: object, plain: Any) -> None:
    """A receiver may refuse a list of several types: those are numbers, or else texts."""
    result = plain_value(value)
    assert result == plain
    if isinstance(plain, tuple):
        assert [type(one) for one in result] == [type(one) for one in plain]  # type: ignore[union-attr]


@pytest.mark.parametrize("value", [range(10**9), [0] * 5000, Array([0] * 5000, 1)])
def test_long_sequences_are_cut(value: object) -> None:
    """A span is no place for a table, and a lazy one has no end."""
    assert len(plain_value(value)) == 1000  # type: ignore[arg-type]


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.decimals()
    | st.datetimes(),
    lambda one: st.lists(one, max_size=3) | st.sets(st.integers()) | st.tuples(one, one),
    max_leaves=6,
)


@given(anything)
def test_what_json_keeps_is_the_same(value: object) -> None:
    """A record keeps values as JSON, and a replay sends what it has read."""
    plain = plain_value(value)
    again = plain_value(json.loads(json.dumps(plain)))
    assert again == plain
    assert repr(again) == repr(plain)

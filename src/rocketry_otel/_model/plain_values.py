"""Values of attributes, in the types that OTLP carries and every repository keeps.

In: any object of a task's body. Out: a text, a number, a truth value, or a tuple of one of these
types. A second pass, after JSON, changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from datetime import date, time
from decimal import Decimal
from itertools import islice
from numbers import Integral, Real
from typing import Any

from .text import safe_text

PlainValue = str | bool | int | float
AttributeValue = PlainValue | tuple[PlainValue, ...]

# Each span, record and request keeps them whole.
_MOST_ELEMENTS = 1_000
_INT64 = range(-(2**63), 2**63)


def plain_value(value: object) -> AttributeValue:
    """Return a value as OTLP carries it; a value that has no other form is a text.

    Numbers of all libraries are numbers, such as those of NumPy and ``decimal``. A list, a set or
    an array of one dimension is a tuple of at most 1,000 values of one type.
    """
    if type(value) is str:
        return safe_text(value)
    if type(value) is bool or _is_plain_number(value):
        return value  # type: ignore[return-value]  # it is one of the three
    try:
        return _converted(value)
    except Exception:  # noqa: BLE001  # an object of the user's may raise anything
        return safe_text(value)


def _is_plain_number(value: object) -> bool:
    if type(value) is int:
        return value in _INT64
    return type(value) is float and math.isfinite(value)


def _converted(value: Any) -> AttributeValue:
    if hasattr(value, "dtype") and hasattr(value, "tolist"):
        # A scalar or an array of NumPy and its kin, which may be too large for a list.
        if value.ndim > 1:
            return safe_text(value)
        return plain_value((value[:_MOST_ELEMENTS] if value.ndim else value).tolist())
    if isinstance(value, Sequence | AbstractSet) and not isinstance(value, str | bytes | bytearray):
        values = _of_one_type([_plain_element(one) for one in islice(value, _MOST_ELEMENTS)])
        return tuple(sorted(values)) if isinstance(value, AbstractSet) else values
    return _plain_element(value)


def _plain_element(value: Any) -> PlainValue:
    if type(value) is bool:
        return value
    number: object = None
    if isinstance(value, Integral):
        number = int(value)
    elif isinstance(value, Real | Decimal):
        number = float(value)
    elif isinstance(value, date | time):
        return safe_text(value.isoformat())
    elif hasattr(value, "dtype") and not getattr(value, "ndim", 1):
        # The truth values of NumPy are no numbers.
        number = value.tolist()
    is_plain = type(number) is bool or _is_plain_number(number)
    return number if is_plain else safe_text(value)  # type: ignore[return-value]


def _of_one_type(values: list[PlainValue]) -> tuple[PlainValue, ...]:
    """Return values as OTLP's receivers expect them: numbers are floats if one of them is."""
    types = {type(value) for value in values}
    if types == {int, float}:
        return tuple(float(value) for value in values)
    if len(types) > 1:
        return tuple(safe_text(value) for value in values)
    return tuple(values)

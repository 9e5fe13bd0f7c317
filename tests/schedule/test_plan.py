"""When a run is due, by the parts of its start condition."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from rocketry import conds

from rocketry_otel._schedule.conditions import parse
from rocketry_otel._schedule.plan import alternatives_of
from rocketry_otel._schedule.slots import PeriodSlots


@pytest.mark.parametrize(
    ("condition", "is_timed"),
    [
        (conds.every("1 h") & conds.true, True),
        (conds.daily & conds.every("1 h"), True),
        (conds.daily & conds.running("report"), False),
        (conds.daily & conds.after_success("extract"), False),
        (conds.daily & conds.false, False),
    ],
)
def test_time_alone_decides_or_does_not(condition: Any, is_timed: bool) -> None:  # noqa: FBT001
    """A part that is always true changes nothing; any other part can hold a run back."""
    (alternative,) = alternatives_of(parse(condition), PeriodSlots(dt.timezone.utc))
    assert alternative.is_timed is is_timed

from __future__ import annotations

import datetime as dt

import pytest

from rocketry_otel._schedule.missed import RunTime, Why, reason_of
from rocketry_otel._schedule.slots import Slot

WALL = dt.datetime(2026, 1, 1)  # noqa: DTZ001
SLOT = Slot(WALL, WALL + dt.timedelta(seconds=60), 100.0, 160.0)


@pytest.mark.parametrize(
    ("runs", "most", "why"),
    [
        ([], None, Why("blocked")),
        ([RunTime("long", "main", 90.0)], None, Why("blocked", "long")),
        ([RunTime("long", "main", 90.0, 99.0), RunTime("x", "thread", 90.0)], 1, Why("blocked")),
        (
            [RunTime("a", "main", 100.0, 120.0), RunTime("b", "main", 120.0, 160.0)],
            None,
            Why("blocked", "b"),
        ),
        (
            [
                RunTime("a", "main", 100.0, 125.0),
                RunTime("b", "main", 125.0, 150.0),
                RunTime("a", "main", 150.0, 160.0),
            ],
            None,
            Why("blocked", "a"),
        ),
        ([RunTime("etl", "thread", 50.0), RunTime("a", "main", 150.0)], None, Why("running")),
        ([RunTime("p", "process", 0.0), RunTime("q", "process", 110.0)], 2, Why("limit")),
        ([RunTime("p", "process", 0.0), RunTime("q", "process", 110.0)], 3, Why("blocked")),
        (
            [RunTime("p", "process", 0.0, 120.0), RunTime("a", "main", 115.0, 160.0)],
            1,
            Why("blocked", "a"),
        ),
    ],
)
def test_reason_is_the_one_that_covers_the_most_of_the_slot(
    runs: list[RunTime], most: int | None, why: Why
) -> None:
    """Runs before and after the slot do not count; a reason's runs count together."""
    assert reason_of(SLOT, "etl", runs, most) == why

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from rocketry.conditions import IsPeriod
from rocketry.core.time.base import TimePeriod

from rocketry_otel._schedule.conditions import parse
from rocketry_otel._schedule.explanation import part_of
from tests.schedule.programs import world


class Always(TimePeriod):
    """A period of an application that knows no beginning."""

    def __contains__(self, _at: dt.datetime) -> bool:
        """Return true."""
        return True

    def rollback(self, _at: dt.datetime) -> Any:
        """Fail."""
        raise RuntimeError("it has no beginning")


def test_verdict_of_a_period_that_raises_has_no_time(caplog: pytest.LogCaptureFixture) -> None:
    """The verdict itself is known, and Rocketry's."""
    caplog.set_level("DEBUG", "rocketry_otel")
    with world() as it:
        it.use(IsPeriod(period=Always()))
        part = part_of(parse(it.task.start_cond), it.moment())
        assert part.verdict is it.rocketrys() is True
        assert part.since is None
    assert "the time of a verdict is not known" in caplog.text

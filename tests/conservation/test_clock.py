"""A clock that does not do what clocks should."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.committed import Store
from tests.support.scenario import trial

from .shared import SMALL_QUEUES, full_run

HOUR = 3600

pytestmark = full_run


@pytest.mark.parametrize(
    ("kind", "jump", "is_away"),
    [
        ("sqlite", -HOUR, False),
        ("sqlite", -HOUR, True),
        ("sqlite", HOUR, True),
        ("csv", -HOUR, True),
        ("json", -HOUR, True),
    ],
)
def test_jumping_clock_loses_nothing(
    kind: str,
    jump: int,
    make_store: Callable[[str], Store],
    tmp_path: Path,
    *,
    is_away: bool,
) -> None:
    """The clock jumps while the application runs, before a kill: all committed records arrive."""
    with trial(tmp_path, make_store(kind), **SMALL_QUEUES) as one:
        generation = one.begin()
        generation.await_records(100)
        if is_away:
            one.collector.stop()
            generation.await_records(60)
        generation.say("clock", jump)
        one.note(f"the clock jumps by {jump} s")
        # Long enough that what is delivered is noted, at the time that the clock shows now.
        generation.await_records(200)
        one.kill(generation)
        one.collector.get_well()
        # With the true time again.
        one.begin(CONSERVATION_PAUSED="1")
        one.settle()


def test_corrected_clock_delivers_earlier_records(
    make_store: Callable[[str], Store], tmp_path: Path
) -> None:
    """One process has its clock set twice in an outage; all arrives without a restart."""
    with trial(tmp_path, make_store("sqlite"), **SMALL_QUEUES) as one:
        one.collector.stop()
        generation = one.begin()
        for jump in (-HOUR, 0, HOUR, 0):
            generation.await_records(60)
            generation.say("clock", jump)
        generation.await_records(60)
        generation.pause()
        one.collector.get_well()
        one.settle()
        assert generation.say("flush", 20) is True

"""A long history that waits to be delivered."""

from __future__ import annotations

from pathlib import Path

from support.catching_up import await_all, behind, catch_up

from .shared import full_run

FEW = 5_000
MANY = 20_000
MEGABYTES = 25


@full_run
def test_memory_does_not_grow_with_what_is_behind(tmp_path: Path) -> None:
    """Four times as much to catch up with takes hardly more memory."""
    measured = []
    for records in (FEW, MANY):
        directory = tmp_path / str(records)
        directory.mkdir()
        measured.append(catch_up(directory, records, timeout=120))
    few, many = measured
    assert many.megabytes - few.megabytes < MEGABYTES, measured


@full_run
def test_killed_while_it_catches_up_an_application_goes_on_where_it_was(tmp_path: Path) -> None:
    """Each life goes on about where the one before was killed, and not from the beginning."""
    with behind(tmp_path, MANY) as (one, collector):
        for _ in range(4):
            life = one.begin(CONSERVATION_PAUSED="1")
            before = len(collector.log_records_seen)
            assert collector.wait_for(
                lambda _, before=before: len(collector.log_records_seen) >= before + MANY // 6, 60
            ), one.report([f"nothing more arrives after {before} records"])
            one.kill(life)
        one.begin(CONSERVATION_PAUSED="1")
        count = await_all(one, collector, 60)
        # From the beginning each time it would be more than twice as many.
        assert collector.log_records_sent < 1.7 * count

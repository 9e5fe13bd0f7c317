"""A long history that waits to be delivered."""

from __future__ import annotations

from pathlib import Path

from support.catching_up import catch_up

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

"""The delivery state as another program reads it."""

from __future__ import annotations

from pathlib import Path

import pytest

from rocketry_otel import RepositoryError
from rocketry_otel._delivery.checkpoint import Backlog, Checkpoint, DeadLetter
from rocketry_otel._delivery.crash_records import CrashRecords
from rocketry_otel._delivery.state import State
from rocketry_otel._delivery.stored_state import ChannelState, Refused, StoredState
from rocketry_otel._model.ids import RunIds

IDS = RunIds(1, 2)


def files(folder: Path) -> list[tuple[str, int]]:
    """Return name and time of each file."""
    return sorted((path.name, path.stat().st_mtime_ns) for path in folder.iterdir())


@pytest.mark.parametrize("has_folder", [True, False])
def test_state_that_does_not_exist(has_folder: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """It is empty, and is not made."""
    state = StoredState(tmp_path / "none" if has_folder else None)
    assert (state.exists, state.channels(), state.refused(), state.unknown_until()) == (
        *(False, [], []),
        None,
    )
    assert (state.has(IDS), state.all()) == (False, [])
    assert list(tmp_path.iterdir()) == []


def test_state(tmp_path: Path) -> None:
    """Checkpoints and backlogs together, dead letters, and crash records by their times."""
    application = State(tmp_path)
    application.save({"logs c": Checkpoint(50, 2), "traces c": Checkpoint(90, 0)}, first=10)
    application.take_on({"logs c": Backlog(20, waiting=3, reached=30)})
    application.add_dead_letters("logs c", [DeadLetter(7, "etl", "run", "odd")], 1.5)
    state = StoredState(tmp_path)
    assert state.all() == []
    crashes = CrashRecords(tmp_path)
    for number, created in ((1, 9.0), (3, 4.0)):
        ids = RunIds(number, 2)
        crashes.add({"trace_id": ids.trace_hex, "span_id": ids.span_hex, "created": created})
    before = files(tmp_path)
    assert state.channels() == [ChannelState("logs c", 5, 30), ChannelState("traces c", 0, 90)]
    assert state.refused() == [Refused("logs c", 7, "etl", "run", "odd", 1.5)]
    assert state.unknown_until() == 9
    assert [fields["created"] for fields in state.all()] == [4.0, 9.0]
    assert (state.has(IDS), state.has(RunIds(9, 9))) == (True, False)
    assert files(tmp_path) == before
    application.leave()


def test_damaged_state(tmp_path: Path) -> None:
    """An error with the folder; the file stays as it is."""
    (tmp_path / "delivery.db").write_bytes(b"x" * 9000)
    with pytest.raises(RepositoryError, match=str(tmp_path)):
        StoredState(tmp_path).channels()
    assert (tmp_path / "delivery.db").read_bytes() == b"x" * 9000

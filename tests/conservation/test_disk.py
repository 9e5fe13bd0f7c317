"""A disk that is full, under the repository or under what is known of the delivery."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import committed
from tests.support.arrivals import Arrivals, record_key, span_key
from tests.support.committed import Store
from tests.support.scenario import SETTLE_SECONDS, Scenario, trial

from .shared import SMALL_QUEUES, full_run

KINDS = ["sqlite", "csv", "json"]

pytestmark = full_run
# Of these Rocketry ends at the first error; it waits for others before that.
TASKS = {"CONSERVATION_TASKS": "main"}


@contextmanager
def small_disk(place: Path) -> Iterator[Path]:
    """Mount a file system of sixteen megabytes, or skip the test without the right to."""
    place.mkdir()
    options = ["-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)]
    if os.getuid() != 0 or subprocess.run(["mount", *options], check=False).returncode:  # noqa: S607
        pytest.skip("only root may mount a small file system")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)  # noqa: S607


def fill(place: Path) -> Path:
    """Leave no space on a disk; return the file that takes it."""
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (65_536, 4_096, 512, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    return filler


def unfit(one: Scenario, delivered: Arrivals) -> list[str]:
    """Return what is wrong with what arrived, but for spans of which the full disk has a part.

    What could not be written is sent all the same. So an ending that arrived may be missing in
    the repository, where the run then counts as crashed; or the beginning may be, and Rocketry
    goes on with such a run after it has logged that it failed.
    """
    rows = one.committed()
    known = {span_key(it) for it in rows if it.action == "run"}
    known &= {span_key(it) for it in rows if it.action not in {"run", "crash"}}
    keys = {record_key(it) for it in rows}
    return Arrivals(
        {key: copies for key, copies in delivered.spans.items() if key in known},
        {key: copies for key, copies in delivered.log_records.items() if key in keys},
    ).untrue(rows)


def file_size(kind: str, tmp_path: Path) -> int:
    """Return a limit for the size of files: the present size of the repository."""
    path = {"sqlite": tmp_path / "tasks.db", "csv": tmp_path / "tasks.csv"}.get(kind)
    return 0 if path is None else path.stat().st_size


@pytest.mark.parametrize("kind", KINDS)
def test_file_size_limit_loses_no_committed_record(
    kind: str, make_store: Callable[[str], Store], tmp_path: Path
) -> None:
    """Rocketry gets the error of an unwritten record, and the written ones are delivered."""
    ends = {}
    for handler in ("plain", "ours"):
        path = tmp_path / handler
        path.mkdir()
        makers = {
            "sqlite": committed.sqlite,
            "csv": committed.csv_file,
            "json": committed.json_directory,
        }
        # Tasks in the scheduler's own thread: the first to fail is the same each time.
        more = {"CONSERVATION_TASKS": "main", "CONSERVATION_HANDLER": handler}
        with trial(path, makers[kind](path), **more) as one:
            generation = one.begin()
            generation.await_records()
            generation.say("file_size", file_size(kind, path))
            one.note("no file may grow")
            ends[handler] = generation.await_failure()
            if handler == "ours":
                one.begin(CONSERVATION_PAUSED="1")
                one.await_arrival(one.committed(), SETTLE_SECONDS)
                assert not unfit(one, one.delivered())
    assert ends["ours"] == ends["plain"]
    assert "TaskLoggingError" in ends["ours"]


@pytest.mark.parametrize(
    ("kind", "is_away"),
    [("sqlite", True), ("csv", False), ("json", True)],
    ids=["sqlite-away", "csv-well", "json-away"],
)
def test_full_disk_loses_no_committed_record(kind: str, tmp_path: Path, *, is_away: bool) -> None:
    """The disk of repository and state fills up; when it has space again all is delivered."""
    with small_disk(tmp_path / "disk") as disk:
        makers = {
            "sqlite": committed.sqlite,
            "csv": committed.csv_file,
            "json": committed.json_directory,
        }
        with trial(tmp_path, makers[kind](disk), **SMALL_QUEUES, **TASKS) as one:
            one.environment["ROCKETRY_OTEL_STATE_DIR"] = str(disk / "state")
            generation = one.begin()
            generation.await_records(100)
            if is_away:
                one.collector.stop()
                generation.await_records(60)
            filler = fill(disk)
            one.note("the disk is full")
            assert "TaskLoggingError" in generation.await_failure()
            # Nor can it start, or it starts and cannot log the crashes of the tasks it cut off.
            generation = one.start(CONSERVATION_PAUSED="1")
            generation.is_over_within(3)
            one.kill(generation)
            filler.unlink()
            one.note("there is space again")
            one.collector.get_well()
            generation = one.begin()
            generation.await_records(60)
            generation.pause()
            one.await_arrival(one.committed(), SETTLE_SECONDS)
            assert not unfit(one, one.delivered())


def test_full_disk_of_the_state_stops_no_task(
    make_store: Callable[[str], Store], tmp_path: Path
) -> None:
    """Checkpoints cannot be stored, tasks go on, and all is delivered."""
    with (
        small_disk(tmp_path / "disk") as disk,
        trial(tmp_path, make_store("sqlite"), **SMALL_QUEUES) as one,
    ):
        one.environment["ROCKETRY_OTEL_STATE_DIR"] = str(disk / "state")
        generation = one.begin()
        generation.await_records(100)
        filler = fill(disk)
        one.note("the disk is full")
        one.collector.stop()
        generation.await_records(150)
        one.collector.get_well()
        generation.await_records(20)
        one.settle()
        one.kill(generation)
        # With the disk still full: what the first has left waits until it can be noted.
        generation = one.begin(CONSERVATION_PAUSED="1")
        filler.unlink()
        one.note("there is space again")
        one.settle()
        assert generation.stop() == 0
        assert "Traceback" not in generation.stderr


def test_slow_disk_of_the_state_loses_nothing(
    make_store: Callable[[str], Store], tmp_path: Path
) -> None:
    """Records that come while a takeover is being stored are sent too."""
    slow = {"CONSERVATION_SLOW_DISK": "0.3"}
    with trial(tmp_path, make_store("sqlite"), **slow, **SMALL_QUEUES) as one:
        one.collector.stop()
        generation = one.begin()
        generation.await_records()
        one.collector.get_well()
        # Its tasks go on while it begins to catch up.
        generation.await_records(300)
        generation.pause()
        one.settle()
        assert generation.say("flush", 20) is True

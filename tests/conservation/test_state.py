"""What is known of the delivery is lost, damaged, of the future, or cannot be kept."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.committed import Store
from tests.support.scenario import AppProcess, Scenario, trial

from .shared import SMALL_QUEUES, full_run

YEAR_2100 = 4_102_444_800 * 10**9


def lose(one: Scenario) -> None:
    """Remove all of it."""
    shutil.rmtree(one.state)


def fill_with_garbage(one: Scenario) -> None:
    """Overwrite each file with garbage."""
    for path in _files(one):
        path.write_bytes(os.urandom(5_000))


def truncate(one: Scenario) -> None:
    """Cut each file in half."""
    for path in _files(one):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(one: Scenario) -> None:
    """Leave nothing in any file."""
    for path in _files(one):
        path.write_bytes(b"")


def damage_a_page(one: Scenario) -> None:
    """Overwrite the middle of the databases, so that they still open."""
    for path in one.databases():
        data = bytearray(path.read_bytes())
        data[4_096 : len(data) - 100] = os.urandom(len(data) - 4_196)
        path.write_bytes(data)


def put_into_the_future(one: Scenario) -> None:
    """Let all be delivered until the year 2100."""
    for path in one.databases():
        with closing(sqlite3.connect(path)) as connection, connection:
            for table in ("writer", "backlog"):
                connection.execute(f"UPDATE {table} SET since = ?", (YEAR_2100,))  # noqa: S608


def take_away_the_locks(one: Scenario) -> None:
    """Remove the locks that show which processes live."""
    for path in one.state.glob("**/*.lock"):
        path.unlink()


HARMS = [
    lose,
    fill_with_garbage,
    truncate,
    empty,
    damage_a_page,
    put_into_the_future,
    take_away_the_locks,
]


def _files(one: Scenario) -> list[Path]:
    return [path for path in one.state.glob("**/*") if path.is_file()]


def await_state(one: Scenario) -> None:
    """Wait until a checkpoint is stored."""
    assert one.databases(), one.report(["nothing is kept of the delivery"])


@pytest.mark.parametrize(
    "harm", [lose, *(pytest.param(harm, marks=full_run) for harm in HARMS if harm is not lose)]
)
def test_harmed_state_between_processes_loses_nothing(
    harm: Callable[[Scenario], None], make_store: Callable[[str], Store], tmp_path: Path
) -> None:
    """All committed records arrive after any damage."""
    with trial(tmp_path, make_store("sqlite"), **SMALL_QUEUES) as one:
        first = one.begin()
        first.await_records()
        one.collector.stop()
        first.await_records()
        one.kill(first)
        await_state(one)
        harm(one)
        one.note(harm.__name__)
        one.collector.get_well()
        one.begin(CONSERVATION_PAUSED="1")
        one.settle()


@full_run
@pytest.mark.parametrize("harm", [lose, fill_with_garbage])
def test_harmed_state_of_a_running_process_loses_nothing(
    harm: Callable[[Scenario], None], make_store: Callable[[str], Store], tmp_path: Path
) -> None:
    """The application goes on and delivers all, also if it is killed then."""
    with trial(tmp_path, make_store("csv"), **SMALL_QUEUES) as one:
        one.collector.stop()
        generation = one.begin()
        generation.await_records()
        await_state(one)
        harm(one)
        one.note(harm.__name__)
        generation.await_records()
        one.kill(generation)
        one.collector.get_well()
        one.begin(CONSERVATION_PAUSED="1")
        one.settle()


@full_run
def test_state_is_beside_the_repository(make_store: Callable[[str], Store], tmp_path: Path) -> None:
    """Without a setting the state is there, or in the user's directory."""
    with trial(tmp_path, make_store("sqlite")) as one:
        del one.environment["ROCKETRY_OTEL_STATE_DIR"]
        one.collector.stop()
        generation = one.begin()
        generation.await_records()
        assert one.databases() == [tmp_path / "tasks.db.delivery" / "delivery.db"]
        one.kill(generation)
        one.collector.get_well()
        one.begin(CONSERVATION_PAUSED="1")
        one.settle()


def _check_delivery_and_warning(one: Scenario, generation: AppProcess) -> None:
    """Check that tasks go on, all their records are delivered, and there is one warning."""
    generation.await_records()
    one.collector.stop()
    generation.await_records()
    generation.pause()
    one.collector.get_well()
    one.settle()
    assert generation.stop() == 0
    warnings = [line for line in generation.stderr.splitlines() if "cannot be stored" in line]
    assert len(warnings) == 1, generation.stderr
    assert "Traceback" not in generation.stderr


def test_tasks_go_on_without_a_folder_for_the_state(
    make_store: Callable[[str], Store], tmp_path: Path
) -> None:
    """If the folder cannot be made, there is one warning and all is delivered."""
    (tmp_path / "file").touch()
    place = str(tmp_path / "file" / "state")
    with trial(tmp_path, make_store("sqlite"), **SMALL_QUEUES) as one:
        generation = one.begin(ROCKETRY_OTEL_STATE_DIR=place)
        _check_delivery_and_warning(one, generation)


@full_run
def test_tasks_go_on_with_a_read_only_folder(
    make_store: Callable[[str], Store], tmp_path: Path
) -> None:
    """It costs one warning, and nothing else."""
    if os.getuid() == 0:
        pytest.skip("no permission is lacking to root: see the test before")
    with trial(tmp_path, make_store("sqlite"), **SMALL_QUEUES) as one:
        one.state.mkdir(mode=0o500)
        generation = one.begin()
        _check_delivery_and_warning(one, generation)

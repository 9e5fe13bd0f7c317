"""What is removed from a repository, and above all what is not."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from redbird.base import BaseRepo
from redbird.repos import MemoryRepo
from rocketry.conds import daily
from rocketry.log import MinimalRecord

from rocketry_otel import RepositoryError, instrument, open_repository, uninstrument
from rocketry_otel._history.retention import prune
from rocketry_otel._history.streams.stream_of import stream_of
from rocketry_otel._model.retention import Retention
from rocketry_otel.testing import TelemetryCapture
from tests.repositories.records import record
from tests.support import apps
from tests.support.apps import make_app, run_tasks
from tests.support.processes import clean_environment, run_python
from tests.support.repositories import KINDS, PLAIN, Make
from tests.support.stored import records

pytestmark = pytest.mark.slow

SECOND = 1_000_000_000
NOW = 1_000 * SECOND
# There no order is kept, and it is that of the times.
BY_TIME = {"plain-json", "plain-mongodb", "plain-sqlite-text"}
PRUNABLE = [kind for kind in (*KINDS, *PLAIN) if kind != "plain-csv"]

Row = tuple[str, str, float] | tuple[str, str, float, str | None]


def fill(repo: BaseRepo, *rows: Row) -> None:
    """Add records: task name, action, time and perhaps run id."""
    for number, (task_name, action, created, *run_id) in enumerate(rows):
        one = record(task_name, action, created, message=f"{number:03d}")
        repo.add(repo.model(**{**one.dict(), "run_id": run_id[0] if run_id else None}))


def left(repo: BaseRepo) -> list[float]:
    """Return the times of the remaining records."""
    return [float(fields["created"]) for fields in records(repo)]


def runs(task_name: str, *times: float, action: str = "success") -> list[Row]:
    """Return runs of a second each."""
    return [
        row
        for time in times
        for row in (
            (task_name, "run", time, f"{task_name}{time}"),
            (task_name, action, time + 1, f"{task_name}{time}"),
        )
    ]


def keep(repo: BaseRepo, age: int = 100, acknowledged: int = NOW) -> int:
    """Prune to an age in seconds."""
    return prune(repo, Retention(seconds=age), acknowledged=acknowledged, now=NOW).removed


@pytest.mark.parametrize("kind", PRUNABLE)
def test_old_records_are_removed(make_repo: Make, kind: str) -> None:
    """A record at the bound stays, and a second time there is nothing to remove."""
    repo = make_repo(kind)
    assert keep(repo) == 0
    fill(repo, *runs("a", 1, 5, 898, 900, 950), *runs("b", 10, 20))
    assert keep(repo) == 8
    assert left(repo) == [900, 901, 950, 951, 20, 21] or left(repo) == [20, 21, 900, 901, 950, 951]
    assert keep(repo) == 0
    fill(repo, ("c", "run", 999))
    assert len(left(repo)) == 7


@pytest.mark.parametrize("kind", PRUNABLE)
def test_newest_of_each_action_and_task_stays(make_repo: Make, kind: str) -> None:
    """With an ending its beginning stays too, without which it would be no run."""
    repo = make_repo(kind)
    fill(
        repo,
        *runs("a", 10, action="fail"),
        *runs("a", 20, action="fail"),
        *runs("a", 30, action="terminate"),
        *runs("a", 40, 50),
        *runs("b", 60),
        *runs("b", 990, action="fail"),
    )
    assert keep(repo) == 4
    assert left(repo) == [20, 21, 30, 31, 50, 51, 60, 61, 990, 991]


@pytest.mark.parametrize("kind", PRUNABLE)
def test_undelivered_records_stay(make_repo: Make, kind: str) -> None:
    """They stay at any age."""
    repo = make_repo(kind)
    fill(repo, *runs("a", 10, 20, 30, 40))
    assert keep(repo, acknowledged=0) == 0
    assert keep(repo, acknowledged=21 * SECOND) == 2
    assert left(repo) == [20, 21, 30, 31, 40, 41]


@pytest.mark.parametrize("kind", PRUNABLE)
def test_beginning_stays_as_long_as_its_ending(make_repo: Make, kind: str) -> None:
    """The run may be open, or its ending new."""
    repo = make_repo(kind)
    fill(
        repo,
        ("a", "run", 10, "goes on"),
        ("a", "run", 11, "ends late"),
        ("a", "run", 12, "over"),
        ("a", "success", 13, "over"),
        *runs("a", 20),
        ("a", "success", 950, "ends late"),
        *runs("a", 960),
    )
    assert keep(repo) == 4
    assert left(repo) == [10, 11, 950, 960, 961]


@pytest.mark.parametrize("kind", PRUNABLE)
def test_pairing_is_that_of_the_tracker(make_repo: Make, kind: str) -> None:
    """A crash has no run id, and an ending may come twice."""
    repo = make_repo(kind)
    fill(
        repo,
        ("a", "run", 10, "r1"),
        ("a", "run", 11, "r2"),
        ("a", "crash", 12, None),
        ("b", "run", 20, "r3"),
        ("b", "fail", 21, "r3"),
        ("b", "success", 22, "r3"),
        *runs("b", 30, action="fail"),
        *runs("a", 40, 990),
    )
    assert keep(repo) == 3
    # The crash ended r2, and r1 goes on; the success at 22 is of the run that began at 20.
    assert left(repo) == [10, 11, 12, 20, 22, 30, 31, 990, 991]


@pytest.mark.parametrize("kind", PRUNABLE)
@pytest.mark.parametrize(
    ("count", "gone"), [(1, 6), (2, 6), (3, 4), (5, 2), (7, 0), (8, 0), (9, 0), (10**15, 0)]
)
def test_count_keeps_the_records_added_last(
    make_repo: Make, kind: str, count: int, gone: int
) -> None:
    """The beginning of a run among them stays as well."""
    repo = make_repo(kind)
    fill(repo, *runs("a", 10, 20, 30, 40))
    assert prune(repo, Retention(count=count), acknowledged=NOW, now=NOW) == (gone, True)
    assert left(repo) == [10.0, 11, 20, 21, 30, 31, 40, 41][gone:]


@pytest.mark.parametrize("kind", ["csv", "sqlite", "memory", "json", "plain-sqlite", "mongodb"])
def test_clock_that_was_set_back_removes_no_newest(make_repo: Make, kind: str) -> None:
    """Rocketry reads the record added last, not the one created last: both stay."""
    repo = make_repo(kind)
    fill(repo, *runs("a", 300, 310, 100, 110, 990), *runs("b", 300, 310, 100, 110))
    fill(repo, *runs("c", 990, 100))
    assert prune(repo, Retention(count=3), acknowledged=NOW, now=NOW) == (0, True)
    assert keep(repo) == 12
    assert left(repo) == [990, 991, 310, 311, 110, 111, 990, 991, 100, 101]


@pytest.mark.parametrize("kind", PRUNABLE)
def test_records_added_meanwhile_stay(
    make_repo: Make, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They stay whatever their time."""
    repo = make_repo(kind)
    fill(repo, *runs("a", *range(10, 60, 2)))
    # Where it is not known what was added last, it is what was created last.
    added = [61.0, 999.0] if kind in BY_TIME else [58.5, 61.0, 999.0]

    def add_between(repo: Any) -> Any:
        stream = stream_of(repo)
        newest = stream.newest

        def newest_and_add(kinds: Any) -> Any:
            found = newest(kinds)
            for created in added:
                one = record("a", "inaction", created, message=f"later {created}")
                repo.add(repo.model(**one.dict()))
            return found

        stream.newest = newest_and_add
        return stream

    monkeypatch.setattr("rocketry_otel._history.retention.stream_of", add_between)
    assert keep(repo) == 48
    assert left(repo) == [58.0, 59.0, *added]


def test_model_without_run_ids_is_paired_by_order() -> None:
    """That is the tracker's rule."""
    repo = MemoryRepo(model=MinimalRecord)
    fill(repo, *runs("a", 10, 20, 30), ("a", "run", 40))
    assert keep(repo) == 4
    assert left(repo) == [30, 31, 40]


def test_removed_newest_record_removes_nothing_more(make_repo: Make, monkeypatch) -> None:
    """Another process has removed the newest record of the task."""
    repo = make_repo("sqlite")
    fill(repo, *runs("a", 10, 20))
    monkeypatch.setattr("rocketry_otel._history.streams.sql_stream.SQLStream.newest", lambda *_: {})
    assert keep(repo) == 2
    assert left(repo) == [20, 21]


def test_remembered_endings_are_limited(make_repo: Make, monkeypatch) -> None:
    """Memory grows with the records that stay, and a few others."""
    monkeypatch.setattr("rocketry_otel._history.retention._ENDED_RUNS_LIMIT", 2)
    repo = make_repo("memory")
    fill(repo, *runs("a", 10, 20, 30, action="fail"), ("a", "success", 40, "a10"))
    fill(repo, *runs("a", 50, action="fail"))
    assert keep(repo) == 6
    assert left(repo) == [40, 50, 51]


def test_unsafe_removal_is_refused(make_repo: Make) -> None:
    """The error names the way out; nothing is removed."""
    repo = make_repo("plain-csv")
    fill(repo, *runs("a", 10, 20))
    with pytest.raises(RepositoryError, match="open the repository by its URL"):
        keep(repo)
    assert left(repo) == [10, 11, 20, 21]


@pytest.mark.parametrize("bad", [{}, {"seconds": 0}, {"count": 0}, {"seconds": 1, "count": 1}])
def test_retention_is_an_age_or_a_count(bad: dict[str, int]) -> None:
    """Neither, both and zero are errors."""
    with pytest.raises(ValueError, match="either an age or a count"):
        Retention(**bad)


STATE = ("run", "success", "fail", "terminate", "inaction", "crash")


@pytest.mark.parametrize("scheme", ["csv", "sqlite"])
def test_rocketry_restores_its_state_after_pruning(
    scheme: str, tmp_path: Path, telemetry: TelemetryCapture
) -> None:
    """Rocketry reads the same at its start, and a daily task has run today."""
    url = f"{scheme}://{'/' if scheme == 'sqlite' else ''}{tmp_path}/tasks"

    def make() -> Any:
        logging.getLogger("rocketry.task").handlers = []
        app = make_app()
        app.session.create_task(func=apps.succeed, name="daily", start_cond=daily)
        app.session.create_task(func=apps.fail, name="failing")
        app.session.create_task(func=apps.do_nothing, name="idle")
        instrument(app, repo=open_repository(url), **telemetry.providers)
        return app

    def state(app: Any) -> dict[str, Any]:
        for task in app.session.tasks:
            task.set_cached()
        return {
            task.name: (task.status, *(getattr(task, f"last_{action}") for action in STATE))
            for task in app.session.tasks
        }

    first = make()
    for _ in range(4):
        run_tasks(first, "failing", "idle", "daily")
    before = state(first)
    uninstrument(first)
    repo = open_repository(url)
    assert len(left(repo)) == 24
    end = int(max(left(repo)) * 1e9) + SECOND
    assert prune(repo, Retention(seconds=1), acknowledged=end, now=end + 10 * SECOND) == (18, False)
    second = make()
    assert state(second) == before
    run_tasks(second)
    assert len(second.session["daily"].logger.filter_by(action="run").all()) == 1
    assert state(second) == before


ADDING = """
    import sys
    from rocketry_otel import open_repository
    from tests.repositories.records import record

    repo = open_repository(sys.argv[1])
    for number in range(200):
        repo.add(record("other", "run", 2e6, run_id=str(number), message="m" * 1000))
"""


@pytest.mark.parametrize("kind", ["csv", "sqlite", "json", "postgresql"])
def test_adding_process_loses_no_records(
    kind: str, make_url: Callable[[str], str], tmp_path: Path
) -> None:
    """It adds while records are removed again and again."""
    url = make_url(kind)
    repo = open_repository(url)
    script = tmp_path / "adding.py"
    script.write_text(dedent(ADDING), encoding="utf-8")
    command = [sys.executable, str(script), url]
    environment = clean_environment({"PYTHONPATH": str(Path(__file__).parents[2])})
    removed = filled = 0
    with subprocess.Popen(command, env=environment) as adding:
        while adding.poll() is None:
            fill(repo, *runs("a", *range(filled, filled + 20, 2)))
            filled += 20
            removed += prune(repo, Retention(seconds=1), acknowledged=10**15, now=10**15).removed
    assert adding.returncode == 0
    assert removed == filled - 2
    added = [fields["run_id"] for fields in records(repo, 10**15)]
    assert added == [str(number) for number in range(200)]


KILLED = """
    import os, signal, sys
    from importlib import import_module
    from operator import attrgetter
    from rocketry_otel import open_repository
    from rocketry_otel._history.retention import prune
    from rocketry_otel._model.retention import Retention
    from rocketry_otel._history.streams import sql_stream

    sql_stream._PAGE = 10
    url, module, place, left = sys.argv[1:]
    owner = import_module(module)
    *path, name = place.split(".")
    owner = attrgetter(".".join(path))(owner) if path else owner
    before, left = getattr(owner, name), int(left)

    def die_at_last(*arguments, **options):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return before(*arguments, **options)

    repo = open_repository(url)
    setattr(owner, name, die_at_last)
    prune(repo, Retention(seconds=100), acknowledged=10**12, now=10**12)
"""


@pytest.mark.parametrize(
    ("kind", "module", "place", "count"),
    [
        ("sqlite", "rocketry_otel._history.streams.sql_stream", "write", 3),
        ("json", "pathlib", "Path.unlink", 30),
        ("csv", "os", "fsync", 1),
        ("csv", "os", "fsync", 2),
        ("csv", "pathlib", "Path.replace", 1),
        ("csv", "fcntl", "flock", 3),
    ],
)
def test_killed_removal_leaves_a_whole_repository(
    kind: str, module: str, place: str, count: int, make_url: Callable[[str], str]
) -> None:
    """No record that must stay is gone, all can be read, and the next removal goes on."""
    url = make_url(kind)
    repo = open_repository(url)
    rows = runs("a", *range(0, 100, 2))
    fill(repo, ("open", "run", 1), *rows, *runs("b", 950))
    environment = {"PYTHONPATH": str(Path(__file__).parents[2])}
    died = run_python(KILLED, url, module, place, str(count), env=environment)
    assert died.returncode == -signal.SIGKILL, died.stderr
    again = open_repository(url)
    found = left(again)
    assert {1.0, 98.0, 99.0, 950.0, 951.0} <= set(found)
    # What went went in the order of its adding.
    assert (
        found[1:] == [created for _, _, created, _ in [*rows, *runs("b", 950)]][-len(found) + 1 :]
    )
    fill(again, ("c", "run", 990))
    assert keep(again) == len(found) - 5
    assert left(again) == [1, 98, 99, 950, 951, 990]
    assert [path for path in Path(again_directory(url)).glob(".*") if path.name] == []


def again_directory(url: str) -> str:
    """Return the directory that a URL's file or files are in."""
    path = Path(url.partition("://")[2])
    return str(path if url.startswith("json") else path.parent)

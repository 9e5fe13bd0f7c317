"""Our handler writes the same rows as Red Bird's, for every model and repository."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mongomock
import pymongo
import pytest
import sqlalchemy.orm  # noqa: F401  # Red Bird needs it imported somewhere
from redbird.logging import RepoHandler
from redbird.repos import CSVFileRepo, JSONDirectoryRepo, MemoryRepo, MongoRepo, SQLRepo
from rocketry.log import (
    LogRecord,
    MinimalRecord,
    MinimalRunRecord,
    RunRecord,
    TaskLogRecord,
    TaskRunRecord,
)

from rocketry_otel import OTelRepoHandler, TaskEventRecord
from tests.support.records import START, raised, task_record

if TYPE_CHECKING:
    from rocketry_otel.testing import TelemetryCapture

MODELS = [
    MinimalRecord,
    LogRecord,
    TaskLogRecord,
    MinimalRunRecord,
    RunRecord,
    TaskRunRecord,
    TaskEventRecord,
]
# Fields of our model that Rocketry's records lack.
OURS_ALONE = {"trace_id", "span_id", "execution", "exc_type", "exc_message"}


def records() -> list[logging.LogRecord]:
    """Return a record of every action and shape, as Rocketry logs them."""
    times = {"start": START, "end": START + 2, "runtime": 2.0}
    made = [
        task_record("run", run_id="r1", start=START),
        task_record("success", run_id="r1", **times),
        task_record("fail", run_id="r2", exc_info=raised(ValueError("boom")), **times),
        task_record(
            "fail",
            name="rocketry.task._process",
            run_id="r3",
            exc_info="Traceback\nValueError: x",
            exc_text="Traceback\nValueError: x",
            message="with\nthe traceback",
            **times,
        ),
        task_record("terminate", run_id="r4", **times),
        task_record("inaction", run_id=None, **times),
        task_record("crash", run_id=None, **times),
        task_record(
            "success", 'größe, "quoted"\nand more', run_id="r5", msg="%s done", args=("it",)
        ),
    ]
    for number, record in enumerate(made):
        record.created = START + number
    return made


def memory(model: Any, _: Path) -> Any:
    """Make a repository in memory."""
    return MemoryRepo(model=model)


def csv(model: Any, path: Path) -> Any:
    """Make a CSV file."""
    return CSVFileRepo(filename=path / "tasks.csv", model=model)


def sql(model: Any, path: Path) -> Any:
    """Make an SQLite database."""
    return SQLRepo(
        conn_string=f"sqlite:///{path}/tasks.db",
        model=model,
        table="tasks",
        if_missing="create",
        id_field="created",
    )


def json_directory(model: Any, path: Path) -> Any:
    """Make a directory of JSON files."""
    return JSONDirectoryRepo(path=path, model=model, id_field="created")


def mongo(model: Any, path: Path) -> Any:
    """Make a MongoDB collection."""
    uri = f"mongodb://localhost/{path.name}"
    return MongoRepo(uri=uri, collection="tasks", model=model, id_field="created")


def rows_of(handler: logging.Handler, made: list[logging.LogRecord]) -> list[Any]:
    """Handle records; return the error of each, and the rows of the repository."""
    said: list[Any] = []
    for record in made:
        try:
            handler.handle(record)
        except Exception as error:  # noqa: BLE001  # a repository may raise anything
            said.append(type(error))
    try:
        items = list(handler.repo.filter_by().all())
    except Exception as error:  # noqa: BLE001
        return [*said, type(error)]
    rows = [dict(item) if isinstance(item, dict) else item.dict() for item in items]
    return said + sorted(rows, key=lambda row: row["created"])


# Only a memory repository takes records of no fixed fields.
CASES = [(memory, dict)] + [
    (make, model) for make in (memory, csv, sql, json_directory, mongo) for model in MODELS
]
HELD_EVERYWHERE = {MinimalRecord, MinimalRunRecord, TaskEventRecord}


@pytest.mark.parametrize(("make", "model"), CASES)
def test_same_records_leave_the_same_rows(
    make: Any,
    model: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    telemetry: TelemetryCapture,
) -> None:
    """Rows are equal, and if Red Bird's handler raises, ours raises the same."""
    monkeypatch.setattr(pymongo, "MongoClient", mongomock.MongoClient)
    made = records()
    handlers = []
    for name in ("theirs", "ours"):
        path = tmp_path / name
        path.mkdir()
        repo = make(model, path)
        handlers.append(
            RepoHandler(repo) if name == "theirs" else OTelRepoHandler(repo, **telemetry.providers)
        )
    theirs, ours = (
        rows_of(handler, [copy.copy(record) for record in made]) for handler in handlers
    )
    if model in HELD_EVERYWHERE or make is memory:
        assert len([row for row in ours if isinstance(row, dict)]) == len(made)
    if model is TaskEventRecord:
        for row in (*theirs, *ours):
            if isinstance(row, dict):
                for name in OURS_ALONE:
                    row.pop(name)
                if row["action"] == "run":
                    row.pop("attributes")  # where the run goes on
    assert ours == theirs
    assert len(telemetry.log_records) == len(made)
    for handler in handlers:
        if make is sql:
            handler.repo.session.remove()
            handler.repo.session.get_bind().dispose()

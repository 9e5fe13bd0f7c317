"""Histories to be replayed, written by real applications."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from redbird.logging import RepoHandler
from redbird.repos import CSVFileRepo, JSONDirectoryRepo, MongoRepo, SQLRepo
from rocketry.log import MinimalRunRecord

from rocketry_otel import (
    OTelRepoHandler,
    Replay,
    TaskEventRecord,
    instrument,
    open_repository,
    replay,
    uninstrument,
)
from rocketry_otel._history.open_history import open_history
from rocketry_otel._repositories.sql_engine import make_engine, split_table
from tests.support import apps
from tests.support.otlp_receiver import OTLPReceiver

# In the order in which they run.
TASKS = ("good", "bad", "idle")
# Seconds since the epoch of the first record of histories that are made by hand.
START = 1_700_000_000
ROW = {"task_name": "etl", "action": "run", "created": 1.5, "run_id": "r1"}


def make_app() -> Any:
    """Return an application of three tasks, which end in three ways."""
    app = apps.make_app()
    functions = (apps.succeed, apps.fail, apps.do_nothing)
    for name, function in zip(TASKS, functions, strict=True):
        app.session.create_task(func=function, name=name)
    return app


def write_history(repo: Any, names: Sequence[str] = TASKS, times: int = 1) -> None:
    """Write the runs of an application that knows nothing of this project."""
    app = make_app()
    logging.getLogger("rocketry.task").handlers = [RepoHandler(repo=repo)]
    for _ in range(times):
        apps.run_tasks(app, *names, cycles=len(names))
    logging.getLogger("rocketry.task").handlers = []


def send_live(repo: Any, names: Sequence[str] = TASKS, *, is_accepted: bool = True) -> None:
    """Write the runs of an application, and send them to the destination in the environment."""
    app = make_app()
    handler: OTelRepoHandler = instrument(app, repo=repo)
    apps.run_tasks(app, *names, cycles=len(names))
    assert handler.flush(20) is is_accepted
    uninstrument(app)
    handler.close()


def replayed(url: str, to: OTLPReceiver, **how: Any) -> Replay:
    """Replay a repository to a receiver."""
    with pytest.MonkeyPatch.context() as patch, open_history(url) as repo:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", to.http_endpoint)
        return replay(repo, **how)


def spans_of(receiver: OTLPReceiver) -> list[bytes]:
    """Return every span that was taken in, as bytes with its resource and scope."""
    return sorted(_bytes(one) for one in receiver.spans)


def log_records_of(receiver: OTLPReceiver) -> list[bytes]:
    """Return every log record that was taken in, as bytes with its resource and scope."""
    return sorted(_bytes(one) for one in receiver.log_records)


def _bytes(parts: Iterable[Any]) -> bytes:
    return b"\0".join(part.SerializeToString(deterministic=True) for part in parts)


def close(repo: Any) -> None:
    """Give back the connections of a repository in a SQL database."""
    if isinstance(repo, SQLRepo):
        engine = repo.session.get_bind()
        repo.session.remove()
        engine.dispose()


def red_birds_repo(url: str, model: Any = MinimalRunRecord) -> Any:
    """Open Red Bird's own repository at the place of one of our URLs."""
    kind, _, rest = url.partition("://")
    if kind == "csv":
        Path(rest).parent.mkdir(parents=True, exist_ok=True)
        return CSVFileRepo(filename=rest, model=model)
    if kind == "json":
        Path(rest).mkdir(parents=True, exist_ok=True)
        return JSONDirectoryRepo(path=rest, model=model, id_field="created")
    if kind == "mongodb":
        place = {"uri": url, "collection": "rocketry_task_events"}
        return MongoRepo(**place, model=model, id_field="created")
    engine = make_engine(url, split_table(url)[0])
    if kind == "postgresql":
        # With SQLAlchemy 2.0 Red Bird would make whole numbers of the times there.
        columns = "task_name text, action text, created double precision, run_id text"
        with engine.begin() as connection:
            connection.exec_driver_sql(
                f"CREATE TABLE IF NOT EXISTS tasks (id serial PRIMARY KEY, {columns})"
            )
    place = {"table": "tasks", "if_missing": "create", "id_field": "created"}
    return SQLRepo(engine=engine, model=model, **place)


def write_by_red_bird(url: str, model: Any = MinimalRunRecord, **changes: Any) -> None:
    """Add a record by a repository of Red Bird's own."""
    repo = red_birds_repo(url, model)
    repo.add(model(**{**ROW, **changes}))
    close(repo)


def two_runs(directory: Path) -> str:
    """Return the URL of a repository of two runs."""
    url = f"csv://{directory}/tasks.csv"
    repo = open_repository(url)
    for name, action, seconds in (
        ("etl", "run", 0),
        ("etl", "success", 1),
        ("report", "run", 2),
        ("report", "success", 3),
    ):
        fields = {"task_name": name, "action": action, "created": START + seconds}
        repo.add(TaskEventRecord(**fields, run_id=name, message="m", trace_id="0" * 32))
    return url


@contextmanager
def named_by_the_environment(patch: pytest.MonkeyPatch) -> Iterator[OTLPReceiver]:
    """Give a collector that the environment names."""
    with OTLPReceiver(grpc=False) as receiver:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.http_endpoint)
        yield receiver

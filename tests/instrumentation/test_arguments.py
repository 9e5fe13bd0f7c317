from __future__ import annotations

import logging
import re
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pydantic
import pytest
from pydantic import v1
from redbird.repos import CSVFileRepo, MemoryRepo

from rocketry_otel import (
    OTelRepoHandler,
    RepositoryURLError,
    Settings,
    TaskEventRecord,
    instrument,
    uninstrument,
)
from rocketry_otel._instrumentation import arguments
from tests.support import apps
from tests.support.apps import make_app, run_tasks

if TYPE_CHECKING:
    from rocketry_otel.testing import TelemetryCapture

LOGGER = logging.getLogger("rocketry.task")


def test_url_names_the_repository(telemetry: TelemetryCapture, tmp_path: Path) -> None:
    """It is opened like the environment's URL, and wins over it."""
    app = make_app()
    settings = Settings(repo="csv:///nowhere/tasks.csv")
    handler = instrument(
        app, repo=f"csv://{tmp_path}/tasks.csv", settings=settings, **telemetry.providers
    )
    app.session.create_task(func=apps.succeed, name="etl")
    run_tasks(app, "etl")
    assert handler.repo is app.session.get_repo()
    assert (tmp_path / "tasks.csv").read_text().count("\n") == 3


def test_same_url_is_the_same_repository(telemetry: TelemetryCapture, tmp_path: Path) -> None:
    """After ``uninstrument`` no record is written twice."""
    app = make_app()
    url = f"csv://{tmp_path}/tasks.csv"
    first = instrument(app, repo=url, **telemetry.providers)
    uninstrument(app)
    second = instrument(app, repo=url, **telemetry.providers)
    assert second.repo is first.repo
    assert LOGGER.handlers == [second]


def test_bad_url_changes_nothing() -> None:
    """The error names the URL, and Rocketry stays as it was."""
    app = make_app()
    before = list(LOGGER.handlers)
    with pytest.raises(RepositoryURLError, match="tasks"):
        instrument(app, repo="tasks.db")
    assert LOGGER.handlers == before
    assert app.session.hooks.task_execute == []


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("repo", Path("t.db"), "repo must be a Red Bird repository or a URL, .*, not PosixPath"),
        ("repo", CSVFileRepo, "repo must be .*, not the class CSVFileRepo"),
        ("repo", 5, "repo must be .*, not int"),
        ("settings", {"links": False}, r"settings must be .*Settings\(links=False\), not dict"),
        ("settings", Settings, "settings must be .*, not the class Settings"),
        ("tracer_provider", "otlp", "tracer_provider must be a TracerProvider .*, not str"),
        ("logger_provider", object(), "logger_provider must be a LoggerProvider .*, not object"),
        ("meter_provider", [], "meter_provider must be a MeterProvider .*, not list"),
        ("name_span", "name", "name_span must be a function .*, not str"),
        ("enrich", {}, "enrich must be a function .*, not dict"),
    ],
)
def test_wrong_argument_changes_nothing(
    argument: str, value: Any, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One error names the argument and its type; no repository has been opened."""
    monkeypatch.setenv("ROCKETRY_OTEL_REPO", f"sqlite:///{tmp_path}/tasks.db")
    app = make_app()
    before = list(LOGGER.handlers)
    with pytest.raises(TypeError, match=message):
        instrument(app, **{argument: value})
    assert LOGGER.handlers == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"repo": "sqlite:///tasks.db"}, "repo must be .*open_repository.*, not str"),
        ({"repo": None}, "repo must be .*, not NoneType"),
        ({"settings": {}}, "settings must be .*, not dict"),
        ({"tracer_provider": 1}, "tracer_provider must be .*, not int"),
    ],
)
def test_handler_checks_its_arguments(arguments: dict[str, Any], message: str) -> None:
    """A handler put in place by hand takes a repository, not a URL."""
    with pytest.raises(TypeError, match=message):
        OTelRepoHandler(**{"repo": MemoryRepo(model=TaskEventRecord), **arguments})


def test_model_of_another_pydantic_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With pydantic 1, a class stands in for the base class of pydantic 2."""

    class Base:
        pass

    class Record(Base):
        pass

    monkeypatch.setattr(arguments, "pydantic", SimpleNamespace(BaseModel=Base))
    with pytest.raises(TypeError, match=r"^The model Record of the repository is of pydantic 2, "):
        OTelRepoHandler(MemoryRepo(model=Record))


@pytest.mark.skipif(pydantic.VERSION.startswith("1."), reason="pydantic 1 is installed")
def test_model_of_pydantic_2_is_refused(telemetry: TelemetryCapture) -> None:
    """By the handler, by `instrument`, and if the application brings it; one of `v1` works."""

    class Record(pydantic.BaseModel):
        task_name: str
        action: str
        created: float

    class RecordOfV1(v1.BaseModel):
        task_name: str
        action: str
        created: float

    message = re.escape(
        "The model Record of the repository is of pydantic 2, which Red Bird cannot use: let it "
        "inherit from pydantic.v1.BaseModel"
    )
    repo = MemoryRepo(model=Record)
    with pytest.raises(TypeError, match=message):
        OTelRepoHandler(repo)
    with pytest.raises(TypeError, match=message):
        instrument(make_app(), repo=repo)
    app = make_app(logger_repo=repo)
    with pytest.raises(TypeError, match=message):
        instrument(app)
    app = make_app(logger_repo=MemoryRepo(model=RecordOfV1))
    handler = instrument(app, **telemetry.providers)
    app.session.create_task(func=apps.succeed, name="etl")
    run_tasks(app, "etl")
    records = handler.repo.filter_by(task_name="etl").all()
    assert [(type(it), it.action) for it in records] == [
        (RecordOfV1, "run"),
        (RecordOfV1, "success"),
    ]


def test_object_like_a_repository_is_accepted(telemetry: TelemetryCapture) -> None:
    """Its methods count, not its class."""

    class Kept:
        model = dict

        def __init__(self) -> None:
            self.inner = MemoryRepo(model=dict)
            self.add, self.filter_by = self.inner.add, self.inner.filter_by

    repo: Any = Kept()
    handler = instrument(make_app(), repo=repo, **telemetry.providers)
    assert handler.repo is repo

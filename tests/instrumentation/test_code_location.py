"""Where the code of a task is."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rocketry.core import Task
from rocketry.tasks import CodeTask, CommandTask, FuncTask

from rocketry_otel import instrument, open_repository, uninstrument
from rocketry_otel._instrumentation.code_location import CodeLocations
from rocketry_otel.testing import TelemetryCapture
from tests.support import apps
from tests.support.apps import make_app, run_tasks, succeed

HERE = __file__
PREFIX = "tests.instrumentation.test_code_location"


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a function in the usual way."""

    @functools.wraps(function)
    def around(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return around


def plain(number: int = 1) -> None:
    """Do nothing."""


@logged
def decorated() -> None:
    """Do nothing, in a decorator."""


class Job:
    """Objects that can be called."""

    def __call__(self) -> None:
        """Do nothing."""

    def method(self) -> None:
        """Do nothing."""


class Made:
    """A class that is called itself."""

    def __init__(self) -> None:
        """Do nothing."""


class OwnTask(Task):  # type: ignore[misc]  # Rocketry has no types
    """A task class of an application."""

    def execute(self) -> None:
        """Do nothing."""


def line_of(function: Any) -> int:
    """Return the first line of a function."""
    line: int = function.__code__.co_firstlineno
    return line


def located(function: Any) -> dict[str, Any]:
    """Return the attributes of a task of a function."""
    app = make_app()
    task = app.session.create_task(func=function, name="etl")
    return CodeLocations().of(task)


@pytest.mark.parametrize(
    ("function", "name", "code"),
    [
        (plain, "plain", plain),
        (decorated, "decorated", decorated.__wrapped__),  # type: ignore[attr-defined]
        (functools.partial(functools.partial(plain, number=1)), "plain", plain),
        (functools.partial(decorated), "decorated", decorated.__wrapped__),  # type: ignore[attr-defined]
        (Job(), "Job", Job.__call__),
        (Job().method, "Job.method", Job.method),
        (Made, "Made", Made.__init__),
    ],
)
def test_function_of_a_task_is_found(function: Any, name: str, code: Any) -> None:
    """Decorators, partials and bound methods lead to the function in them."""
    assert located(function) == {
        "code.function.name": f"{PREFIX}.{name}",
        "code.file.path": HERE,
        "code.line.number": line_of(code),
    }


def test_function_that_is_not_in_python_has_only_a_name() -> None:
    """A function of C has no file."""
    assert located(functools.partial(os.getcwd)) == {"code.function.name": "posix.getcwd"}


def test_task_class_of_an_application_has_its_own_method() -> None:
    """Rocketry calls ``execute``."""
    app = make_app()
    task = OwnTask(name="own", session=app.session)
    assert CodeLocations().of(task) == {
        "code.function.name": f"{PREFIX}.OwnTask.execute",
        "code.file.path": HERE,
        "code.line.number": line_of(OwnTask.execute),
    }


def test_command_and_text_of_code_have_no_function() -> None:
    """Rocketry's own method is not the application's code."""
    session = make_app().session
    for task in (
        CommandTask(command=["true"], name="command", session=session),
        CodeTask(code="x = 1", name="code", session=session),
    ):
        assert CodeLocations().of(task) == {}


def test_function_by_path_is_found_in_its_file(tmp_path: Path) -> None:
    """Rocketry imports it at each run; the file is read again only if it has changed."""
    file = tmp_path / "jobs.py"
    file.write_text("import os\n\n\n@print\n@print\nasync def main(): ...\n\n\nother = main\n")
    session = make_app().session
    task = FuncTask(path=file, func_name="main", name="etl", execution="process", session=session)
    locations = CodeLocations()
    found = {"code.function.name": "main", "code.file.path": str(file)}
    assert locations.of(task) == {**found, "code.line.number": 4}
    file.write_text("def main(): ...\n")
    os.utime(file, (1, 1))
    assert locations.of(task) == {**found, "code.line.number": 1}
    file.write_text("other = main = print\n")
    os.utime(file, (2, 2))
    assert locations.of(task) == found


def test_each_function_is_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another function of the same task is looked for again."""
    task = make_app().session.create_task(func=plain, name="etl")
    locations = CodeLocations()
    first = locations.of(task)
    assert locations.of(task) is first
    task.func = Job()
    assert locations.of(task)["code.function.name"] == f"{PREFIX}.Job"


@pytest.mark.parametrize("execution", ["main", "async", "thread", "process"])
def test_run_has_the_location_of_its_code(execution: Any, telemetry: TelemetryCapture) -> None:
    """The run record has it, and so has the span, in each mode of execution."""
    app = make_app(execution=execution)
    app.session.create_task(func=succeed, name="etl")
    handler = instrument(app, repo=open_repository("memory://"), **telemetry.providers)
    run_tasks(app, "etl")
    began = handler.repo.filter_by(action="run").last()
    uninstrument(app)
    attributes = dict(telemetry.span("etl").attributes or {})
    found = {key: value for key, value in attributes.items() if key.startswith("code.")}
    assert found == {
        "code.function.name": "tests.support.apps.succeed",
        "code.file.path": apps.__file__,
        "code.line.number": line_of(succeed),
    }
    assert found.items() <= json.loads(began.attributes).items()


def test_function_of_a_text_keeps_its_odd_file_name() -> None:
    """Code may come from no file."""
    names: dict[str, Any] = {"__name__": "made"}
    exec(compile("def made(): ...", "<made>", "exec"), names)  # noqa: S102  # as CodeTask does
    assert located(names["made"]) == {
        "code.function.name": "made.made",
        "code.file.path": "<made>",
        "code.line.number": 1,
    }

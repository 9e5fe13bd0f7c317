"""Where the code of a task is: the name, file and line of its function.

In: a task. Out: attributes for the ``run`` record, by the names of the semantic conventions.
"""

from __future__ import annotations

import ast
import functools
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry.semconv.attributes.code_attributes import (
    CODE_FILE_PATH,
    CODE_FUNCTION_NAME,
    CODE_LINE_NUMBER,
)

from rocketry_otel._model.signals import short_name
from rocketry_otel._model.text import safe_text
from rocketry_otel._runtime.by_identity import ByIdentity

if TYPE_CHECKING:
    from rocketry_otel._model.annotations import Attributes

    from .launching import Launching


class _Known(NamedTuple):
    """The attributes of a function; ``function`` is the very object that they belong to."""

    function: Any
    attributes: Attributes


class CodeLocations:
    """The locations of tasks' functions, each looked for once."""

    def __init__(self) -> None:
        self._known = ByIdentity[_Known]()

    def of(self, task: Any) -> Attributes:
        """Return the attributes of a task's function; none if it has no function."""
        function = _function_of(task)
        if function is None:
            return _delayed(task)
        known = self._known.get(task)
        if known is None or known.function is not function:
            known = self._known[task] = _Known(function, _attributes_of(function))
        return known.attributes


def _function_of(task: Any) -> Any:
    """Return the function of a task; ``None`` if it has none, or has not imported it yet."""
    execute = type(task).execute
    # A class of the application's has a method of its own. Of Rocketry's classes, only the task of
    # a function has one: a command and a text of code are no functions.
    is_own = not execute.__module__.startswith("rocketry.")
    return execute if is_own else getattr(task, "func", None)


def _delayed(task: Any) -> Attributes:
    """Return the attributes of a function that Rocketry imports from a file at each run."""
    path, name = getattr(task, "path", None), getattr(task, "func_name", None)
    if path is None or not isinstance(name, str):
        return {}
    file = Path(path).absolute()
    found = {CODE_FUNCTION_NAME: name, CODE_FILE_PATH: str(file)}
    return _attributes(found, _line_in(file, file.stat().st_mtime_ns, name))


@functools.lru_cache(maxsize=1024)
def _line_in(file: Path, modified: int, name: str) -> int | None:
    """Return the line where a file defines a function; ``None`` if it does so in another way."""
    del modified  # a changed file is read again
    for node in ast.parse(file.read_bytes()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
            # As in a code object: from the first decorator on.
            return min([node.lineno, *(one.lineno for one in node.decorator_list)])
    return None


def _attributes_of(function: Any) -> Attributes:
    inner = _unwrapped(function)
    named = inner if hasattr(inner, "__qualname__") else type(inner)
    found = {CODE_FUNCTION_NAME: f"{named.__module__}.{named.__qualname__}"}
    code = getattr(_method_of(inner), "__code__", None)
    if code is None:  # it is not written in Python
        return _attributes(found, None)
    return _attributes({**found, CODE_FILE_PATH: _full(code.co_filename)}, code.co_firstlineno)


def _unwrapped(function: Any) -> Any:
    """Return the function in a decorator's (``functools.wraps``), a partial or a bound method."""
    while True:
        inner = inspect.unwrap(function)
        if isinstance(inner, functools.partial):
            inner = inner.func
        elif inspect.ismethod(inner):
            inner = inner.__func__
        if inner is function:
            return function
        function = inner


def _method_of(callable_: Any) -> Any:
    """Return the function of a call: a class has ``__init__``, another object ``__call__``."""
    if inspect.isclass(callable_):
        return callable_.__init__
    return callable_ if hasattr(callable_, "__code__") else type(callable_).__call__


def _full(file: str) -> str:
    """Return a path in full, if there is such a file."""
    path = Path(file)
    return str(path.absolute()) if path.exists() else file


def _attributes(texts: dict[str, str], line: int | None) -> Attributes:
    found: Attributes = {key: short_name(safe_text(text)) for key, text in texts.items()}
    if line is not None:
        found[CODE_LINE_NUMBER] = line
    return found


_code_locations = CodeLocations()


def code_attributes(launching: Launching) -> Attributes:
    """Return where the code of a launched task is."""
    return _code_locations.of(launching.task)

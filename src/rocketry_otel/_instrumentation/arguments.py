"""Checks the arguments of the user before anything changes.

In: arguments of ``instrument`` and ``OTelRepoHandler``. Out: nothing, or one ``TypeError`` that
names the argument and the cure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pydantic
from pydantic import v1

from rocketry_otel._settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable


def _is_repository(value: Any) -> bool:
    # Not by its class: an object with the methods of a Red Bird repository works as one.
    methods = [getattr(value, name, None) for name in ("add", "filter_by")]
    return not isinstance(value, type) and all(callable(method) for method in methods)


def _is_settings(value: Any) -> bool:
    return isinstance(value, Settings)


def _has(method: str) -> Callable[[Any], bool]:
    return lambda value: callable(getattr(value, method, None))


_SETTINGS = "rocketry_otel.Settings, such as Settings(links=False)"
_HOOK = "a function of the task, the fields of the record and the outcome"
_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "settings": (_is_settings, _SETTINGS),
    "tracer_provider": (_has("get_tracer"), "a TracerProvider of OpenTelemetry"),
    "logger_provider": (_has("get_logger"), "a LoggerProvider of OpenTelemetry"),
    "meter_provider": (_has("get_meter"), "a MeterProvider of OpenTelemetry"),
    "name_span": (callable, _HOOK),
    "enrich": (callable, _HOOK),
}


def check_repository(repo: Any) -> None:
    """Check the repository of a handler.

    Raises:
        TypeError: It is no repository, or Red Bird cannot use its model.
    """
    if not _is_repository(repo):
        expected = 'a Red Bird repository, such as open_repository("sqlite:///tasks.db")'
        raise _refusal("repo", repo, expected)
    model: Any = getattr(repo, "model", None)
    if _is_of_pydantic_2(model):
        raise TypeError(
            f"The model {model.__name__} of the repository is of pydantic 2, which Red Bird cannot "
            "use: let it inherit from pydantic.v1.BaseModel"
        )


def _is_of_pydantic_2(model: Any) -> bool:
    # With pydantic 1 the two base classes are the same one.
    return (
        isinstance(model, type)
        and issubclass(model, pydantic.BaseModel)
        and not issubclass(model, v1.BaseModel)
    )


def check_repository_or_url(repo: Any) -> None:
    """Check the repository of ``instrument``.

    Raises:
        TypeError: It is neither a repository nor a text, nor ``None``; or Red Bird cannot use its
            model.
    """
    if repo is None or isinstance(repo, str):
        return
    if not _is_repository(repo):
        expected = "a Red Bird repository or a URL, such as sqlite:///tasks.db"
        raise _refusal("repo", repo, expected)
    check_repository(repo)


def check_options(**options: Any) -> None:
    """Check the other arguments; each may be ``None``.

    Raises:
        TypeError: An argument has another type.
    """
    for name, value in options.items():
        is_right, expected = _CHECKS[name]
        if value is not None and not is_right(value):
            raise _refusal(name, value, expected)


def _refusal(name: str, value: Any, expected: str) -> TypeError:
    given = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
    return TypeError(f"{name} must be {expected}, not {given}")

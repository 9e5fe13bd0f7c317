"""The settings of rocketry-otel, from the environment or from code."""

from __future__ import annotations

import logging
import math
import os
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic.v1 import BaseSettings, Field, ValidationError, root_validator, validator

import _rocketry_otel_pydantic

from ._errors import SettingsError
from ._model.durations import EXAMPLES, seconds_of
from ._model.retention import Retention
from ._repositories.urls import mask_url

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "ROCKETRY_OTEL_"

_logger = logging.getLogger("rocketry_otel")

_ALLOWED = {
    "repo": "a repository URL such as memory://, csv:///path, sqlite:///path, "
    "postgresql://user@host/database, mongodb://host/database or json:///directory",
    "span_kind": "internal, consumer or server",
    "exceptions": "full, message or type",
    "include": "patterns of task names, separated by commas, such as etl-*,report",
    "exclude": "patterns of task names, separated by commas, such as etl-*,report",
    "shutdown_timeout": "a number of seconds, 0 or more",
    "sigterm": "true or false",
    "global_providers": "true or false",
    "links": "true or false",
    "log_lines": "true or false",
    "propagate_baggage": "true or false",
    "join_traces": "true or false",
    "retention": f"an age such as {EXAMPLES}, or a number of records to keep, 1 or more",
    "catch_up": f"a duration such as {EXAMPLES}",
    "state_dir": "a directory",
    "trace_url": "a URL with {trace_id} in it, such as http://localhost:16686/trace/{trace_id}",
}


class Settings(BaseSettings):
    """The settings of rocketry-otel; the standard ``OTEL_*`` variables have the rest.

    A setting that is not given as an argument is read from the environment variable
    ``ROCKETRY_OTEL_`` and its name in capitals.

    Attributes:
        repo: URL of the repository that ``instrument`` opens; see ``open_repository``.
        span_kind: Kind of a run's span. Some backends list only ``consumer`` or ``server``.
        exceptions: How much of an exception may leave the machine: ``full`` (type, message
            and traceback), ``message`` (type and message) or ``type``.
        include: Patterns (``*``, ``?``, ``[...]``) of task names to export.
        exclude: Patterns of task names not to export, even if included. The repository gets
            the records of every task.
        shutdown_timeout: How many seconds the end of the program may wait for telemetry.
        sigterm: Whether SIGTERM, where the application leaves it at its default, lets the process
            send what waits before it dies; see ``docs/guarantees.md``.
        global_providers: Whether ``instrument`` makes our own providers the global ones if the
            application has set none. They record the spans that tasks make in their bodies.
        links: Whether a run links to the runs that it waited for, and to the span that called
            ``task.run()``.
        log_lines: Whether the log lines of tasks' bodies and of Rocketry's scheduler are sent.
            By default they are, unless ``exceptions`` is less than ``full``: their texts may show
            what that setting hides.
        propagate_baggage: Whether programs that tasks start get the baggage of the run, in the
            variable ``BAGGAGE``. It may hold personal data. They get ``TRACEPARENT`` in any case.
        join_traces: Whether a run that ``task.run()`` asked for within a sampled span is in the
            trace of that span, as its child. By default it has a trace of its own, and a link.
        retention: How long records are kept in the repository, as an age (``30d``) or as a
            number of records; ``None`` keeps all. See ``docs/guarantees.md``.
        catch_up: How far back records are sent again if the delivery progress is lost, in
            seconds; as text it has a unit (``7d``).
        state_dir: Where delivery progress is stored. By default beside the repository, or for a
            database server in the user's state directory (``$XDG_STATE_HOME``,
            ``~/.local/state``).
        trace_url: The page of a trace in your backend, with ``{trace_id}`` for its id. The
            command line shows it with each run.

    Raises:
        SettingsError: If a value is not allowed. The message names the variable, the value
            (never a secret) and the allowed values.
    """

    repo: str | None = None
    span_kind: Literal["internal", "consumer", "server"] = "internal"
    exceptions: Literal["full", "message", "type"] = "full"
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    shutdown_timeout: float = Field(default=5.0)
    sigterm: bool = True
    global_providers: bool = True
    links: bool = True
    log_lines: bool | None = None
    propagate_baggage: bool = False
    join_traces: bool = False
    retention: Retention | None = None
    catch_up: int = Field(default=7 * 86_400)
    state_dir: str | None = None
    trace_url: str | None = None

    class Config:
        """How pydantic reads the settings."""

        env_prefix = PREFIX
        extra = "forbid"
        frozen = True

        @classmethod
        def parse_env_var(cls, field_name: str, raw_val: str) -> Any:
            """Leave a list of patterns as it is: users write commas, not JSON."""
            del field_name
            return raw_val

    def __init__(self, **values: Any) -> None:
        """Read the settings; the arguments are those of the class."""
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise SettingsError(_explained(error, values)) from None
        _warn_of_unknown_variables(os.environ)

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        """Show the settings without the password of the repository."""
        return [
            (name, mask_url(value) if name == "repo" and value else value)
            for name, value in super().__repr_args__()
        ]

    @validator("span_kind", "exceptions", pre=True)
    def _lower(cls, value: object) -> object:  # noqa: N805  # pydantic makes it a class method
        return value.lower() if isinstance(value, str) else value

    @root_validator(pre=True)
    def _without_empty(cls, values: dict[str, Any]) -> dict[str, Any]:  # noqa: N805
        # The OpenTelemetry specification treats an empty variable as not set.
        return {
            name: value.strip() if isinstance(value, str) else value
            for name, value in values.items()
            if not (isinstance(value, str) and not value.strip())
        }

    @validator("include", "exclude", pre=True)
    def _patterns(cls, value: object) -> object:  # noqa: N805
        if not isinstance(value, str):
            return value
        return tuple(pattern.strip() for pattern in value.split(",") if pattern.strip())

    @validator("include")
    def _all_if_none(cls, value: tuple[str, ...]) -> tuple[str, ...]:  # noqa: N805
        return value or ("*",)

    @validator("shutdown_timeout")
    def _finite(cls, value: float) -> float:  # noqa: N805
        if not math.isfinite(value) or value < 0:
            raise ValueError("not a finite number of seconds")
        return value

    @validator("retention", pre=True)
    def _retention(cls, value: object) -> object:  # noqa: N805
        return Retention.parse(str(value)) if isinstance(value, (str, int)) else value

    @validator("catch_up", pre=True)
    def _duration(cls, value: object) -> object:  # noqa: N805
        return seconds_of(value) if isinstance(value, str) else value

    @validator("catch_up")
    def _not_negative(cls, value: int) -> int:  # noqa: N805
        if value < 0:
            raise ValueError("a negative duration")
        return value

    @validator("state_dir", pre=True)
    def _expanded(cls, value: object) -> object:  # noqa: N805
        if not isinstance(value, (str, Path)):
            return value
        try:
            return str(Path(value).expanduser())
        except RuntimeError as error:
            raise ValueError("no home directory is known for it") from error

    @validator("trace_url")
    def _has_place(cls, value: str | None) -> str | None:  # noqa: N805
        if value is not None and "{trace_id}" not in value:
            raise ValueError("no place for the trace id")
        return value

    @property
    def sends_log_lines(self) -> bool:
        """Whether log lines are sent, by ``log_lines`` or its default."""
        return self.exceptions == "full" if self.log_lines is None else self.log_lines

    def exports(self, task_name: str) -> bool:
        """Return whether the telemetry of a task of this name is exported."""
        return _selected(task_name, self.include, self.exclude)


@lru_cache(maxsize=4096)
def _selected(task_name: str, include: tuple[str, ...], exclude: tuple[str, ...]) -> bool:
    return any(fnmatchcase(task_name, pattern) for pattern in include) and not any(
        fnmatchcase(task_name, pattern) for pattern in exclude
    )


def _explained(error: ValidationError, given: Mapping[str, Any]) -> str:
    lines = []
    for problem in error.errors():
        name = str(problem["loc"][0])
        if name not in _ALLOWED:
            lines.append(f"There is no setting {name!r}; there are {', '.join(_ALLOWED)}.")
            continue
        variable = PREFIX + name.upper()
        value = given.get(name, os.environ.get(variable))
        shown = mask_url(str(value)) if name == "repo" else repr(value)
        source = name if name in given else variable
        lines.append(f"{source} is {shown}; allowed is {_ALLOWED[name]}.")
    return "\n".join(lines)


def _warn_of_unknown_variables(environment: Mapping[str, str]) -> None:
    known = {PREFIX + name.upper() for name in _ALLOWED} | {_rocketry_otel_pydantic.VARIABLE}
    unknown = sorted(
        name
        for name in environment
        if name.upper().startswith(PREFIX) and name.upper() not in known
    )
    if unknown:
        _warn_once(
            f"No such setting: {', '.join(_with_guess(name) for name in unknown)}. There are: "
            f"{', '.join(sorted(known))}."
        )


def _with_guess(name: str) -> str:
    """Return the name of a variable, with the setting that may be meant by it."""
    settings = [setting.upper() for setting in _ALLOWED]
    meant = get_close_matches(name[len(PREFIX) :].upper(), settings, n=1, cutoff=0.5)
    return f"{name} (did you mean {PREFIX}{meant[0]}?)" if meant else name


@lru_cache(maxsize=64)
def _warn_once(message: str) -> None:
    _logger.warning("%s", message)

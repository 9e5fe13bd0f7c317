from __future__ import annotations

import logging
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from rocketry_otel import RocketryOTelError, Settings, SettingsError
from rocketry_otel._model.retention import Retention

NO_DURATIONS = ["-1", "-1d", "1.5h", "30 d", "30days", "d", "all", "1e3", "\u0663d", "9" * 30]
DURATION = "a duration such as 45s, 90m, 12h, 30d or 2w"
AGE = "an age such as 45s, 90m, 12h, 30d or 2w, or a number of records to keep, 1 or more"


def test_defaults() -> None:
    """Without any variable all tasks are exported whole, and leaving may take five seconds."""
    settings = Settings()
    assert settings.dict() == {
        "repo": None,
        "span_kind": "internal",
        "exceptions": "full",
        "include": ("*",),
        "exclude": (),
        "shutdown_timeout": 5.0,
        "sigterm": True,
        "global_providers": True,
        "links": True,
        "log_lines": None,
        "propagate_baggage": False,
        "join_traces": False,
        "retention": None,
        "catch_up": 604_800,
        "state_dir": None,
        "trace_url": None,
    }
    assert type(settings.shutdown_timeout) is float


def test_every_setting_has_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are the settings' in capitals behind the prefix; values may have blanks around."""
    for name, value in {
        "REPO": " sqlite:///x.db ",
        "SPAN_KIND": "Server",
        "EXCEPTIONS": " MESSAGE",
        "INCLUDE": "etl-*, report ,",
        "EXCLUDE": "etl-x",
        "SHUTDOWN_TIMEOUT": "0.5",
        "SIGTERM": "no",
        "GLOBAL_PROVIDERS": "false",
        "LINKS": "0",
        "LOG_LINES": "true",
        "PROPAGATE_BAGGAGE": "true",
        "JOIN_TRACES": "true",
        "RETENTION": "30D ",
        "CATCH_UP": "2h",
        "STATE_DIR": "~/state",
        "TRACE_URL": "http://j/{trace_id}",
    }.items():
        monkeypatch.setenv(f"ROCKETRY_OTEL_{name}", value)
    assert Settings().dict() == {
        "repo": "sqlite:///x.db",
        "span_kind": "server",
        "exceptions": "message",
        "include": ("etl-*", "report"),
        "exclude": ("etl-x",),
        "shutdown_timeout": 0.5,
        "sigterm": False,
        "global_providers": False,
        "links": False,
        "log_lines": True,
        "propagate_baggage": True,
        "join_traces": True,
        "retention": Retention(seconds=30 * 86_400),
        "catch_up": 7_200,
        "state_dir": str(Path.home() / "state"),
        "trace_url": "http://j/{trace_id}",
    }


@pytest.mark.parametrize(
    ("log_lines", "exceptions", "expected"),
    [
        (None, "full", True),
        (None, "message", False),
        (None, "type", False),
        (True, "type", True),
        (False, "full", False),
    ],
)
def test_log_lines_are_off_where_exceptions_are_hidden(
    log_lines: Any, exceptions: Any, expected: object
) -> None:
    """Their texts may show what the setting of exceptions hides, unless they are switched on."""
    settings = Settings(log_lines=log_lines, exceptions=exceptions)
    assert settings.sends_log_lines is expected


def test_argument_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """An argument wins over the environment."""
    monkeypatch.setenv("ROCKETRY_OTEL_EXCEPTIONS", "type")
    assert Settings(exceptions="message").exceptions == "message"


@pytest.mark.parametrize(
    "name",
    [
        *("REPO", "SPAN_KIND", "EXCEPTIONS", "INCLUDE", "EXCLUDE", "SHUTDOWN_TIMEOUT"),
        *("RETENTION", "CATCH_UP", "STATE_DIR"),
    ],
)
def test_empty_variable_is_one_that_is_not_set(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the OpenTelemetry specification has it for its own variables."""
    monkeypatch.setenv(f"ROCKETRY_OTEL_{name}", " ")
    assert Settings() == Settings(include=("*",))


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("SPAN_KIND", "producer", "internal, consumer or server"),
        ("EXCEPTIONS", "none", "full, message or type"),
        ("SHUTDOWN_TIMEOUT", "soon", "a number of seconds, 0 or more"),
        ("SHUTDOWN_TIMEOUT", "-1", "a number of seconds, 0 or more"),
        ("SHUTDOWN_TIMEOUT", "nan", "a number of seconds, 0 or more"),
        ("SHUTDOWN_TIMEOUT", "inf", "a number of seconds, 0 or more"),
        ("GLOBAL_PROVIDERS", "maybe", "true or false"),
        ("LINKS", "some", "true or false"),
        *((name, value, AGE) for name, value in product(["RETENTION"], ["0", "0d", *NO_DURATIONS])),
        *((name, value, DURATION) for name, value in product(["CATCH_UP"], ["7", *NO_DURATIONS])),
        ("STATE_DIR", "~nobody-of-this-name/state", "a directory"),
    ],
)
def test_bad_value_is_an_error(
    name: str, value: str, allowed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the variable, the value and the allowed values."""
    monkeypatch.setenv(f"ROCKETRY_OTEL_{name}", value)
    with pytest.raises(SettingsError) as caught:
        Settings()
    assert str(caught.value) == f"ROCKETRY_OTEL_{name} is {value!r}; allowed is {allowed}."
    assert isinstance(caught.value, RocketryOTelError)
    assert isinstance(caught.value, ValueError)


def test_bad_argument_is_named_as_it_was_given() -> None:
    """The error names the argument, and not the variable."""
    with pytest.raises(SettingsError, match=r"^span_kind is 'x'; allowed is internal"):
        Settings(span_kind="x")


def test_unknown_argument_is_an_error() -> None:
    """A misspelt name in code does not pass in silence."""
    with pytest.raises(SettingsError, match="There is no setting 'repository'; there are repo, "):
        Settings(repository="x")


def test_password_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by the settings themselves nor by an error."""
    monkeypatch.setenv("ROCKETRY_OTEL_REPO", "postgresql://user:secret@host/db")
    assert "secret" not in repr(Settings()) + str(Settings())
    assert "postgresql://user:***@host/db" in repr(Settings())
    with pytest.raises(SettingsError) as caught:
        Settings(repo={"postgresql://user:secret@host/db": 1})
    assert "secret" not in str(caught.value)


def test_misspelt_variable_is_warned_about(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It may be a setting of a later version: it causes a warning, and no error."""
    monkeypatch.setenv("ROCKETRY_OTEL_REPOSITORY", "sqlite:///x.db")
    Settings()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith(
        "No such setting: ROCKETRY_OTEL_REPOSITORY (did you mean ROCKETRY_OTEL_REPO?). There are: "
    )


@pytest.mark.parametrize(
    ("include", "exclude", "name", "exported"),
    [
        ("*", "", "etl", True),
        ("etl", "", "etl-x", False),
        ("etl*", "", "etl-x", True),
        ("etl*", "*-x", "etl-x", False),
        ("ETL", "", "etl", False),
        ("task-[ab]", "", "task-b", True),
        ("a,b", "", "b", True),
    ],
)
def test_patterns_choose_the_tasks(
    include: str, exclude: str, name: str, *, exported: bool
) -> None:
    """A task is exported if it is included and not excluded; case counts."""
    assert Settings(include=include, exclude=exclude).exports(name) is exported


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("100000", Retention(count=100_000)),
        (5, Retention(count=5)),
        ("90m", Retention(seconds=5_400)),
        (Retention(count=7), Retention(count=7)),
        ("", None),
        (None, None),
    ],
)
def test_retention_is_an_age_or_a_count(given: Any, kept: Retention | None) -> None:
    """A bare number counts records; with a unit it is an age."""
    assert Settings(retention=given).retention == kept


def test_code_may_say_it_in_python() -> None:
    """In code, seconds are a number and a directory is a path; other values are errors."""
    settings = Settings(catch_up=60, state_dir=Path("~") / "x")
    assert (settings.catch_up, settings.state_dir) == (60, str(Path.home() / "x"))
    for bad in ({"catch_up": -1}, {"state_dir": b"x\xff"}, {"retention": 0}, {"retention": []}):
        with pytest.raises(SettingsError):
            Settings(**bad)


def test_switch_of_the_line_at_the_start_is_known(monkeypatch, caplog) -> None:
    """It is no setting, and no unknown variable either."""
    monkeypatch.setenv("ROCKETRY_OTEL_PYDANTIC", "off")
    Settings()
    assert caplog.records == []


def test_page_of_a_trace_needs_its_id(monkeypatch):
    """A URL without a place for the id is refused; an empty one is none."""
    monkeypatch.setenv("ROCKETRY_OTEL_TRACE_URL", "http://localhost:16686/trace/")
    with pytest.raises(SettingsError, match=r"allowed is a URL with \{trace_id\} in it"):
        Settings()
    monkeypatch.setenv("ROCKETRY_OTEL_TRACE_URL", "")
    assert Settings().trace_url is None
    assert Settings(trace_url=None).trace_url is None

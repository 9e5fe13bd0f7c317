"""One line at the start of a scheduler: where records are kept, and where telemetry goes."""

from __future__ import annotations

import logging
import sys
import types
from typing import Any

import pytest
from redbird.repos import CSVFileRepo, MemoryRepo

from rocketry_otel import TaskEventRecord, instrument, uninstrument
from rocketry_otel._instrumentation import hooks
from rocketry_otel._instrumentation.placement import Placement
from rocketry_otel._instrumentation.start_line import start_line
from rocketry_otel.testing import capture_telemetry
from tests.support.apps import make_app, run_tasks
from tests.support.otlp_receiver import OTLPReceiver

_IN_MEMORY = (
    "Records are kept in memory:// and end with this process; "
    "ROCKETRY_OTEL_REPO=sqlite:///tasks.db would keep them. "
)
_LINES = " Log lines of tasks are sent; ROCKETRY_OTEL_LOG_LINES=false switches them off."


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the lines about starts."""
    records = [one for one in caplog.records if one.getMessage().startswith("Records are kept")]
    assert {(one.name, one.levelname) for one in records} <= {("rocketry_otel", "INFO")}
    return [one.getMessage() for one in records]


def test_each_start_is_confirmed_once(caplog, monkeypatch, tmp_path) -> None:
    """Not once in each cycle; without the secrets of the addresses."""
    caplog.set_level(logging.INFO)
    url = f"sqlite:///{tmp_path}/tasks.db"
    with OTLPReceiver(grpc=False) as receiver:
        endpoint = receiver.http_endpoint
        secret = endpoint.replace("://", "://user:secret@")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", secret)
        monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
        app = make_app()
        instrument(app, repo=url)
        run_tasks(app, cycles=3)
        run_tasks(app, cycles=3)
        uninstrument(app)
    line = (
        f"Records are kept in {url}. Traces go to {endpoint}/v1/traces; logs go to "
        f"{endpoint}/v1/logs; metrics are not sent.{_LINES}"
    )
    assert lines(caplog) == [line, line]


def test_start_in_memory_has_a_remark(caplog) -> None:
    """History ends with the process; the variable is named. The providers are the application's."""
    caplog.set_level(logging.INFO)
    app = make_app()
    with capture_telemetry(app):
        run_tasks(app)
    assert lines(caplog) == [
        f"{_IN_MEMORY}Traces, logs and metrics go to the provider of the application.{_LINES}"
    ]


def test_log_lines_are_not_mentioned_if_they_are_off(caplog, monkeypatch) -> None:
    """The line names the variable that switches them off only if they are sent."""
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("ROCKETRY_OTEL_LOG_LINES", "false")
    app = make_app()
    with capture_telemetry(app):
        run_tasks(app)
    (line,) = lines(caplog)
    assert "LOG_LINES" not in line


class _Odd(CSVFileRepo):  # type: ignore[misc]
    """A repository of the user's with a file that is none."""


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        ("csv", "{path} (CSVFileRepo)"),
        ("url", "postgresql://u:***@h/d"),
        ("odd", "_Odd"),
        ("other", "_Other"),
    ],
)
def test_place_of_records_is_an_address_or_a_name(tmp_path, kind: str, place: str) -> None:
    """An unknown repository is shown by the name of its class."""
    repo: Any = CSVFileRepo(filename=tmp_path / "x.csv", model=TaskEventRecord)
    url = "postgresql://u:secret@h/d" if kind == "url" else None
    if kind == "odd":
        repo = _Odd(filename=tmp_path / "x.csv", model=TaskEventRecord)
        repo.__dict__["filename"] = None
    elif kind == "other":
        repo = type("_Other", (), {})()
    shown = place.format(path=tmp_path / "x.csv")
    assert start_line(repo, url, None) == (
        f"Records are kept in {shown}. No telemetry is sent: the providers could not be found."
    )


@pytest.mark.parametrize("is_broken", ["handler", "line"])
def test_start_goes_on_without_its_line(caplog, monkeypatch, is_broken: str) -> None:
    """If the handler was taken away there is no line; an error in it costs nothing."""
    caplog.set_level(logging.INFO)
    if is_broken == "handler":
        monkeypatch.setattr(Placement, "handler", property(lambda _: None))
    else:
        monkeypatch.setattr(hooks, "start_line", None)
    app = make_app()
    with capture_telemetry(app):
        run_tasks(app)
    assert lines(caplog) == []


def test_configuration_file_is_mentioned(caplog, monkeypatch) -> None:
    """The line has what it means for delivery: with providers, without any, and if it is unread."""
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("OTEL_CONFIG_FILE", "otel.yaml")
    monkeypatch.delitem(sys.modules, "opentelemetry.configuration", raising=False)
    app = make_app()
    with capture_telemetry(app):
        run_tasks(app)
    unread = " OTEL_CONFIG_FILE is not used: only opentelemetry-instrument reads it, and only with"
    assert unread in lines(caplog)[0]
    caplog.clear()
    monkeypatch.setitem(sys.modules, "opentelemetry.configuration", types.ModuleType("it"))
    app = make_app()
    with capture_telemetry(app):
        run_tasks(app)
    assert (
        " go to the provider of the application. OTEL_CONFIG_FILE configures this: what cannot be "
        "sent is not sent again from the repository."
    ) in lines(caplog)[0]
    caplog.clear()
    app = make_app()
    instrument(app)
    run_tasks(app)
    uninstrument(app)
    assert " OTEL_CONFIG_FILE configures this: it has no provider, or is" in lines(caplog)[0]
    assert "OTEL_CONFIG_FILE" not in start_line(MemoryRepo(), None, None)

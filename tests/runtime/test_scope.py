"""The instrumentation scope, as it reaches a collector."""

from __future__ import annotations

import logging

import pytest

from rocketry_otel import instrument, uninstrument
from rocketry_otel._runtime.scope import NAME, SCHEMA_URL, VERSION
from tests.support.apps import LINES, log_a_line, make_app, run_tasks
from tests.support.histories import named_by_the_environment
from tests.support.otlp_receiver import OTLPReceiver


def scopes_in(receiver: OTLPReceiver) -> dict[str, dict[str, tuple[str, str]]]:
    """Return by signal and name of the scope its version and schema URL."""
    found: dict[str, dict[str, tuple[str, str]]] = {}
    for arrival in receiver.requests:
        parts = {"traces": "spans", "logs": "logs", "metrics": "metrics"}[arrival.signal]
        for of_resource in getattr(arrival.message, f"resource_{parts}"):
            for of_scope in getattr(of_resource, f"scope_{parts}"):
                its = (of_scope.scope.version, of_scope.schema_url)
                found.setdefault(arrival.signal, {})[of_scope.scope.name] = its
    return found


def test_every_scope_has_the_schema_url(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """That of spans, log records, log lines and all metrics, with our version where it is ours."""
    app = make_app()
    app.session.create_task(func=log_a_line, name="etl")
    with named_by_the_environment(monkeypatch) as receiver, caplog.at_level(logging.INFO):
        handler = instrument(app)
        run_tasks(app, "etl")
        assert handler.flush(20)
        uninstrument(app)
        found = scopes_in(receiver)
    ours, others = (VERSION, SCHEMA_URL), ("", SCHEMA_URL)
    assert found["traces"] == {NAME: ours}
    assert found["logs"] == {NAME: ours, LINES.name: others, "rocketry.scheduler": others}
    assert found["metrics"] == dict.fromkeys(
        (NAME, f"{NAME}.traces", f"{NAME}.logs", f"{NAME}.scheduler"), ours
    )

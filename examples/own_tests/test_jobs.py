"""Tests of your own tasks: pytest finds the fixture `capture_rocketry` by itself.

pytest
"""

from __future__ import annotations

from pathlib import Path

import jobs
import pytest
from opentelemetry.trace import StatusCode

from rocketry_otel.testing import CaptureRocketry


def test_lines_are_counted(
    capture_rocketry: CaptureRocketry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run's span has the number of lines as an attribute."""
    monkeypatch.setattr(jobs, "PRICES", tmp_path / "prices.csv")
    jobs.PRICES.write_text("apples,1\npears,2\n", encoding="utf-8")
    telemetry = capture_rocketry(jobs.app)

    jobs.app.session.run("load_prices")

    attributes = telemetry.span("load_prices").attributes or {}
    assert attributes["rocketry.action"] == "success"
    assert attributes["lines"] == 2


def test_empty_file_is_an_error(
    capture_rocketry: CaptureRocketry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run fails, with the exception on its span, and nothing is published."""
    monkeypatch.setattr(jobs, "PRICES", tmp_path / "prices.csv")
    jobs.PRICES.touch()
    telemetry = capture_rocketry(jobs.app)

    jobs.app.session.run("load_prices")

    span = telemetry.span("load_prices")
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == "ValueError"
    assert [span.name for span in telemetry.spans] == ["run load_prices"]
    (event,) = span.events
    assert (event.attributes or {})["exception.message"] == "the file of prices is empty"

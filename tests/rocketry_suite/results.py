"""A plugin for pytest that writes the outcome of every test to a file.

In: the variable ``RESULTS_FILE``. Out: that file, a JSON object that gives for
the id of a test ``passed``, ``failed`` or another outcome of pytest.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

_outcomes: dict[str, str] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep the outcome of a test; a failure in any of its phases is its outcome."""
    name = report.nodeid.rpartition("/test/")[2]
    if report.failed or (report.when == "call" and name not in _outcomes):
        _outcomes[name] = report.outcome


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write all outcomes, in the process that has gathered them."""
    if not hasattr(session.config, "workerinput"):
        Path(os.environ["RESULTS_FILE"]).write_text(json.dumps(_outcomes), encoding="utf-8")

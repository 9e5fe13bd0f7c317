"""The files for Grafana, which does not run here: the dashboard's schema, the grammar of LogQL."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.processes import run_command

from .dashboard import DASHBOARD, FILE, filled_in, targets
from .programs import GRAFANA_SCHEMA, LOGQL, Program
from .servers import ROOT

DATASOURCES = ROOT / "stack" / "grafana" / "datasources.yaml"
# The schema is that of Grafana 12.1. The next version moved this option, so it is in both places.
MOVED = "options.Options: unexpected field 'enablePagination'"


def need(program: Program) -> Path:
    """Return the folder of a program; without it the test is skipped, or fails if all must run."""
    if program.is_built and not program.missing_tools:
        return program.directory
    missing = ", ".join(program.missing_tools) or program.key
    reason = f"needs what is not here: {missing}"
    if os.environ.get("REQUIRE_ALL_TESTS") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def errors_in(dashboard: Any, folder: Path) -> list[str]:
    """Return what does not fit Grafana's schema in a dashboard."""
    checker = need(GRAFANA_SCHEMA) / "grafana"
    file = folder / "dashboard.json"
    file.write_text(json.dumps(dashboard), encoding="utf-8")
    found = run_command([str(checker), str(file)]).stdout
    return [line for line in found.replace(f"{file}: ", "").splitlines() if MOVED not in line]


def no_logql(queries: Sequence[str]) -> list[str]:
    """Return the queries that are no LogQL, each with a mark at its first error."""
    folder = need(LOGQL)
    done = run_command(["node", str(folder / "main.js"), json.dumps(queries)])
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout)
    return found


def test_dashboard_fits_the_schema(tmp_path: Path) -> None:
    """No field is unknown, of another type, or missing."""
    assert FILE.name == "rocketry-tasks.json"
    assert errors_in(DASHBOARD, tmp_path) == []


def test_field_that_the_schema_does_not_know_is_found(tmp_path: Path) -> None:
    """The check would notice a field with a wrong name, and one of a wrong type."""
    wrong = {**DASHBOARD, "colour": "red", "graphTooltip": "shared"}
    assert errors_in(wrong, tmp_path)
    assert errors_in({**DASHBOARD, "colour": "red"}, tmp_path) == [
        "Dashboard: unexpected field 'colour'"
    ]


def test_queries_of_log_lines_are_logql() -> None:
    """Those of the panels, and the one that leads from a span to its lines."""
    queries = [
        filled_in(target["expr"].replace("$trace", "0" * 32), "shop") for target in targets("loki")
    ]
    sources = yaml.safe_load(DATASOURCES.read_text(encoding="utf-8"))["datasources"]
    links = [it["jsonData"]["tracesToLogsV2"] for it in sources if it["type"] == "jaeger"]
    queries += [link["query"].replace("$${__trace.traceId}", "0" * 32) for link in links]
    assert len(queries) == 3
    assert no_logql(queries) == []


def test_query_that_is_no_logql_is_found() -> None:
    """The check would notice a brace or a value that is missing."""
    good = '{a="b"} | c="d"'
    assert no_logql([good, '{a="b"', '{a="b"} | c > ']) == ['{a="b"<here>', '{a="b"} | c > <here>']

"""The dashboard that is shipped, as what asks for data."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from .servers import ROOT

FILE = ROOT / "stack" / "grafana" / "rocketry-tasks.json"
DASHBOARD = json.loads(FILE.read_text(encoding="utf-8"))


def panels() -> Iterator[dict[str, Any]]:
    """Give all panels that show something."""
    for panel in DASHBOARD["panels"]:
        if panel["type"] != "row":
            yield panel


def targets(kind: str) -> Iterator[dict[str, Any]]:
    """Give all queries to a kind of data source, each with the panel's title."""
    for panel in panels():
        for target in panel["targets"]:
            if target["datasource"]["type"] == kind:
                yield {**target, "title": panel["title"]}


def filled_in(query: str, service: str, task: str = ".*") -> str:
    """Put values in the place of the variables, as Grafana does."""
    values = {
        "$__rate_interval": "10s",
        "$__range": "60s",
        "$service": service,
        "$task": task,
    }
    for name, value in values.items():
        query = query.replace(name, value)
    assert "$" not in query, query
    return query

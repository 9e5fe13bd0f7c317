"""The dashboard that is shipped, as what asks for data."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from .servers import ROOT

FILE = ROOT / "stack" / "grafana" / "rocketry-tasks.json"
DASHBOARD = json.loads(FILE.read_text(encoding="utf-8"))


def panels() -> Iterator[dict[str, Any]]:
    """Give all panels that show something, those of closed rows too."""
    for panel in DASHBOARD["panels"]:
        if panel["type"] == "row":
            yield from panel["panels"]
        else:
            yield panel


def panel_of(title: str) -> dict[str, Any]:
    """Return the panel with this title."""
    (panel,) = (panel for panel in panels() if panel["title"] == title)
    return panel


def targets(kind: str) -> Iterator[dict[str, Any]]:
    """Give all queries to a kind of data source, each with the panel's title."""
    for panel in panels():
        for target in panel["targets"]:
            if target["datasource"]["type"] == kind:
                yield {**target, "title": panel["title"]}


def filled_in(query: str, service: str, task: str = ".*", shown: str = "60s") -> str:
    """Put values in the place of the variables, as Grafana does.

    Args:
        query: The query of a panel.
        service: The chosen service.
        task: The chosen tasks, as a pattern.
        shown: The length of the shown time.
    """
    values = {
        "$__rate_interval": "10s",
        "$__interval": "10s",
        "$__range": shown,
        "$service": service,
        "$task": task,
    }
    for name, value in values.items():
        query = query.replace(name, value)
    assert "$" not in query, query
    return query

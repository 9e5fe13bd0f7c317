"""Attributes, events and links that are added to a run's span, and their form in a record.

In: values from a task's body, or JSON from a record. Out: clean values, or JSON for a record. A
repository keeps them as JSON, so that a replay sends the same.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from .plain_values import AttributeValue, plain_value
from .text import safe_text

if TYPE_CHECKING:
    from collections.abc import Mapping

Attributes = dict[str, AttributeValue]

DEPENDENCY = "dependency"
REQUEST = "request"

# The SDK's own limits. A reader loses the overview long before.
_MOST_ATTRIBUTES = 128
_MOST_EVENTS = 128
MOST_LINKS = 128


class RunEvent(NamedTuple):
    """Something that happened during a run; ``time`` is in nanoseconds since the epoch."""

    name: str
    time: int
    attributes: tuple[tuple[str, AttributeValue], ...] = ()


class RunLink(NamedTuple):
    """A link to another span, and its kind: ``dependency`` or ``request``."""

    trace_id: int
    span_id: int
    kind: str


class Annotations:
    """Attributes and events that the body of a task adds to the span of its run."""

    def __init__(self) -> None:
        """Start empty."""
        self.attributes: Attributes = {}
        self.events: list[RunEvent] = []

    def set_attribute(self, key: str, value: object) -> None:
        """Add or change an attribute; after 128, new ones are ignored, as is one without a key."""
        key = safe_text(key)
        if not key:
            return
        if key in self.attributes or len(self.attributes) < _MOST_ATTRIBUTES:
            self.attributes[key] = plain_value(value)

    def add_event(self, name: str, time: int, attributes: object) -> None:
        """Add an event; after 128, new ones are ignored. Attributes that are no mapping are too."""
        if len(self.events) < _MOST_EVENTS:
            self.events.append(RunEvent(safe_text(name), time, _attributes_of(attributes)))


def plain_attributes(attributes: Mapping[Any, object]) -> tuple[tuple[str, AttributeValue], ...]:
    """Return attributes as plain pairs, sorted by key, so that each sender has the same order."""
    pairs = {safe_text(key): plain_value(value) for key, value in attributes.items()}
    # OpenTelemetry has no attribute without a key.
    pairs.pop("", None)
    return tuple(sorted(pairs.items()))


def _attributes_of(attributes: Any) -> tuple[tuple[str, AttributeValue], ...]:
    try:
        return plain_attributes(attributes)
    except Exception:  # noqa: BLE001  # the task shall go on, whatever it has handed over
        return ()


def attributes_as_text(attributes: tuple[tuple[str, AttributeValue], ...]) -> str | None:
    """Return attributes as a record keeps them; ``None`` if there are none."""
    return json.dumps(dict(attributes)) if attributes else None


def events_as_text(events: tuple[RunEvent, ...]) -> str | None:
    """Return events as a record keeps them; ``None`` if there are none."""
    if not events:
        return None
    return json.dumps(
        [
            {"name": event.name, "time": event.time, "attributes": dict(event.attributes)}
            for event in events
        ]
    )


def links_as_text(links: tuple[RunLink, ...]) -> str | None:
    """Return links as a record keeps them; ``None`` if there are none."""
    if not links:
        return None
    return json.dumps(
        [
            {
                "trace_id": f"{link.trace_id:032x}",
                "span_id": f"{link.span_id:016x}",
                "link": link.kind,
            }
            for link in links
        ]
    )


def read_attributes(stored: object) -> tuple[tuple[str, AttributeValue], ...]:
    """Return the attributes of a record; none if the field has another content."""
    try:
        return plain_attributes(_loaded(stored))
    except Exception:  # noqa: BLE001  # a column of the user's that happens to have our name
        return ()


def read_events(stored: object) -> tuple[RunEvent, ...]:
    """Return the events of a record; none if the field has another content."""
    try:
        return tuple(
            RunEvent(
                safe_text(item["name"]),
                min(max(int(item["time"]), 0), 2**63 - 1),
                plain_attributes(item["attributes"]),
            )
            for item in _loaded(stored)[:_MOST_EVENTS]
        )
    except Exception:  # noqa: BLE001
        return ()


def read_links(stored: object) -> tuple[RunLink, ...]:
    """Return the links of a record; none if the field has another content."""
    try:
        return tuple(
            RunLink(
                int(item["trace_id"], 16) % 2**128,
                int(item["span_id"], 16) % 2**64,
                safe_text(item["link"]),
            )
            for item in _loaded(stored)[:MOST_LINKS]
        )
    except Exception:  # noqa: BLE001
        return ()


def _loaded(stored: object) -> Any:
    return json.loads(stored) if isinstance(stored, str) else stored

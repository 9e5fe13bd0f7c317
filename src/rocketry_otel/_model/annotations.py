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

# The name that a body has given to its run.
BODY_NAME = "rocketry.name"
# Not sent as attributes: the description of an error that a body has set as the status, and the
# name that a user's hook gave to the span.
BODY_ERROR = "rocketry.body_error"
SPAN_NAME = "rocketry.span_name"
_RESERVED = frozenset({"", BODY_ERROR, SPAN_NAME})

DEPENDENCY = "dependency"
REQUEST = "request"
RETRY = "retry"
# The link to the span of another trace that is the parent of the run.
PARENT = "parent"

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
    """A link to another span.

    Attributes:
        trace_id: The trace of the other span.
        span_id: The other span.
        kind: ``dependency``, ``request``, ``retry`` or ``parent``; empty for a link that a body
            has added.
        attributes: The attributes that a body has given it.
    """

    trace_id: int
    span_id: int
    kind: str
    attributes: tuple[tuple[str, AttributeValue], ...] = ()


def parent_of(links: tuple[RunLink, ...]) -> RunLink | None:
    """Return the link to the parent of a run; ``None`` if the run is the root of its trace."""
    # Most runs have no link.
    return next((link for link in links if link.kind == PARENT), None) if links else None


class Annotations:
    """What the body of a task adds to the span of its run.

    Several threads may add at once: each step is one step of the interpreter.

    Attributes:
        events: The events, in the order in which they were added.
        links: The links.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._attributes: Attributes = {}
        # What has a place of its own beside the attributes, and is stored among them.
        self._own: Attributes = {}
        self.events: list[RunEvent] = []
        self.links: list[RunLink] = []

    @property
    def attributes(self) -> Attributes:
        """The attributes, and among them the body's name and error of the run."""
        return {**self._attributes, **self._own}

    def set_attribute(self, key: str, value: object) -> None:
        """Add or change an attribute.

        After 128, new ones are ignored, as is one without a key or with a reserved one.
        """
        key = safe_text(key)
        if key in _RESERVED:
            return
        if key in self._attributes or len(self._attributes) < _MOST_ATTRIBUTES:
            self._attributes[key] = plain_value(value)

    def set_name(self, name: str) -> None:
        """Set the body's own name of the run."""
        self._own[BODY_NAME] = safe_text(name)

    def set_error(self, description: str | None) -> None:
        """Set the description of an error that did not end the run; ``None`` removes it."""
        if description is None:
            self._own.pop(BODY_ERROR, None)
        else:
            self._own[BODY_ERROR] = safe_text(description)

    def add_link(self, trace_id: int, span_id: int, attributes: object) -> None:
        """Add a link; after 128, new ones are ignored. Attributes that are no mapping are too."""
        if len(self.links) < MOST_LINKS:
            self.links.append(RunLink(trace_id, span_id, "", _attributes_of(attributes)))

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
                **({"attributes": dict(link.attributes)} if link.attributes else {}),
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
                plain_attributes(item.get("attributes", {})),
            )
            for item in _loaded(stored)[:MOST_LINKS]
        )
    except Exception:  # noqa: BLE001
        return ()


def _loaded(stored: object) -> Any:
    return json.loads(stored) if isinstance(stored, str) else stored

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rocketry_otel._model.annotations import (
    Annotations,
    RunEvent,
    RunLink,
    attributes_as_text,
    events_as_text,
    links_as_text,
    plain_attributes,
    read_attributes,
    read_events,
    read_links,
)
from rocketry_otel._model.text import safe_text


class Evil:
    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__
    __getitem__ = __iter__ = __str__


class EvilMapping(dict[str, Any]):
    def items(self) -> Any:
        raise RuntimeError("no")


class OddText(str):
    __slots__ = ()


texts = st.text(st.characters(), max_size=20) | st.sampled_from(["\ud800", "a\x00b", "", "é"])
values = (
    texts
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from([math.nan, math.inf, -0.0, 2**63, -(2**63), 10**400, None, OddText("x")])
    | st.builds(Evil)
    | st.lists(st.integers() | st.floats() | st.booleans() | texts, max_size=3)
    | st.decimals()
)
attributes = st.dictionaries(texts | st.integers(), values, max_size=6).map(plain_attributes)
events = st.lists(
    st.builds(RunEvent, texts.map(safe_text), st.integers(0, 2**63 - 1), attributes), max_size=4
).map(tuple)
links = st.lists(
    st.builds(
        RunLink,
        st.integers(1, 2**128 - 1),
        st.integers(1, 2**64 - 1),
        texts.map(safe_text),
        attributes,
    ),
    max_size=4,
).map(tuple)
json_like = st.recursive(
    values | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
keyed = st.dictionaries(
    st.sampled_from(["name", "time", "attributes", "trace_id", "span_id", "link"]), json_like
)
odd = (
    json_like
    | st.lists(keyed, max_size=3)
    | st.sampled_from(
        [
            "[" * 100_000,
            "1" * 5000,
            '[{"name": "n", "time": 1e400, "attributes": {}}]',
            '[{"name": "n", "time": NaN, "attributes": {}}]',
            Evil(),
            EvilMapping(a=1),
        ]
    )
)


@given(attributes)
def test_attributes_survive_their_text(kept: tuple[tuple[str, Any], ...]) -> None:
    """Attributes are read back from a record with their types and their order."""
    text = attributes_as_text(kept)
    found = read_attributes(text) if text is not None else ()
    assert found == kept
    assert [type(value) for _, value in found] == [type(value) for _, value in kept]


@given(events)
def test_events_survive_their_text(kept: tuple[RunEvent, ...]) -> None:
    """Events are read back from a record in their order."""
    text = events_as_text(kept)
    assert (read_events(text) if text is not None else ()) == kept


@given(links)
def test_links_survive_their_text(kept: tuple[RunLink, ...]) -> None:
    """Links are read back from a record in their order."""
    text = links_as_text(kept)
    assert (read_links(text) if text is not None else ()) == kept


def test_no_annotations_are_no_text() -> None:
    """The column stays empty."""
    assert (attributes_as_text(()), events_as_text(()), links_as_text(())) == (None, None, None)


def test_text_is_plain_json() -> None:
    """A user can read a column, and find the trace of a link by its hex ids."""
    assert attributes_as_text((("a", 1), ("b", "é"))) == '{"a": 1, "b": "\\u00e9"}'
    assert events_as_text((RunEvent("e", 5, (("k", True),)),)) == (
        '[{"name": "e", "time": 5, "attributes": {"k": true}}]'
    )
    assert links_as_text((RunLink(10, 11, "request"),)) == (
        f'[{{"trace_id": "{10:032x}", "span_id": "{11:016x}", "link": "request"}}]'
    )


@given(odd)
def test_whatever_a_column_holds_is_read_as_something_clean(stored: object) -> None:
    """A user's column with our name raises nothing, and gives only values that can be sent."""
    pairs, its_events, its_links = read_attributes(stored), read_events(stored), read_links(stored)
    assert plain_attributes(dict(pairs)) == pairs
    for event in its_events:
        assert safe_text(event.name) == event.name
        assert 0 <= event.time < 2**63
        assert plain_attributes(dict(event.attributes)) == event.attributes
    for link in its_links:
        assert 0 <= link.trace_id < 2**128
        assert 0 <= link.span_id < 2**64
        assert safe_text(link.kind) == link.kind
    json.dumps([pairs, its_events, its_links], allow_nan=False).encode()


@pytest.mark.parametrize(
    "stored",
    [
        "no json", "[1]", "5", "null", '"x"', 5, [1], Evil(), EvilMapping(a=1), "[" * 100_000,
        "1" * 5000, [{}], '[{"name": "n"}]', '[{"trace_id": "x", "span_id": "1", "link": "l"}]',
        '[{"name": "n", "time": NaN, "attributes": {}}]',
        '[{"name": "n", "time": 1, "attributes": "x"}]',
    ],
    ids=lambda value: str(type(value)) if isinstance(value, Evil | dict) else str(value)[:30],
)  # fmt: skip
def test_foreign_content_gives_nothing(stored: object) -> None:
    """Neither attributes nor events nor links are made up."""
    assert (read_attributes(stored), read_events(stored), read_links(stored)) == ((), (), ())


def test_parsed_json_is_accepted() -> None:
    """A JSON column comes back as lists and dictionaries, not as text."""
    assert read_attributes({"b": 1, "a": 2}) == (("a", 2), ("b", 1))
    assert read_events([{"name": "e", "time": 1.0, "attributes": {"k": 1}}]) == (
        RunEvent("e", 1, (("k", 1),)),
    )
    assert read_links([{"trace_id": "a", "span_id": "b", "link": "dependency"}]) == (
        RunLink(10, 11, "dependency"),
    )


@pytest.mark.parametrize(("time", "kept"), [(-5, 0), (2**70, 2**63 - 1), ("7", 7)])
def test_time_out_of_range_is_the_end_of_the_range(time: object, kept: int) -> None:
    """Times of events are in the range of OTLP and of backends."""
    (event,) = read_events([{"name": "e", "time": time, "attributes": {}}])
    assert event.time == kept


def test_ids_out_of_range_are_cut() -> None:
    """A link's ids fit their 128 and 64 bits, whatever the column holds."""
    (link,) = read_links([{"trace_id": "f" * 40, "span_id": "f" * 40, "link": "x"}])
    assert (link.trace_id, link.span_id) == (2**128 - 1, 2**64 - 1)


def test_attributes_are_sorted_and_their_keys_are_text() -> None:
    """One order and clean keys; of two keys that are the same text the later one counts."""
    assert plain_attributes({"b": 1, 3: 2, "a\x00": 3, "a\\x00": 4}) == (
        ("3", 2),
        ("a\\x00", 4),
        ("b", 1),
    )


def test_attribute_can_be_set_again() -> None:
    """The last value counts, in the place of the first."""
    annotations = Annotations()
    annotations.set_attribute("rows", 1)
    annotations.set_attribute("file", None)
    annotations.set_attribute("rows", 2)
    assert list(annotations.attributes.items()) == [("rows", 2), ("file", "None")]


def test_key_of_another_type_becomes_text() -> None:
    """No key that a body gives raises anything."""
    annotations = Annotations()
    annotations.set_attribute(5, 1)  # type: ignore[arg-type]
    annotations.set_attribute("\ud800", 2)
    assert annotations.attributes == {"5": 1, "\\ud800": 2}


def test_attribute_129_is_ignored() -> None:
    """A body that adds without end costs no memory without end."""
    annotations = Annotations()
    for number in range(200):
        annotations.set_attribute(f"k{number}", number)
    annotations.set_attribute("k0", "changed")
    assert list(annotations.attributes) == [f"k{number}" for number in range(128)]
    assert annotations.attributes["k0"] == "changed"


def test_beyond_128_no_event_is_taken() -> None:
    """Those that came first stay, in their order and as plain values."""
    annotations = Annotations()
    for number in range(200):
        annotations.add_event(f"e{number}\x00", number, {"n": number, "a": None})
    assert len(annotations.events) == 128
    assert annotations.events[127] == RunEvent("e127\\x00", 127, (("a", "None"), ("n", 127)))


def test_beyond_128_neither_events_nor_links_are_read() -> None:
    """A column that somebody else filled gives no more than a body could have added."""
    event = {"name": "e", "time": 1, "attributes": {}}
    link = {"trace_id": "1", "span_id": "1", "link": "x"}
    assert len(read_events(json.dumps([event] * 200))) == 128
    assert len(read_links(json.dumps([link] * 200))) == 128


def test_attribute_without_a_key_is_ignored() -> None:
    """OpenTelemetry has none, and would warn of each."""
    annotations = Annotations()
    annotations.set_attribute("", 1)
    annotations.add_event("e", 5, {"": 1, "a": 2})
    assert annotations.attributes == {}
    assert annotations.events == [RunEvent("e", 5, (("a", 2),))]
    assert plain_attributes({"": 1}) == ()


@pytest.mark.parametrize("odd", [5, "text", [1], EvilMapping(a=1)])
def test_odd_attributes_of_an_event_are_ignored(odd: Any) -> None:
    """The task goes on, and the event is there."""
    annotations = Annotations()
    annotations.add_event("e", 5, odd)
    assert annotations.events == [RunEvent("e", 5)]


def test_reserved_attributes_are_ignored() -> None:
    """A body cannot set what has another meaning in a record."""
    annotations = Annotations()
    annotations.set_attribute("rocketry.span_name", "x")
    annotations.set_attribute("rocketry.body_error", "x")
    assert annotations.attributes == {}


def test_name_and_error_are_among_the_attributes() -> None:
    """So they are stored with them; an error can be taken back."""
    annotations = Annotations()
    for number in range(200):
        annotations.set_attribute(f"k{number}", number)
    annotations.set_name("nightly")
    annotations.set_error("half of the rows")
    assert len(annotations.attributes) == 130
    assert annotations.attributes["rocketry.name"] == "nightly"
    assert annotations.attributes["rocketry.body_error"] == "half of the rows"
    annotations.set_error(None)
    assert "rocketry.body_error" not in annotations.attributes


def test_links_of_a_body_are_limited() -> None:
    """After 128 they are ignored; their attributes are cleaned."""
    annotations = Annotations()
    for number in range(200):
        annotations.add_link(number + 1, 1, {"why": ["a", 1]})
    assert len(annotations.links) == 128
    assert annotations.links[0] == RunLink(1, 1, "", (("why", ("a", "1")),))

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rocketry_otel._model.text import (
    one_line,
    optional_integer,
    optional_seconds,
    safe_text,
    shortened,
)


class Evil:
    def __str__(self) -> str:
        raise RuntimeError("no")


class EvilText(str):
    __slots__ = ()

    def __str__(self) -> str:
        raise RuntimeError("no")

    def replace(self, *_: object) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("etl", "etl"),
        ("größe", "größe"),
        (5, "5"),
        (None, "None"),
        ("a\ud800b", "a\\ud800b"),
        ("a\x00b", "a\\x00b"),
        (Evil(), "<Evil that cannot be shown>"),
        (EvilText("etl"), "etl"),
        (10**5000, "<int that cannot be shown>"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_it_is_becomes_clean_text(value: object, text: str) -> None:
    """Each value becomes an exact ``str`` that describes it."""
    assert safe_text(value) == text
    assert type(safe_text(value)) is str


@given(st.text(st.characters()))
def test_clean_text_can_be_encoded_and_stays_as_it_is(text: str) -> None:
    """Any text, lone surrogates included, can be encoded after cleaning, and cleans to itself."""
    clean = safe_text(text)
    assert clean.encode("utf-8").decode("utf-8") == clean
    assert "\x00" not in clean
    assert safe_text(clean) == clean


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("\u00e9" * 4, "\u00e9" * 4),
        ("\u00e9" * 5, "\u00e9\n[... 1 characters left out ...]\n" + "\u00e9" * 3),
        ("\U0001f40d" * 9, "\n[... 8 characters left out ...]\n\U0001f40d"),
    ],
)
def test_text_is_shortened_by_its_bytes(text: str, short: str) -> None:
    """Backends limit bytes: a character of several counts as such, and none is cut in two."""
    assert shortened(text, 8) == short


def test_short_text_is_not_shortened() -> None:
    """A text within the limit is returned unchanged."""
    assert shortened("abcd", 4) == "abcd"


def test_long_text_keeps_its_beginning_and_its_end() -> None:
    """The beginning gets a quarter of the room, the end the rest, and the gap is marked."""
    assert (
        shortened("ab" + "x" * 100 + "defghi", 8) == "ab\n[... 100 characters left out ...]\ndefghi"
    )


@pytest.mark.parametrize(
    ("value", "number"),
    [(7, 7), (True, 1), (2**63, None), ("7", None), (7.5, None), (None, None), ([], None)],
)
def test_only_an_integer_is_one(value: object, number: int | None) -> None:
    """A value that no database keeps as an integer is left out."""
    assert optional_integer(value) == number


def test_times_and_lengths_are_seconds() -> None:
    """Whatever Rocketry or an application has for them."""
    assert optional_seconds(timedelta(minutes=1)) == 60.0
    assert optional_seconds(datetime(1970, 1, 2, tzinfo=timezone.utc)) == 86_400.0
    assert (optional_seconds(3), optional_seconds(0.5)) == (3.0, 0.5)
    assert (optional_seconds("3"), optional_seconds(None)) == (None, None)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\n  b", "a b"),
        ("a\x1b[2Jb\x00\x9b\u202ec\u2028d\ud800", "a [2Jb c d"),
        ("grün 🚀", "grün 🚀"),
        ("", ""),
        ("x" * 10, "x" * 10),
        ("x" * 11, "x" * 7 + "..."),
        (" " * 50 + "x", "..."),
    ],
)
def test_text_becomes_one_printable_line(text: str, line: str) -> None:
    """No text of somebody else's begins a second line, or reaches the terminal as a command."""
    assert one_line(text, 10) == line
    assert line.isprintable()

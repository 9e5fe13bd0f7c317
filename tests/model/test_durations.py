from __future__ import annotations

import re

import pytest

from rocketry_otel._model.durations import EXAMPLES, seconds_of


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("45s", 45),
        ("90m", 5_400),
        ("12h", 43_200),
        ("30d", 2_592_000),
        ("2w", 1_209_600),
        (" 7D ", 604_800),
        ("0s", 0),
        ("999999999999w", 999_999_999_999 * 604_800),
    ],
)
def test_duration_is_a_number_and_a_unit(text: str, seconds: int) -> None:
    """The unit is one letter, in either case."""
    assert seconds_of(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "5", "h", "1.5h", "-1d", "1 d", "1h30m", "1y", "1٣d", "1d\n2"]
)
def test_other_text_is_an_error_with_examples(text: str) -> None:
    """It names the text and gives examples."""
    with pytest.raises(
        ValueError, match=re.escape(f"{text!r} is not a duration such as {EXAMPLES}")
    ):
        seconds_of(text)


def test_examples_are_durations() -> None:
    """The examples of the error are allowed."""
    assert [seconds_of(text) for text in re.findall(r"\w*\d+\w", EXAMPLES)] == [
        45, 5_400, 43_200, 2_592_000, 1_209_600,
    ]  # fmt: skip

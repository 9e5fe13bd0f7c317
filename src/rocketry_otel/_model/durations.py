"""Lengths of time as people write them."""

from __future__ import annotations

import re

# In a second.
NANOSECONDS = 1_000_000_000

_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_DURATION = re.compile(r"([0-9]{1,12})([smhdw])", re.ASCII | re.IGNORECASE)

EXAMPLES = "45s, 90m, 12h, 30d or 2w"


def seconds_of(text: str) -> int:
    """Return the seconds of a duration such as ``90m``.

    Args:
        text: A whole number and a unit: seconds, minutes, hours, days or weeks, as one letter.

    Raises:
        ValueError: The text is no duration.
    """
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is not a duration such as {EXAMPLES}")
    return int(found[1]) * _SECONDS[found[2].lower()]

"""How long records are kept."""

from __future__ import annotations

from dataclasses import dataclass

from .durations import seconds_of

# A shorter number fits in 64 bits.
_DIGITS = 19


@dataclass(frozen=True)
class Retention:
    """How long records are kept: either an age or a number.

    Attributes:
        seconds: Records up to this age are kept.
        count: This many of the newest records are kept.
    """

    seconds: int | None = None
    count: int | None = None

    def __post_init__(self) -> None:
        """Check that exactly one is given, and that it is above zero."""
        given = [number for number in (self.seconds, self.count) if number is not None]
        if len(given) != 1 or given[0] < 1:
            raise ValueError("either an age or a count, 1 or more")

    @classmethod
    def parse(cls, text: str) -> Retention:
        """Return the retention of a text: an age such as ``30d``, or a number of records.

        Raises:
            ValueError: The text is neither, or 0.
        """
        text = text.strip()
        if text.isascii() and text.isdigit() and len(text) < _DIGITS:
            return cls(count=int(text))
        return cls(seconds=seconds_of(text))

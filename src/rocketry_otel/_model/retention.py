"""How long records are kept."""

from __future__ import annotations

from dataclasses import dataclass

from .durations import seconds_of

# A number of less fits in 64 bits.
_DIGITS = 19


@dataclass(frozen=True)
class Retention:
    """How long records are kept: one of both is given.

    Attributes:
        seconds: Those that are not older than this.
        count: Those that were added last, this many.
    """

    seconds: int | None = None
    count: int | None = None

    def __post_init__(self) -> None:
        """Refuse what is neither or both, or would keep nothing."""
        given = [number for number in (self.seconds, self.count) if number is not None]
        if len(given) != 1 or given[0] < 1:
            raise ValueError("either an age or a count, 1 or more")

    @classmethod
    def parse(cls, text: str) -> Retention:
        """Return what a text means: an age such as ``30d``, or a number of records.

        Raises:
            ValueError: It is neither, or 0.
        """
        text = text.strip()
        if text.isascii() and text.isdigit() and len(text) < _DIGITS:
            return cls(count=int(text))
        return cls(seconds=seconds_of(text))

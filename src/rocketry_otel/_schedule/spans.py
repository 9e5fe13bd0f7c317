"""Spans of time in which the scheduler, or one task, was held back.

In: the beginning and end of each. Out: how many seconds of each reason lie in another span.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

# The oldest go first: a launch settles what came before it.
_MOST = 200


class Span(NamedTuple):
    """A span of time, in seconds since the epoch."""

    start: float
    end: float
    reason: str


class Spans:
    """The newest spans, and the one that goes on, if one does."""

    def __init__(self, shortest: float = 0.0) -> None:
        """Begin with none; those that are shorter than ``shortest`` seconds are not kept."""
        self._ended: deque[Span] = deque(maxlen=_MOST)
        self._shortest = shortest
        self.reason: str | None = None
        self._since = 0.0

    def change(self, reason: str | None, now: float) -> None:
        """End the span that goes on, and begin one; ``None`` begins no other."""
        if self.reason is not None and now - self._since >= self._shortest:
            self._ended.append(Span(self._since, now, self.reason))
        self.reason, self._since = reason, now

    def clear(self) -> None:
        """Forget all spans, also the one that goes on."""
        self._ended.clear()
        self.reason = None

    def between(self, since: float, now: float) -> list[Span]:
        """Return the spans that end after ``since``, with the one that goes on until now."""
        spans = []
        if self.reason is not None and now - self._since >= self._shortest and now > since:
            spans.append(Span(self._since, now, self.reason))
        # The newest first: all but a few of them were settled by earlier launches.
        for span in reversed(self._ended):
            if span.end <= since:
                break
            spans.append(span)
        return spans


def seconds_in(start: float, end: float, spans_by_rank: Iterable[list[Span]]) -> dict[str, float]:
    """Return how many seconds of each reason lie in a span.

    Args:
        start: The beginning of the span.
        end: Its end.
        spans_by_rank: Lists of spans. A time in several of them counts for the first list.
    """
    seconds: dict[str, float] = {}
    free = [(start, end)]
    for spans in spans_by_rank:
        for span in spans:
            left = []
            for first, last in free:
                low, high = max(first, span.start), min(last, span.end)
                if low >= high:
                    left.append((first, last))
                    continue
                seconds[span.reason] = seconds.get(span.reason, 0.0) + high - low
                left += [part for part in ((first, low), (high, last)) if part[0] < part[1]]
            free = left
    return seconds

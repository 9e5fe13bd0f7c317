"""How long to leave a destination alone after a failure."""

from __future__ import annotations

import random

SHORTEST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0


def pause_after(failures: int) -> float:
    """Return how many seconds to leave a destination alone: more each time, and at random."""
    longest = min(SHORTEST_PAUSE * 2.0 ** min(failures, 10), _LONGEST_PAUSE)
    return longest * random.uniform(0.5, 1.0)  # noqa: S311  # it spreads load and hides nothing

"""Pauses between tries.

In: the number of failures in a row. Out: the seconds until the next try.
"""

from __future__ import annotations

import random

SHORTEST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0


def pause_after(failures: int) -> float:
    """Return the seconds until the next try: longer after each failure, and partly at random."""
    longest = min(SHORTEST_PAUSE * 2.0 ** min(failures, 10), _LONGEST_PAUSE)
    return longest * random.uniform(0.5, 1.0)  # noqa: S311  # it spreads load and hides nothing

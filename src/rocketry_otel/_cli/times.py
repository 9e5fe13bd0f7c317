"""Times and ages as arguments of commands."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from rocketry_otel._model.durations import EXAMPLES, seconds_of


def time_of(text: str) -> datetime:
    """Return the time that a text names: an age before now, or an ISO 8601 time.

    Raises:
        ValueError: The text is neither; the message has examples.
    """
    try:
        return datetime.now(timezone.utc) - timedelta(seconds=seconds_of(text))
    except (ValueError, OverflowError):
        pass
    try:
        # Before Python 3.11 it does not know the Z of UTC.
        return datetime.fromisoformat(text.strip().replace("Z", "+00:00")).astimezone()
    except (ValueError, OverflowError):
        raise ValueError(
            f"{text!r} is neither an age such as {EXAMPLES} nor a time such as 2026-11-24T03:00"
        ) from None

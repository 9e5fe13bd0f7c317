"""The progress and the result of a replay, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .result import Replay

_BAR_WIDTH = 24


def bar(so_far: Replay) -> str:
    """Return a line with the progress of a replay."""
    full = round(so_far.fraction * _BAR_WIDTH)
    drawn = "#" * full + "." * (_BAR_WIDTH - full)
    line = f"[{drawn}] {so_far.fraction:4.0%}  {so_far.records:,} records, {_rate(so_far)}"
    if so_far.error is not None:
        return f"{line}, waiting for {so_far.error}"
    return f"{line}, {so_far.spans + so_far.log_records:,} items accepted"


def summary(result: Replay, url: str, *, is_dry: bool) -> list[str]:
    """Return the lines that describe the result of a replay.

    Args:
        result: The result.
        url: The repository, without secrets.
        is_dry: Whether the replay was to send nothing.
    """
    what = f"{url}: {result.records:,} records with the ends of {result.runs:,} runs"
    if is_dry:
        lines = [f"{what} would be sent; nothing was."]
    else:
        accepted = f"Accepted: {result.spans:,} spans and {result.log_records:,} log records"
        by = " and ".join(result.destinations)
        lines = [
            f"{what}, in {result.seconds:.1f} s ({_rate(result)}).",
            f"{accepted}, by {by}." if by else f"{accepted}.",
        ]
    if result.unsampled:
        lines.append(f"Not sampled: {result.unsampled:,} runs, which have log records alone.")
    for reason, count in sorted(result.refused.items()):
        lines.append(f"Refused: {count:,}, since: {reason}")
    if result.waiting:
        lines.append(f"Not accepted when it ended: {result.waiting:,} items.")
    if result.error is not None:
        lines.append(f"Nothing got through to {result.error}")
    if not result.read:
        lines.append("The repository was not read to its end.")
    if result.left_out:
        lines.append(
            f"Still dead letters: {result.left_out:,} items, which are no longer in the "
            "repository, have no destination, or are of excluded tasks."
        )
    if result.unreadable:
        lines.append(f"Left out: {result.unreadable:,} records that cannot be read.")
    lines += [f"Note: {note}." for note in result.notes]
    return lines


def _rate(result: Replay) -> str:
    return f"{result.records / max(result.seconds, 0.001):,.0f} records/s"

"""What people read of a replay."""

from __future__ import annotations

from rocketry_otel import Replay
from rocketry_otel._replay.summary import bar, summary


def test_summary_of_a_complete_replay() -> None:
    """Two lines: what was read, and what was accepted by which destination."""
    result = Replay(
        records=12_000, runs=6_000, spans=6_000, log_records=12_000, seconds=4.0,
        destinations=("http://c/v1/traces", "http://c/v1/logs"),
    )  # fmt: skip
    assert summary(result, "csv://x", is_dry=False) == [
        "csv://x: 12,000 records with the ends of 6,000 runs, in 4.0 s (3,000 records/s).",
        "Accepted: 6,000 spans and 12,000 log records, by http://c/v1/traces and http://c/v1/logs.",
    ]


def test_summary_with_every_line() -> None:
    """Each kind of unaccepted item has a line with its reason."""
    result = Replay(
        records=10, runs=5, unsampled=1, refused={"b": 2, "a": 1000}, waiting=3, left_out=4,
        error="http://c: gone", notes=("records without a message: 9",), seconds=0.0,
        fraction=0.5, read=False, complete=False,
    )  # fmt: skip
    assert summary(result, "csv://x", is_dry=False) == [
        "csv://x: 10 records with the ends of 5 runs, in 0.0 s (10,000 records/s).",
        "Accepted: 0 spans and 0 log records.",
        "Not sampled: 1 runs, which have log records alone.",
        "Refused: 1,000, since: a",
        "Refused: 2, since: b",
        "Not accepted when it ended: 3 items.",
        "Nothing got through to http://c: gone",
        "The repository was not read to its end.",
        (
            "Still dead letters: 4 items, which are no longer in the repository, have no "
            "destination, or are of excluded tasks."
        ),
        "Note: records without a message: 9.",
    ]


def test_summary_of_a_dry_run() -> None:
    """Nothing was sent."""
    assert summary(Replay(records=2, runs=1), "csv://x", is_dry=True) == [
        "csv://x: 2 records with the ends of 1 runs would be sent; nothing was."
    ]


def test_progress_bar() -> None:
    """It has the fraction, the numbers, the rate, and the error that is waited for."""
    so_far = Replay(records=500, spans=200, log_records=300, seconds=0.5, fraction=0.25)
    assert bar(so_far) == (
        "[######..................]  25%  500 records, 1,000 records/s, 500 items accepted"
    )
    waiting = Replay(records=500, seconds=1.0, fraction=1.0, error="http://c: gone")
    assert bar(waiting) == (
        "[########################] 100%  500 records, 500 records/s, waiting for http://c: gone"
    )

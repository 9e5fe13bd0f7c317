from __future__ import annotations

import threading

from rocketry_otel._export.record_ref import RecordRef, current_record_ref, enter

LIVE = RecordRef(1, "etl", "run")
AGAIN = RecordRef(1, "etl", "run", {"traces a": 0})


def test_a_live_record_is_for_all_channels_and_one_sent_again_for_some() -> None:
    """Only those that have missed a record send it again."""
    assert (LIVE.is_live, LIVE.is_for("traces a"), LIVE.is_for("logs a")) == (True, True, True)
    assert (AGAIN.is_live, AGAIN.is_for("traces a"), AGAIN.is_for("logs a")) == (False, True, False)


def test_what_is_handed_over_belongs_to_the_record_at_hand() -> None:
    """It does until another is entered, and in that thread alone."""
    elsewhere = []
    assert enter(LIVE) is None
    thread = threading.Thread(target=lambda: elsewhere.append(current_record_ref()))
    thread.start()
    thread.join()
    assert enter(AGAIN) is LIVE
    assert current_record_ref() is AGAIN
    assert enter(LIVE) is AGAIN
    assert enter(None) is LIVE
    assert (current_record_ref(), elsewhere) == (None, [None])

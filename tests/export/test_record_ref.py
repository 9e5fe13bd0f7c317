from __future__ import annotations

import threading

from rocketry_otel._export.record_ref import RecordRef, current_record_ref, enter

LIVE = RecordRef(1, "etl", "run")
AGAIN = RecordRef(1, "etl", "run", {"traces a": 0})


def test_record_with_positions_is_sent_again() -> None:
    """One without goes to all channels when it is written."""
    assert (LIVE.is_live, AGAIN.is_live) == (True, False)


def test_items_belong_to_the_entered_record() -> None:
    """That holds until another record is entered, and only in that thread."""
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

"""Counting what becomes of a replay."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from rocketry_otel import Replay, SettingsError
from rocketry_otel._history.reconstruct import Reconstructed
from rocketry_otel._model.event import parse_event
from rocketry_otel._model.runs import RunTracker
from rocketry_otel._replay.result import Tally

START = 1_700_000_000


def reconstruct(action: str, **fields: Any) -> Reconstructed:
    """Return a stored record as it was when it was live."""
    fields = {"task_name": "etl", "action": action, "created": START, **fields}
    event = parse_event(fields)
    return Reconstructed(fields, event, RunTracker().observe(event))


@pytest.mark.parametrize(
    ("action", "fields", "notes"),
    [
        ("run", {"run_id": "r", "message": "m"}, []),
        ("run", {"message": "m"}, ["runs without a run id"]),
        ("run", {"run_id": "r"}, ["records without a message"]),
        ("success", {"message": "m", "trace_id": "0" * 32}, []),
        ("success", {"message": "m"}, ["runs without mode of execution"]),
        ("fail", {"message": "m", "trace_id": "0" * 32}, ["failures without a traceback"]),
        ("fail", {"message": "m", "trace_id": "0" * 32, "exc_text": "E: x"}, []),
    ],
)
def test_missing_fields_are_noted(action: str, fields: dict[str, Any], notes: list[str]) -> None:
    """Each note has the number of records without the field."""
    tally = Tally(None, None)
    tally.add(reconstruct(action, **fields))
    tally.add(reconstruct(action, **fields))
    result = tally.result()
    assert (result.records, result.runs) == (2, 0 if action == "run" else 2)
    assert len(result.notes) == len(notes)
    for note, beginning in zip(result.notes, notes, strict=True):
        assert note.startswith(beginning)
        assert note.endswith(": 2")


def test_endings_without_a_span_are_counted() -> None:
    """A second ending of a run changes nothing, and the result shows that there is one."""
    tally = Tally(None, None)
    one = reconstruct("success", run_id="r", message="m", trace_id="0" * 31 + "1")
    tally.add(one._replace(step=one.step._replace(change="repeated")))
    result = tally.result()
    assert (result.records, result.runs) == (1, 0)
    assert result.notes == ("endings without a span, because their runs had ended before: 1",)


def test_reasons_are_bounded() -> None:
    """A collector with a new reason for each refusal fills no memory."""
    tally = Tally(None, None)
    for number in range(500):
        tally.refuse(2, f"bad {number}")
    tally.refuse(1, "bad 7")
    tally.fail("cannot be made")
    result = tally.result()
    assert len(result.refused) == 101
    assert sum(result.refused.values()) == 1002
    assert (result.refused["bad 7"], result.refused["other reasons"]) == (3, 801)
    assert not result.complete


def test_refusals_on_several_threads_are_all_counted() -> None:
    """Each channel has a thread of its own."""
    tally = Tally(None, None)

    def refuse() -> None:
        for number in range(2000):
            tally.refuse(1, f"bad {number % 7}")

    threads = [threading.Thread(target=refuse) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(tally.result().refused.values()) == 8000


def fractions(until: int | None, *reached: int) -> list[float]:
    """Return the fractions that are shown as a repository is read."""
    shown: list[Replay] = []
    tally = Tally(until, shown.append)
    for created in reached:
        tally._shown_at = 0.0
        tally.reach(created)
    return [one.fraction for one in shown]


def test_fraction_is_that_of_the_chosen_time() -> None:
    """It goes from the first record to the end that was asked for."""
    assert fractions(200, 100, 150, 125, 200, 300) == [0.0, 0.5, 0.25, 1.0, 1.0]


def test_fraction_without_an_end_is_until_now() -> None:
    """The same holds for an end in the future."""
    now = time.time_ns()
    for until in (None, now + 10**18):
        (_, half) = fractions(until, now - 10**12, now - 10**12 // 2)
        assert half == pytest.approx(0.5, abs=0.01)


def test_progress_is_shown_now_and_then() -> None:
    """It is not shown at each record: a terminal is slow."""
    shown: list[Replay] = []
    tally = Tally(None, shown.append)
    for created in range(1000):
        tally.reach(created)
    assert 1 <= len(shown) <= 20


def test_end_is_shown() -> None:
    """It is shown after an error too."""
    shown: list[Replay] = []
    tally = Tally(None, shown.append)
    with tally.to_the_end():
        pass
    assert [one.complete for one in shown] == [True]
    with pytest.raises(KeyboardInterrupt), tally.to_the_end():
        raise KeyboardInterrupt
    assert [(one.complete, one.read) for one in shown] == [(True, True), (False, False)]
    assert (shown[-1].fraction, tally.result().fraction) == (0.0, 0.0)


def test_bad_setting_shows_nothing() -> None:
    """Nothing has begun."""
    shown: list[Replay] = []
    with pytest.raises(SettingsError), Tally(None, shown.append).to_the_end():
        raise SettingsError
    assert shown == []


def test_skipped_items_make_the_result_incomplete() -> None:
    """Though all sent items are accepted."""
    tally = Tally(None, None)
    tally.left_out = 2
    assert (tally.result().left_out, tally.result().complete) == (2, False)

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rocketry_otel._export.batch import Entry, send_batch
from rocketry_otel._export.responses import Answer, Result

ACCEPTED = Result(Answer.ACCEPTED)
UNAVAILABLE = Result(Answer.UNAVAILABLE, "down")
REFUSED = Result(Answer.REFUSED, "HTTP 400")
UNENCODABLE = Result(Answer.REFUSED, "it cannot be encoded", certain=True)


class Scenario:
    """A batch of numbers, and a destination with chosen answers."""

    def __init__(
        self,
        answer: Callable[[list[int]], Result],
        over_after: int = 10**9,
        known_good: int | None = None,
    ) -> None:
        self.answer = answer
        self.known_good = known_good
        self.over_after = over_after
        self.tried: list[list[int]] = []
        self.accepted: list[int] = []
        self.refused: list[int] = []

    def run(self, size: int) -> tuple[list[int], Result | None]:
        """Send the batch; return the entries that are left and the answer that stopped it."""
        batch = [Entry(number, None) for number in range(size)]
        left, doubtful, stopped_by = send_batch(
            batch,
            self._send,
            self._settle,
            lambda: len(self.tried) >= self.over_after,
            self.known_good,
        )
        return [entry.item for entry in [*left, *doubtful]], stopped_by

    def _send(self, items: list[Any]) -> Result:
        self.tried.append(items)
        return self.answer(items)

    def _settle(self, part: list[Entry], result: Result) -> None:
        settled = self.accepted if result.answer is Answer.ACCEPTED else self.refused
        settled += [entry.item for entry in part]


def test_accepted_batch_is_one_request() -> None:
    """A batch is split only after a refusal."""
    trial = Scenario(lambda _: ACCEPTED)
    assert trial.run(5) == ([], None)
    assert (trial.tried, trial.accepted) == ([[0, 1, 2, 3, 4]], [0, 1, 2, 3, 4])


def test_item_refused_among_others_is_refused() -> None:
    """Its neighbours are accepted, so the fault is the item's."""
    trial = Scenario(lambda items: REFUSED if {3, 11} & set(items) else ACCEPTED)
    assert trial.run(16) == ([], None)
    assert sorted(trial.accepted) == [n for n in range(16) if n not in {3, 11}]
    assert trial.refused == [3, 11]


def test_destination_refusing_all_is_unavailable() -> None:
    """After four single items nothing is given up; these four go last the next time."""
    trial = Scenario(lambda _: REFUSED)
    left, stopped_by = trial.run(8)
    assert stopped_by is REFUSED
    assert left == [4, 5, 6, 7, 0, 1, 2, 3]
    assert [len(items) for items in trial.tried] == [8, 4, 2, 1, 1, 2, 1, 1]
    assert trial.refused == []


def test_empty_partial_success_proves_nothing() -> None:
    """A partial success that leaves out every item is no acceptance."""
    nothing = Result(Answer.ACCEPTED, "quota", rejected=2)
    trial = Scenario(lambda items: nothing if items == [0, 1] else REFUSED)
    assert trial.run(4) == ([2, 3], REFUSED)
    assert (trial.accepted, trial.refused) == ([0, 1], [])


def test_single_refused_item_waits() -> None:
    """Without a neighbour, the fault may be the destination's."""
    trial = Scenario(lambda _: REFUSED)
    assert trial.run(1) == ([0], REFUSED)
    assert trial.refused == []


@pytest.mark.parametrize("size", [1, 3, 6])
def test_known_good_item_proves_a_bad_item(size: int) -> None:
    """If it is accepted again, the destination works, and the other item is bad."""
    trial = Scenario(lambda items: ACCEPTED if items == [99] else REFUSED, known_good=99)
    assert trial.run(size) == ([], None)
    assert trial.refused == list(range(size))
    assert trial.accepted == []
    assert trial.tried.count([99]) == 1


@pytest.mark.parametrize(("size", "order"), [(1, [0]), (6, [4, 5, 0, 1, 2, 3])])
def test_known_good_item_proves_an_outage(size: int, order: list[int]) -> None:
    """If even this item is refused, nothing is given up."""
    trial = Scenario(lambda _: REFUSED, known_good=99)
    assert trial.run(size) == (order, REFUSED)
    assert (trial.refused, trial.tried.count([99])) == ([], 1)


def test_unencodable_single_item_is_refused() -> None:
    """It was never sent, so the destination cannot be at fault."""
    trial = Scenario(lambda _: UNENCODABLE)
    assert trial.run(2) == ([], None)
    assert trial.refused == [0, 1]


def test_item_refused_too_early_is_sent_again() -> None:
    """A destination that comes back during the batch costs no good item."""
    trial = Scenario(lambda _: ACCEPTED)
    trial.answer = lambda items: ACCEPTED if len(trial.tried) > 3 and 1 not in items else REFUSED
    assert trial.run(4) == ([], None)
    assert sorted(trial.accepted) == [0, 2, 3]
    assert trial.refused == [1]
    assert trial.tried == [[0, 1, 2, 3], [0, 1], [0], [1], [2, 3], [0], [1]]


def test_item_refused_later_is_not_sent_again() -> None:
    """The acceptance has shown that the destination works, so the item is bad."""
    trial = Scenario(lambda items: REFUSED if 1 in items else ACCEPTED)
    assert trial.run(2) == ([], None)
    assert trial.tried == [[0, 1], [0], [1]]


def test_destination_returning_late_costs_no_item() -> None:
    """The known good item is accepted, and so are those that were refused before it."""
    trial = Scenario(lambda _: ACCEPTED, known_good=99)
    trial.answer = lambda _: ACCEPTED if [99] in trial.tried else REFUSED
    assert trial.run(3) == ([], None)
    assert (sorted(trial.accepted), trial.refused) == ([0, 1, 2], [])


def test_outage_during_second_try_keeps_items() -> None:
    """The doubtful items are sent last the next time."""
    answers = iter([REFUSED, REFUSED, ACCEPTED, UNAVAILABLE])
    trial = Scenario(lambda _: next(answers))
    assert trial.run(2) == ([0], UNAVAILABLE)
    assert (trial.accepted, trial.refused) == ([1], [])


def test_end_keeps_doubtful_items() -> None:
    """No item is given up before its second try."""
    answers = iter([REFUSED, REFUSED, ACCEPTED])
    trial = Scenario(lambda _: next(answers), over_after=3)
    assert trial.run(2) == ([0], None)
    assert (trial.accepted, trial.refused) == ([1], [])


def test_outage_keeps_unsent_and_doubtful_items() -> None:
    """The next time, unsent items go first and doubtful items last."""
    answers = iter([REFUSED, REFUSED, REFUSED, REFUSED, ACCEPTED, UNAVAILABLE])
    trial = Scenario(lambda _: next(answers))
    assert trial.run(8) == ([2, 3, 4, 5, 6, 7, 0], UNAVAILABLE)
    assert trial.accepted == [1]
    assert trial.refused == []


def test_end_stops_the_batch() -> None:
    """The caller that ends it takes care of the rest."""
    trial = Scenario(lambda items: UNENCODABLE if len(items) > 1 else ACCEPTED, over_after=1)
    assert trial.run(4) == ([], None)
    assert trial.tried == [[0, 1, 2, 3]]

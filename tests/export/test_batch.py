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
    """A batch of numbers before a destination that answers as it is told."""

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
        """Dispatch a batch; return what is left and what stopped it."""
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


def test_a_batch_that_is_accepted_goes_in_one() -> None:
    """Nothing is split without a reason."""
    trial = Scenario(lambda _: ACCEPTED)
    assert trial.run(5) == ([], None)
    assert (trial.tried, trial.accepted) == ([[0, 1, 2, 3, 4]], [0, 1, 2, 3, 4])


def test_what_is_refused_among_others_is_refused_for_good() -> None:
    """Its neighbours arrive, and show that it is not the destination that is amiss."""
    trial = Scenario(lambda items: REFUSED if {3, 11} & set(items) else ACCEPTED)
    assert trial.run(16) == ([], None)
    assert sorted(trial.accepted) == [n for n in range(16) if n not in {3, 11}]
    assert trial.refused == [3, 11]


def test_a_destination_that_refuses_everything_is_as_good_as_away() -> None:
    """After four items alone none is given up; they go behind the others for the next time."""
    trial = Scenario(lambda _: REFUSED)
    left, stopped_by = trial.run(8)
    assert stopped_by is REFUSED
    assert left == [4, 5, 6, 7, 0, 1, 2, 3]
    assert [len(items) for items in trial.tried] == [8, 4, 2, 1, 1, 2, 1, 1]
    assert trial.refused == []


def test_a_destination_that_takes_nothing_of_a_batch_shows_nothing() -> None:
    """A partial success that leaves all of it out is no sign that others are accepted."""
    nothing = Result(Answer.ACCEPTED, "quota", rejected=2)
    trial = Scenario(lambda items: nothing if items == [0, 1] else REFUSED)
    assert trial.run(4) == ([2, 3], REFUSED)
    assert (trial.accepted, trial.refused) == ([0, 1], [])


def test_one_item_alone_that_is_refused_waits_for_others() -> None:
    """Without a neighbour it cannot be told what is amiss."""
    trial = Scenario(lambda _: REFUSED)
    assert trial.run(1) == ([0], REFUSED)
    assert trial.refused == []


@pytest.mark.parametrize("size", [1, 3, 6])
def test_what_was_accepted_before_shows_what_is_amiss(size: int) -> None:
    """If that is still accepted it is not the destination, though nothing else is there."""
    trial = Scenario(lambda items: ACCEPTED if items == [99] else REFUSED, known_good=99)
    assert trial.run(size) == ([], None)
    assert trial.refused == list(range(size))
    assert trial.accepted == []
    assert trial.tried.count([99]) == 1


@pytest.mark.parametrize(("size", "order"), [(1, [0]), (6, [4, 5, 0, 1, 2, 3])])
def test_what_was_accepted_before_shows_an_outage(size: int, order: list[int]) -> None:
    """If even that is refused nothing is given up."""
    trial = Scenario(lambda _: REFUSED, known_good=99)
    assert trial.run(size) == (order, REFUSED)
    assert (trial.refused, trial.tried.count([99])) == ([], 1)


def test_what_cannot_be_encoded_is_refused_for_good_though_it_is_alone() -> None:
    """There is no doubt about that, for it was never sent."""
    trial = Scenario(lambda _: UNENCODABLE)
    assert trial.run(2) == ([], None)
    assert trial.refused == [0, 1]


def test_an_item_refused_before_an_acceptance_is_sent_again() -> None:
    """A destination that refuses everything and comes back in the midst costs no good item."""
    trial = Scenario(lambda _: ACCEPTED)
    trial.answer = lambda items: ACCEPTED if len(trial.tried) > 3 and 1 not in items else REFUSED
    assert trial.run(4) == ([], None)
    assert sorted(trial.accepted) == [0, 2, 3]
    assert trial.refused == [1]
    assert trial.tried == [[0, 1, 2, 3], [0, 1], [0], [1], [2, 3], [0], [1]]


def test_an_item_refused_after_an_acceptance_is_not_sent_again() -> None:
    """The destination is there, as the acceptance has shown: it is the item that is amiss."""
    trial = Scenario(lambda items: REFUSED if 1 in items else ACCEPTED)
    assert trial.run(2) == ([], None)
    assert trial.tried == [[0, 1], [0], [1]]


def test_a_destination_that_comes_back_for_what_was_accepted_before_costs_no_good_item() -> None:
    """What was accepted before is accepted again, and so are those that were refused meanwhile."""
    trial = Scenario(lambda _: ACCEPTED, known_good=99)
    trial.answer = lambda _: ACCEPTED if [99] in trial.tried else REFUSED
    assert trial.run(3) == ([], None)
    assert (sorted(trial.accepted), trial.refused) == ([0, 1, 2], [])


def test_an_outage_while_the_doubtful_are_sent_again_leaves_them() -> None:
    """They are sent behind all else the next time."""
    answers = iter([REFUSED, REFUSED, ACCEPTED, UNAVAILABLE])
    trial = Scenario(lambda _: next(answers))
    assert trial.run(2) == ([0], UNAVAILABLE)
    assert (trial.accepted, trial.refused) == ([1], [])


def test_at_the_end_the_doubtful_are_left() -> None:
    """Nothing is given up without having been sent again."""
    answers = iter([REFUSED, REFUSED, ACCEPTED])
    trial = Scenario(lambda _: next(answers), over_after=3)
    assert trial.run(2) == ([0], None)
    assert (trial.accepted, trial.refused) == ([1], [])


def test_an_outage_in_the_midst_leaves_the_rest_and_the_doubtful() -> None:
    """What was not sent is sent first the next time, what is doubtful last."""
    answers = iter([REFUSED, REFUSED, REFUSED, REFUSED, ACCEPTED, UNAVAILABLE])
    trial = Scenario(lambda _: next(answers))
    assert trial.run(8) == ([2, 3, 4, 5, 6, 7, 0], UNAVAILABLE)
    assert trial.accepted == [1]
    assert trial.refused == []


def test_at_the_end_nothing_more_is_sent() -> None:
    """Whoever ends it has seen to what is left."""
    trial = Scenario(lambda items: UNENCODABLE if len(items) > 1 else ACCEPTED, over_after=1)
    assert trial.run(4) == ([], None)
    assert trial.tried == [[0, 1, 2, 3]]

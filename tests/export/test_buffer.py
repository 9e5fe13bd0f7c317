from __future__ import annotations

from rocketry_otel._export.batch import Entry
from rocketry_otel._export.buffer import Buffer, Overflow
from rocketry_otel._export.record_ref import RecordRef

CHANNEL = "traces http://c"


def live(created: int) -> Entry:
    """Return an entry of a live record."""
    return Entry(created, RecordRef(created, "etl", "run"))


def again(position: int) -> Entry:
    """Return an entry of a record that is sent again."""
    return Entry(position, RecordRef(position, "etl", "run", {CHANNEL: position}))


def unstored(item: int = 0) -> Entry:
    """Return an entry that no repository has."""
    return Entry(item, None)


def test_full_buffer_leaves_all_later_items() -> None:
    """One reading of the repository must find all of them, so none is taken after the first."""
    held = Buffer(2)
    assert [held.add(live(created)) for created in (10, 20, 30, 5, 40)] == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert held.overflow == Overflow(since=5, items=3, until=40)
    held.take(2)
    assert held.add(live(50)) is False
    assert held.hand_over() == Overflow(since=5, items=4, until=50)
    assert (held.overflow, held.add(live(60))) == (None, True)


def test_overflow_handed_over_can_grow() -> None:
    """If more overflow comes before the confirmation, all of it stays handed over."""
    held = Buffer(0)
    assert held.hand_over() is None
    held.add(live(20))
    first = held.hand_over()
    assert (held.oldest(), held.count()) == (20, 0)
    held.add(live(10))
    assert held.hand_over() == Overflow(since=10, items=2, until=20)
    assert held.confirm_handed_over(first) is False
    assert held.oldest() == 10
    assert held.confirm_handed_over(held.hand_over()) is True
    assert held.oldest() is None


def test_oldest_unstored_item_is_dropped() -> None:
    """Only items that can be read again are sure of their place."""
    held = Buffer(2)
    for number in range(4):
        held.add(unstored(number))
    assert held.trim() == 2
    assert [entry.item for entry in held.waiting] == [2, 3]
    held.put_back([live(1)])
    assert held.trim() == 1
    assert [entry.item for entry in held.waiting] == [1, 2]


def test_stored_item_is_never_dropped() -> None:
    """A batch that comes back may exceed the size of the buffer."""
    held = Buffer(1)
    held.add(live(2))
    held.put_back([live(1)])
    assert held.trim() == 0
    assert [entry.item for entry in held.waiting] == [1, 2]


def test_repeated_item_is_taken_despite_overflow() -> None:
    """Catch-up has waited for room before it sends again."""
    held = Buffer(1)
    held.add(live(1))
    held.add(live(2))
    assert held.add(again(0)) is True
    assert held.count() == 3


def test_oldest_covers_all_live_items() -> None:
    """Items that wait, are in flight or were left are not delivered yet."""
    held = Buffer(3)
    assert (held.oldest(), held.first_position(CHANNEL)) == (None, None)
    for entry in (unstored(), live(20), live(30)):
        held.add(entry)
    assert held.oldest() == 20
    held.take(2)
    assert held.oldest() == 20
    held.put_back([])
    assert held.oldest() == 30
    for created in (40, 50, 10):
        held.add(live(created))
    assert held.overflow == Overflow(10, 1, 10)
    assert held.oldest() == 10
    held.give_up()
    assert held.oldest() == 10


def test_only_repeated_items_have_positions() -> None:
    """Live entries have no position."""
    held = Buffer(9)
    for entry in (live(1), again(7), again(5)):
        held.add(entry)
    assert held.first_position(CHANNEL) == 5
    held.take(2)
    assert held.first_position(CHANNEL) == 5
    held.take(1)
    held.put_back([])
    assert held.first_position(CHANNEL) is None


def test_settled_part_leaves_the_buffer() -> None:
    """Each part of a batch is settled by itself."""
    held = Buffer(9)
    for created in (10, 20, 30):
        held.add(live(created))
    batch = held.take(3)
    held.settle(batch[:1])
    assert (held.oldest(), held.count()) == (20, 2)
    held.settle(batch[1:])
    assert (held.oldest(), held.count()) == (None, 0)


def test_giving_up_keeps_stored_items_as_overflow() -> None:
    """It returns the number of lost items; catch-up knows the items that it has sent again."""
    held = Buffer(9)
    for entry in (live(10), unstored(), live(20), again(0)):
        held.add(entry)
    held.take(2)
    assert held.give_up() == 1
    assert held.overflow == Overflow(since=10, items=2, until=20)
    assert (list(held.waiting), held.in_flight) == ([], [])

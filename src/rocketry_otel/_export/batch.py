"""Sends one batch, and finds the items in it that a destination does not accept.

In: entries of a queue, and a function that sends items. Out: entries settled one part at a time,
and the entries to send again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from .responses import Answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from .record_ref import RecordRef
    from .responses import Result

# If a destination refuses this many single items and accepts none, the fault is its own.
_MOST_DOUBTFUL = 4


class Entry(NamedTuple):
    """An item of a queue.

    Attributes:
        item: A span or a log record.
        record_ref: The stored record that it came from; ``None`` if no repository has it.
    """

    item: Any
    record_ref: RecordRef | None


class _Refusal(NamedTuple):
    """A single item that was refused.

    Attributes:
        entry: The entry of the item.
        result: The answer of the destination.
        is_older: Whether the destination had accepted no item by then.
    """

    entry: Entry
    result: Result
    is_older: bool


def send_batch(
    batch: list[Entry],
    send: Callable[[list[Any]], Result],
    settle: Callable[[list[Entry], Result], None],
    is_over: Callable[[], bool],
    known_good: Any = None,
) -> tuple[list[Entry], list[Entry], Result | None]:
    """Send a batch, in parts if need be.

    A refused batch is halved until each bad item is alone. The item is refused for good only if
    the destination accepts another one, of this batch or of an earlier one. A destination that
    refuses everything (a proxy, a wrong port) counts as unavailable. It may come back during the
    batch. So an item that was refused before the first acceptance is sent again.

    Args:
        batch: The entries to send.
        send: Sends some items.
        settle: Called with each part that was accepted, or refused for good.
        is_over: Returns whether to stop and leave the rest.
        known_good: An item that was accepted before, if any was.

    Returns:
        The entries to send again first; the entries to send again last, because they may be the
        bad ones; and the answer that stopped the batch, if one did.
    """
    parts = [batch]
    doubtful: list[_Refusal] = []
    accepted = False
    while parts and not is_over():
        part = parts.pop()
        result = send([entry.item for entry in part])
        if result.answer is Answer.ACCEPTED:
            accepted = accepted or result.rejected < len(part)
            settle(part, result)
        elif result.answer is Answer.UNAVAILABLE:
            return _rest(part, parts), _entries(doubtful), result
        elif len(part) > 1:
            middle = len(part) // 2
            parts += [part[middle:], part[:middle]]
        elif result.certain:
            settle(part, result)
        else:
            doubtful.append(_Refusal(part[0], result, is_older=not accepted))
            if not accepted and len(doubtful) >= _MOST_DOUBTFUL:
                accepted = _is_accepted(known_good, send)
                if not accepted:
                    return _rest([], parts), _entries(doubtful), result
    if doubtful and not accepted and not _is_accepted(known_good, send):
        return _rest([], parts), _entries(doubtful), doubtful[-1].result
    left, stopped_by = _judge(doubtful, send, settle, is_over)
    return [], left, stopped_by


def _judge(
    doubtful: list[_Refusal],
    send: Callable[[list[Any]], Result],
    settle: Callable[[list[Entry], Result], None],
    is_over: Callable[[], bool],
) -> tuple[list[Entry], Result | None]:
    """Settle refusals after an acceptance; return the entries that are left, and the answer."""
    for number, (entry, refusal, is_older) in enumerate(doubtful):
        if is_older and is_over():
            return _entries(doubtful[number:]), None
        result = send([entry.item]) if is_older else refusal
        if result.answer is Answer.UNAVAILABLE:
            return _entries(doubtful[number:]), result
        settle([entry], result)
    return [], None


def _is_accepted(known_good: Any, send: Callable[[list[Any]], Result]) -> bool:
    """Return whether a destination accepts an item that it has accepted before.

    The destination then gets the item twice. That costs less than to mistake an outage for a bad
    record, or a bad record for an outage.
    """
    return known_good is not None and send([known_good]).answer is Answer.ACCEPTED


def _rest(part: list[Entry], parts: list[list[Entry]]) -> list[Entry]:
    return [*part, *(entry for rest in reversed(parts) for entry in rest)]


def _entries(doubtful: list[_Refusal]) -> list[Entry]:
    return [refusal.entry for refusal in doubtful]

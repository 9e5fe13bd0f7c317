"""Sending one batch, and finding out what in it a destination does not take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from .responses import Answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from .record_ref import RecordRef
    from .responses import Result

# So many single items, one after another and none accepted between them: not these are amiss.
_MOST_DOUBTFUL = 4


class Entry(NamedTuple):
    """What waits to be sent.

    Attributes:
        item: A span or a log record.
        record_ref: The stored record that it comes from, if it comes from one.
    """

    item: Any
    record_ref: RecordRef | None


class _Refusal(NamedTuple):
    """A single item that was refused.

    Attributes:
        entry: The item.
        result: The answer.
        is_older: Whether nothing had been accepted by then.
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

    A batch that is refused is halved until what is amiss stands alone. It is taken as refused
    for good only if the destination accepts something else, of the batch or what it has
    accepted before: one that refuses everything (a proxy, a wrong port) is as good as away. It may
    come back meanwhile. So a refusal counts only if it is newer than an acceptance: an item that
    was refused before the first one is sent again.

    Args:
        batch: What to send.
        send: Sends some items.
        settle: Told of each part that was accepted, or refused for good.
        is_over: Returns whether to stop, and leave it all.
        known_good: An item that was accepted before, if any was.

    Returns:
        What is to be sent again; what is to be sent again behind all else, for it may be amiss
        while that is not; and the answer that stopped it, if one did.
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
    """Settle refusals now that something was accepted; return what is left, and what stopped it."""
    for number, (entry, refusal, is_older) in enumerate(doubtful):
        if is_older and is_over():
            return _entries(doubtful[number:]), None
        result = send([entry.item]) if is_older else refusal
        if result.answer is Answer.UNAVAILABLE:
            return _entries(doubtful[number:]), result
        settle([entry], result)
    return [], None


def _is_accepted(known_good: Any, send: Callable[[list[Any]], Result]) -> bool:
    """Return whether a destination accepts what it has accepted before.

    It gets that twice then, which costs less than to take an outage for the record's fault, or
    a record's fault for an outage.
    """
    return known_good is not None and send([known_good]).answer is Answer.ACCEPTED


def _rest(part: list[Entry], parts: list[list[Entry]]) -> list[Entry]:
    return [*part, *(entry for rest in reversed(parts) for entry in rest)]


def _entries(doubtful: list[_Refusal]) -> list[Entry]:
    return [refusal.entry for refusal in doubtful]

"""Delivery states as an application leaves them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rocketry_otel._delivery.checkpoint import Backlog, Checkpoint, DeadLetter
from rocketry_otel._delivery.state import State
from rocketry_otel._delivery.state_path import state_folder
from rocketry_otel._history.open_history import open_history


def write_state(
    url: str,
    channels: Sequence[str] = (),
    backlogs: Sequence[tuple[str, int, int]] = (),
    refused: Sequence[tuple[str, int, str, str, str]] = (),
    *,
    known: bool = True,
) -> Path:
    """Write the delivery state of a repository; no process is left that uses it.

    Args:
        url: The repository.
        channels: The channels that were used.
        backlogs: For each: the channel, since when records wait, how many items.
        refused: Dead letters: channel, creation, task, action, reason.
        known: Whether the delivery of earlier records is known.

    Returns:
        Its folder.
    """
    with open_history(url) as repo:
        folder = state_folder(repo, None)
    assert folder is not None
    state = State(folder)
    state.save({name: Checkpoint(10**18, 0) for name in channels}, first=10**18)
    if known:
        state.take_on({}, known_until=2 * 10**18)
    state.take_on({name: Backlog(since, waiting=waiting) for name, since, waiting in backlogs})
    for channel, *rest in refused:
        state.add_dead_letters(channel, [DeadLetter(*rest)], 1_700_009_999.5)
    state.leave()
    return folder

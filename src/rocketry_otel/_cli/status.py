"""The command that shows the state of delivery, from outside of the application."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from rocketry_otel._delivery.state_path import state_folder
from rocketry_otel._delivery.stored_state import StoredState
from rocketry_otel._model.event import nanoseconds
from rocketry_otel._model.text import one_line
from rocketry_otel._settings import Settings

from .options import json_option, opened, repo_option, url_of
from .run_rows import iso
from .screen import Column, Screen

if TYPE_CHECKING:
    from rocketry_otel._delivery.stored_state import ChannelState

_NEWEST = 10


@click.command("status")
@repo_option
@json_option
def command(*, repo: str | None, as_json: bool) -> int:
    """Show what waits for delivery, and what destinations have refused.

    The delivery state is read and not changed; the application may go on. What waits in the
    memory of an application is counted as of its last checkpoint, at most a second ago. The exit
    status is 0, whatever waits.
    """
    settings = Settings()
    screen = Screen()
    with opened(url_of(repo, settings)) as repository:
        state = StoredState(state_folder(repository, settings.state_dir))
        data = state_data(state)
    if as_json:
        screen.json(data)
    else:
        write_state(screen, data)
    return 0


def state_data(state: StoredState) -> dict[str, Any]:
    """Return the delivery state as an object of JSON.

    Raises:
        RepositoryError: It cannot be read.
    """
    refused = state.refused()
    unknown = state.unknown_until()
    return {
        "folder": None if state.folder is None else str(state.folder),
        "exists": state.exists,
        "channels": [_channel(one) for one in state.channels()],
        "unknown_until": None if unknown is None else iso(unknown),
        "refused": len(refused),
        "newest_refused": [
            {
                "channel": one.channel,
                "task": one.task_name,
                "action": one.action,
                "created": iso(one.created),
                "refused_at": iso(nanoseconds(one.refused_at)),
                "reason": one_line(one.reason),
            }
            for one in sorted(refused, key=lambda one: one.refused_at)[-_NEWEST:]
        ],
    }


def _channel(one: ChannelState) -> dict[str, Any]:
    waits = one.since is not None and one.waiting > 0
    return {
        "channel": one.name,
        "waiting": one.waiting,
        "waits_since": iso(one.since) if waits and one.since else None,
    }


def write_state(screen: Screen, data: dict[str, Any]) -> None:
    """Write the delivery state, as ``state_data`` returns it."""
    if not data["exists"]:
        screen.line("No delivery state: no process has sent records of this repository yet.")
        return
    screen.pairs([("delivery state", data["folder"])])
    columns = [Column("channel", 20), Column("waiting", right=True), Column("since")]
    rows = [
        [one["channel"], f"{one['waiting']:,}", one["waits_since"] or "-"]
        for one in data["channels"]
    ]
    screen.table(columns, rows)
    if data["unknown_until"] is not None:
        screen.line(f"Not known: whether records before {data['unknown_until']} were delivered.")
    screen.line(f"Refused for good: {data['refused']:,}")
    if data["newest_refused"]:
        columns = [Column("refused at"), Column("task", 8), Column("action"), Column("reason", 10)]
        rows = [
            [one["refused_at"], one["task"], one["action"], one["reason"]]
            for one in data["newest_refused"]
        ]
        screen.table(columns, rows)

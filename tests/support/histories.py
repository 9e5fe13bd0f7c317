"""Histories to be replayed, written by real applications."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from redbird.logging import RepoHandler

from rocketry_otel import OTelRepoHandler, instrument, uninstrument
from tests.support import apps
from tests.support.otlp_receiver import OTLPReceiver

# In the order in which they run.
TASKS = ("good", "bad", "idle")


def make_app() -> Any:
    """Return an application of three tasks, which end in three ways."""
    app = apps.make_app()
    functions = (apps.succeed, apps.fail, apps.do_nothing)
    for name, function in zip(TASKS, functions, strict=True):
        app.session.create_task(func=function, name=name)
    return app


def write_history(repo: Any, names: Sequence[str] = TASKS, times: int = 1) -> None:
    """Write the runs of an application that knows nothing of this project."""
    app = make_app()
    logging.getLogger("rocketry.task").handlers = [RepoHandler(repo=repo)]
    for _ in range(times):
        apps.run_tasks(app, *names, cycles=len(names))
    logging.getLogger("rocketry.task").handlers = []


def send_live(repo: Any, names: Sequence[str] = TASKS) -> None:
    """Write the runs of an application, and send them to where the environment says."""
    app = make_app()
    handler: OTelRepoHandler = instrument(app, repo=repo)
    apps.run_tasks(app, *names, cycles=len(names))
    assert handler.flush(20)
    uninstrument(app)
    handler.close()


def spans_of(receiver: OTLPReceiver) -> list[bytes]:
    """Return every span that was taken in, as bytes with its resource and scope."""
    return sorted(_bytes(one) for one in receiver.spans)


def log_records_of(receiver: OTLPReceiver) -> list[bytes]:
    """Return every log record that was taken in, as bytes with its resource and scope."""
    return sorted(_bytes(one) for one in receiver.log_records)


def _bytes(parts: Iterable[Any]) -> bytes:
    return b"\0".join(part.SerializeToString(deterministic=True) for part in parts)

"""Running the demo, from its start to its report."""

from __future__ import annotations

import asyncio
import logging
import shlex
import shutil
import sys
import tempfile
import time
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from rocketry.exc import TaskLoggingError

from rocketry_otel import RepositoryError, Settings, instrument, open_repository, uninstrument
from rocketry_otel._history.reconstruct import HistoryReader
from rocketry_otel._history.run_lookup import RunLookup
from rocketry_otel._model.event import nanoseconds
from rocketry_otel._repositories.urls import mask_url

from . import report
from .delivery import deliver
from .interrupts import Interrupts, interrupts
from .quiet import TASK_LOGGER, RunCounter, Warnings, quiet
from .screen import Screen
from .shop import open_shop
from .tasks import FAILING, LAST, make_app

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from redbird import BaseRepo

    from rocketry_otel import OTelRepoHandler
    from rocketry_otel._model.runs import Run

_TICK = 0.2
# On a slow machine the demo goes on until the pipeline has come to its end, but no longer than
# this many times the seconds.
_LONGEST = 12
_SECONDS_TO_CLOSE = 1.0
_SECONDS_TO_DELIVER_IF_INTERRUPTED = 1.0


def run_demo(*, seconds: float, repo: str | None = None, keep: bool = False) -> int:
    """Run the demo and print what it did.

    Args:
        seconds: How long tasks are started. The demo then waits for those that run.
        repo: URL of the repository; by default that of the settings, else a new file.
        keep: Whether the new file stays.

    Returns:
        The exit status: 0 if the demo came to its end; 128 and the number of the signal that ended
        it, such as 130 for Ctrl-C.

    Raises:
        RocketryOTelError: If a setting is wrong or the repository does not work.
    """
    with quiet() as warnings, interrupts() as interrupted:
        settings = Settings()
        url = repo or settings.repo
        try:
            if url is not None:
                _run_with(url, settings, seconds, warnings, interrupted)
            else:
                with _folder_of_its_own(keep=keep) as folder:
                    _run_with(
                        *(_file_in(folder), settings, seconds, warnings, interrupted),
                        is_removed=not keep,
                    )
        except KeyboardInterrupt:
            return interrupted.status
        return 0 if interrupted.number is None else interrupted.status


def _run_with(
    url: str,
    settings: Settings,
    seconds: float,
    warnings: Warnings,
    interrupted: Interrupts,
    *,
    is_removed: bool = False,
) -> None:
    """Run the demo with a repository; see ``run_demo``."""
    screen = Screen(sys.stdout)
    with open_shop() as shop:
        repository = open_repository(url)
        app = make_app(shop)
        handler = instrument(
            app,
            repo=repository,
            # The demo waits for its telemetry once. After that, a second wait has no use.
            settings=settings.copy(
                update={"shutdown_timeout": min(settings.shutdown_timeout, _SECONDS_TO_CLOSE)}
            ),
        )
        counter = RunCounter()
        logging.getLogger(TASK_LOGGER).addHandler(counter)
        try:
            _introduce(screen, app, seconds, url)
            began = time.time()
            with interrupted.noted():
                _run(app, seconds, screen, counter, interrupted)
            screen.progress("sending the queues ...")
            timeout = settings.shutdown_timeout
            if interrupted.number is not None:
                timeout = min(timeout, _SECONDS_TO_DELIVER_IF_INTERRUPTED)
            delivery = deliver(handler, timeout)
        finally:
            uninstrument(app)
            screen.clear()
        finished = interrupted.number is None
        if finished:
            _show_runs(screen, handler, began)
        else:
            screen.line(f"Interrupted; {counter.ended} runs have ended.")
    python = _this_python()
    parts = {
        "Repository": report.repository(mask_url(url), python, removed=is_removed),
        "Telemetry": report.telemetry(delivery, warnings.texts, screen.width, screen.paint),
    }
    if finished:
        parts["Next"] = report.advice(delivery, python)
    _conclude(screen, parts)


def _run(
    app: Any, seconds: float, screen: Screen, counter: RunCounter, interrupted: Interrupts
) -> None:
    try:
        asyncio.run(_serve(app, seconds, screen, counter, interrupted))
    except TaskLoggingError as error:
        reason = error.__cause__ or error
        raise RepositoryError(
            f"the repository failed: {type(reason).__name__}: {reason}"
        ) from error


async def _serve(
    app: Any, seconds: float, screen: Screen, counter: RunCounter, interrupted: Interrupts
) -> None:
    """Run the scheduler and show the progress, both on this thread.

    A second thread that prints could hold the stream's lock at the moment of a fork.
    """
    scheduler = asyncio.create_task(app.serve())
    began = time.monotonic()
    stopping = False
    while not scheduler.done():
        await asyncio.wait({scheduler}, timeout=_TICK)
        passed = time.monotonic() - began
        if interrupted.number is not None:
            app.session.shut_down(force=True)
        elif passed >= seconds * (1 if LAST in counter.tasks else _LONGEST) and not stopping:
            stopping = True
            app.session.shut_down()
        done = f"{counter.ended} runs have ended, {counter.in_flight} in progress"
        of = f"{min(passed, seconds):.0f} s of {seconds:g}"
        screen.progress(f"waiting for the last ones: {done}" if stopping else f"{of}: {done}")
    await scheduler


def _introduce(screen: Screen, app: Any, seconds: float, url: str) -> None:
    screen.line(f"A Rocketry application runs for {seconds:g} s. Its tasks:")
    for task in sorted(app.session.tasks, key=lambda task: str(task.name)):
        screen.line(f"  {task.name:<14} {task.get_execution():<8} {task.description}")
    screen.line(f"Repository: {mask_url(url)}")
    screen.line()


def _show_runs(screen: Screen, handler: OTelRepoHandler, began: float) -> None:
    repo = handler.repo
    runs = _runs(repo, began)
    for lines in (
        report.table(runs, screen.width, screen.paint),
        report.links(runs, screen.paint),
    ):
        for line in lines:
            screen.line(line)
        screen.line()
    expression = f'handler.repo.filter_by(task_name="{FAILING}", action="fail").all()'
    records = repo.filter_by(task_name=FAILING, action="fail").all()
    for line in report.query(expression, [record.dict() for record in records], screen.width):
        screen.line(line)


def _runs(repo: BaseRepo, began: float) -> list[Run]:
    """Return the runs of the records since the demo began, in the order of the records."""
    steps = (one.step for one in HistoryReader(repo, RunLookup(repo), nanoseconds(began)))
    return list(
        dict.fromkeys(step.run for step in steps if step.run and step.change in {"began", "ended"})
    )


def _conclude(screen: Screen, parts: Mapping[str, list[str]]) -> None:
    for title, lines in parts.items():
        for line in ("", screen.paint(title, "bold"), *lines):
            screen.line(line)


@contextmanager
def _folder_of_its_own(*, keep: bool) -> Iterator[str]:
    """Make a folder for the repository, and its state of delivery; remove it unless it is kept."""
    folder = tempfile.mkdtemp(prefix="rocketry-otel-demo-")
    try:
        yield folder
    finally:
        if not keep:
            shutil.rmtree(folder)


def _file_in(folder: str) -> str:
    if find_spec("sqlalchemy") is None:
        return f"csv://{quote(folder)}/tasks.csv"
    return f"sqlite:///{quote(folder)}/tasks.db"


def _this_python() -> str:
    """Return the command of this interpreter: ``python``, if that is the same."""
    found = shutil.which("python")
    if found is not None and Path(found).parent == Path(sys.executable).parent:
        return "python"
    return shlex.quote(sys.executable)

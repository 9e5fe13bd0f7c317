"""Sending the history of a repository to a collector."""

from __future__ import annotations

from datetime import datetime, timezone
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from rocketry_otel._delivery.checkpoint import FOREVER
from rocketry_otel._delivery.crash_records import CrashRecords
from rocketry_otel._delivery.state_path import repository_path, state_folder
from rocketry_otel._errors import RepositoryError, SettingsError
from rocketry_otel._export.responses import shown
from rocketry_otel._history.reconstruct import HistoryReader
from rocketry_otel._history.run_lookup import RunLookup
from rocketry_otel._model.durations import NANOSECONDS
from rocketry_otel._repositories.skipped import ignore
from rocketry_otel._runtime.suppression import suppressed
from rocketry_otel._settings import Settings

from .result import Replay, Tally
from .sending import channels, send_again

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redbird import BaseRepo

    from rocketry_otel._history.reconstruct import Reconstructed
    from rocketry_otel._repositories.skipped import OnSkipped


@suppressed()
def replay(
    repo: BaseRepo,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    task: str = "*",
    dry_run: bool = False,
    patience: float = 60.0,
    settings: Settings | None = None,
    progress: Callable[[Replay], None] | None = None,
) -> Replay:
    """Send the history in a repository to the destinations of the ``OTEL_*`` variables.

    Each record becomes the same telemetry as when it was live, with the same ids, as far as the
    model of the repository stores the fields that this needs. Metrics are not sent: a run is never
    counted again. The memory in use does not grow with the history.

    Args:
        repo: A repository that Rocketry wrote, with or without this project, of any model.
        since: Only records that were created at this time or later. Without a time zone, it is
            local time.
        until: Only records that were created at this time or before.
        task: A pattern (``*``, ``?``, ``[...]``) of the names of tasks.
        dry_run: Whether to count only, and send nothing.
        patience: Seconds without progress before this gives up.
        settings: Our own settings; without them, those of the environment.
        progress: Called now and then with the result so far, and once more at the end, even after
            an error or an interrupt.

    Returns:
        The result.

    Raises:
        SettingsError: If ``settings`` is not given and the environment has a bad value, if
            ``since`` is later than ``until``, or if the variables name no destination.
        RepositoryError: The repository cannot be read to its end.
    """
    settings = settings or Settings()
    first, last = _nanoseconds(since), _nanoseconds(until)
    if first is not None and last is not None and first > last:
        raise SettingsError(f"since ({since}) is later than until ({until})")
    tally = Tally(last, progress)
    history = chosen(repo, settings, tally, first or 0, last, task, tally.skip)
    with tally.to_the_end():
        if dry_run:
            for one in history:
                tally.add(one)
        else:
            with channels(settings, tally) as where:
                send_again(history, where, tally, patience)
    return tally.result()


def chosen(
    repo: BaseRepo,
    settings: Settings,
    tally: Tally,
    since: int,
    until: int | None,
    task: str = "*",
    on_skipped: OnSkipped = ignore,
) -> Iterator[Reconstructed]:
    """Give the records of a repository that may be sent.

    Args:
        repo: The repository.
        settings: Which tasks are exported.
        tally: Counts how far the reading is.
        since: When the oldest was created, in nanoseconds since the epoch.
        until: When the newest was created.
        task: A pattern of the names of tasks.
        on_skipped: Called for each record that cannot be read.

    Raises:
        RepositoryError: The repository cannot be read.
    """
    reader = HistoryReader(
        repo, RunLookup(repo), since, until, on_skipped, _crashes(repo, settings)
    )
    history = iter(reader)
    while True:
        try:
            one = next(history, None)
        except Exception as error:
            raise RepositoryError(f"the repository cannot be read: {shown(error)}") from error
        if one is None:
            return
        tally.reach(one.event.created)
        name = one.event.task_name or ""
        if one.event.is_task_event and settings.exports(name) and fnmatchcase(name, task):
            yield one


def _crashes(repo: BaseRepo, settings: Settings) -> CrashRecords | None:
    try:
        return CrashRecords(state_folder(repo, settings.state_dir), repository_path(repo))
    except Exception:  # noqa: BLE001  # a repository of somebody else's may raise anything
        return None


def _nanoseconds(when: datetime | None) -> int | None:
    if when is None:
        return None
    since_epoch = when.astimezone(timezone.utc) - datetime.fromtimestamp(0, timezone.utc)
    seconds = since_epoch.days * 86_400 + since_epoch.seconds
    return min(max(seconds * NANOSECONDS + since_epoch.microseconds * 1000, 0), FOREVER)

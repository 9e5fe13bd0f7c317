"""The records of a directory of JSON files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rocketry_otel._model.event import nanoseconds
from rocketry_otel._repositories.json_repo import TaskEventJSONRepo

from .base import OwnStream, Place, RecordStream, Window, fields_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from redbird.repos import JSONDirectoryRepo

    from .base import Fields, Unwanted


def stream_of(repo: JSONDirectoryRepo) -> RecordStream:
    """Return the records of a directory, of ours or of Red Bird's."""
    is_ours = isinstance(repo, TaskEventJSONRepo)
    return JSONStream(repo, repo.path) if is_ours else RedBirdJSONStream(repo, repo.path)


class JSONStream(OwnStream):
    """The records of a directory of ours, in which the names of files have their order."""

    can_go_on = True

    def read(self, window: Window, place: Place | None = None) -> Iterator[Fields]:
        """Give the fields of each record, in the order in which they were added."""
        place = place or Place()
        for name in self.repo.names():
            if place.last is None or name > place.last:
                place.pass_by(name)
                record = self.repo.read_file(name, self.on_skipped)
                fields = {} if record is None else fields_of(record)
                if fields and window.holds(fields):
                    yield fields

    def is_whole(self, window: Window, place: Place, rest: Callable[[], bool]) -> bool:
        """Return whether a reading has met all files that are there now before its place.

        The name of a file is made before the file: another process may be faster.
        """
        del window
        return place.has_met_all(self.repo.names(), rest)


class RedBirdJSONStream(RecordStream):
    """The records of a directory of Red Bird's, in which the names of files have no order."""

    def read(self, window: Window, place: Place | None = None) -> Iterator[Fields]:
        """Give the fields of each record, in the order of their times."""
        del place
        return (fields for _, fields in self._files(window))

    def remove(self, window: Window, is_unwanted: Unwanted) -> int:
        """Remove the records that are unwanted, and return how many these were."""
        removed = 0
        for path, fields in self._files(window):
            if is_unwanted(fields):
                path.unlink(missing_ok=True)
                removed += 1
        return removed

    def _files(self, window: Window) -> Iterator[tuple[Path, Fields]]:
        times = []
        for path in self.repo.path.glob("*.json"):
            data = self._data(path)
            if data is None or window.holds(data):
                # An unreadable file may be being written just now: it is read once more.
                created = None if data is None else nanoseconds(data["created"])
                times.append((created is None, created or 0, path.name))
        # By name if the times are equal, so that the order is the same each time.
        for _, _, name in sorted(times):
            path = self.repo.path / name
            data = self._data(path, self.left_out)
            fields = None if data is None else self.fields(data)
            if fields is not None and window.holds(fields):
                yield path, fields

    def _data(
        self, path: Path, on_error: Callable[[Exception], None] = lambda _: None
    ) -> dict[str, Any] | None:
        try:
            with path.open() as file:
                data: dict[str, Any] = json.load(file, **self.repo.kwds_json_load)
            data["created"]
        except FileNotFoundError:
            # Removed since the directory was read.
            return None
        except Exception as error:  # noqa: BLE001  # any content that is no record
            on_error(error)
            return None
        return data
